"""Makes `star_keras/data/fashion_mnist.npz`, the part of Fashion-MNIST that travels with the package.

The first 1,000 training and the first 200 test images of each class, in the original order, from the
four files of Debian's package `dataset-fashion-mnist`. Every run writes the same bytes:

    apt-get install dataset-fashion-mnist
    python tools/make_fashion_mnist.py

Silhouettes (one bit a pixel) and grey levels (the pixels that are not black, column by column, class
by class) are compressed apart: 7 % smaller than LZMA over the pixels as they come, 10 % smaller than
lossless WebP, and the standard library reads it.
"""

import argparse
import gzip
import lzma
import os
import pathlib

import numpy as np

SOURCE = pathlib.Path("/usr/share/datasets/fashion-mnist")
TARGET = pathlib.Path(__file__).resolve().parents[1] / "star_keras" / "data" / "fashion_mnist.npz"
SPLITS = {"train": ("train", 1000), "test": ("t10k", 200)}


def read_source(folder, prefix):
    with gzip.open(folder / f"{prefix}-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), "uint8", offset=16).reshape(-1, 28, 28)
    with gzip.open(folder / f"{prefix}-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), "uint8", offset=8)
    return images, labels


def first_of_each_class(images, labels, count):
    kept = np.sort(np.concatenate([np.flatnonzero(labels == c)[:count] for c in range(10)]))
    return images[kept], labels[kept]


def compress(array, **tuning):
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, **tuning}]
    return np.frombuffer(lzma.compress(array.tobytes(), filters=filters), "uint8")


def make(source=SOURCE, target=TARGET):
    splits = [first_of_each_class(*read_source(source, prefix), k) for prefix, k in SPLITS.values()]
    images, labels = (np.concatenate(parts) for parts in zip(*splits, strict=True))
    by_class = images[np.argsort(labels, kind="stable")]
    columns = by_class.transpose(0, 2, 1)
    rows_of_32_bits = np.packbits(np.pad(by_class > 0, ((0, 0), (0, 0), (2, 2))), axis=2)
    part = target.with_suffix(".part")
    with open(part, "wb") as file:
        np.savez(
            file,
            silhouettes=compress(rows_of_32_bits, lc=0, lp=2, pb=2),
            levels=compress(columns[columns > 0], lc=4, lp=0, pb=0),
            labels=compress(labels),
        )
    os.replace(part, target)
    return target


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=pathlib.Path, default=SOURCE)
    parser.add_argument("--target", type=pathlib.Path, default=TARGET)
    arguments = parser.parse_args()
    print(make(arguments.source, arguments.target))
