"""Makes the two sets of CIFAR-10 that recipes, cards and tests name, from `keras.datasets.cifar10`.

`cifar10_train45k.npz` holds the first 45,000 training images in the order of the original batches,
`cifar10_test1k.npz` the first 1,000 test images. Both are compared with what the published weights were
trained and measured on, pixel by pixel, by their hashes:

    python tools/make_cifar10.py ./data
    export STAR_KERAS_DATA=./data
"""

import argparse
import hashlib
import os
import pathlib

import keras
import numpy as np

CLASS_NAMES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"
)  # fmt: skip
# name: (split, images, SHA-256 of their pixels and then of their labels, one byte each)
SETS = {
    "cifar10_train45k": ("train", 45_000, "cbfb41477166db059d6fd2e52036205b55e8255ae92bfefe32c082a4644b6de0"),
    "cifar10_test1k": ("test", 1_000, "3bbdff8a1946fbed0a833aaf37c6ffbb3d391356d3e79d47a8030d5ee93186db"),
}


def fingerprint(images, labels):
    pixels = np.ascontiguousarray(images, "uint8").tobytes()
    return hashlib.sha256(pixels + np.asarray(labels).astype("uint8").tobytes()).hexdigest()


def make(folder):
    """Writes both files and returns `{name: whether it is the set of the published weights}`."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    sides = dict(zip(("train", "test"), keras.datasets.cifar10.load_data(), strict=True))
    same = {}
    for name, (split, count, published) in SETS.items():
        images, labels = (array[:count] for array in sides[split])
        part = folder / f".{name}.part"
        with open(part, "wb") as file:
            arrays = {f"x_{split}": images, f"y_{split}": labels, "class_names": np.array(CLASS_NAMES)}
            np.savez_compressed(file, **arrays)
        os.replace(part, folder / f"{name}.npz")
        same[name] = fingerprint(images, labels) == published
    return same


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path, help="that STAR_KERAS_DATA is to name")
    arguments = parser.parse_args()
    for name, same in make(arguments.folder).items():
        told = (
            "the images of the published weights" if same else "other images than the published weights saw"
        )
        print(f"{arguments.folder / name}.npz: {told}")
