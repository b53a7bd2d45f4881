"""Do features that were learned on CIFAR-10 read other images better than those of random initialisation?

Paper      Jeon and others, Soft Task-Aware Routing of Experts (NeurIPS 2025), section 4: transfer
Data       fashion_mnist travels with the package; mnist, tiny_imagenet32_train, tiny_imagenet32_val5k,
           imagenette224_small, hymenoptera160 and bccd_detection in the folder STAR_KERAS_DATA
Command    python examples/evidence/transfer.py [--minutes 20]

All images are brought to 32 x 32 colour pixels: of Tiny ImageNet the first twenty classes, of MNIST the first
2,000 test images, of photographs of blood the cells, of three kinds, cut out by their boxes; there accuracy
is the average of classes. A linear probe is fitted to the frozen features of at most 4,000 training images;
its decay is chosen on a tenth of them. A seed draws the images and that tenth and initialises the random
network, whose batch statistics see 40 batches of training images (1.5 % of what they begin with is left).
Nothing was chosen on test images. Every run is a line of results/transfer.jsonl; the same command goes on
where it stopped and prints the table of what is there.
"""

import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import numpy as np
from PIL import Image

import star_keras as sk

RESULTS = pathlib.Path(__file__).parent / "results"
# Presets, and the one whose shape a random network takes.
NETWORKS = {
    "star-resnet18": "ResNet-18, STAR",
    "random like star-resnet18": "ResNet-18, random",
    "star-resnet20": "ResNet-20, STAR",
    "resnet20": "ResNet-20, supervised",
    "random like star-resnet20": "ResNet-20, random",
}
# (pretrained, compared with)
PAIRS = (
    ("star-resnet18", "random like star-resnet18"),
    ("star-resnet20", "random like star-resnet20"),
    ("star-resnet20", "resnet20"),
    ("star-resnet18", "resnet20"),
)
# name: ((training set, split), (test set, split), classes)
DATA = {
    "Fashion-MNIST": (("fashion_mnist", "train"), ("fashion_mnist", "test"), 10),
    "Imagenette": (("imagenette224_small", "train"), ("imagenette224_small", "val"), 10),
    "Tiny ImageNet": (("tiny_imagenet32_train", None), ("tiny_imagenet32_val5k", None), 20),
    "MNIST": (("mnist", "train"), ("mnist", "test"), 10),
    "Hymenoptera": (("hymenoptera160", "train"), ("hymenoptera160", "val"), 2),
    "Cells": (("bccd_detection", "train"), ("bccd_detection", "test"), 3),
}
COUNT, TEST_COUNT, SEEDS = 4000, 2000, (0, 1, 2)


def run(results=str(RESULTS), minutes=None, smoke=False):
    networks, data, seeds = tuple(NETWORKS), tuple(DATA), SEEDS
    if smoke:
        networks, data, seeds = networks[2:], data[:1], seeds[:2]
    runs = [
        {"data": name, "network": network, "seed": seed}
        for network in networks
        for name in data
        for seed in seeds
    ]
    experiment = Experiment(count=100 if smoke else COUNT, test_count=100 if smoke else TEST_COUNT)
    rows = sk.recipes.sweep(experiment, runs, sk.recipes.results_file(results, "transfer", smoke), minutes)
    print_table(rows, networks, data)
    return rows


class Experiment:
    """Called with a run's arguments, it probes the features of a network."""

    def __init__(self, count, test_count):
        self.count, self.test_count = count, test_count
        self.images = {}

    def __call__(self, data, network, seed):
        backbone = sk.models.load(network.split()[-1])
        if network.startswith("random"):
            images = self._drawn(data, seed)[0]
            backbone = sk.evaluation.untrained(backbone, images, seed=seed, batch_size=256, steps=40)
        return self.probe(backbone, data, seed)

    def probe(self, backbone, data, seed):
        """Accuracy on a set's test images of a probe of a frozen backbone's features."""
        images, labels = self._drawn(data, seed)
        test_images, test_labels = self._sets(data)[1]
        probe = sk.evaluation.linear_probe(
            sk.evaluation.extract_features(backbone, images, verbose=0),
            labels,
            sk.evaluation.extract_features(backbone, test_images, verbose=0),
            test_labels,
            weights=np.logspace(-1, 4, 11),
            metric="class_average" if data == "Cells" else "top1",
            standardize=True,
            seed=seed,
        )
        found = {"accuracy": probe.accuracy, "weight": probe.weight, "floor": probe.floor}
        return {**found, "num_train": len(images), "num_test": len(test_images)}

    def _drawn(self, data, seed):
        images, labels = self._sets(data)[0]
        rows = np.random.default_rng(seed).permutation(len(images))[: self.count]
        return images[rows], labels[rows]

    def _sets(self, data):
        if data not in self.images:
            train, test, num_classes = DATA[data]
            self.images[data] = [
                colour(*one, num_classes, limit) for one, limit in ((train, None), (test, self.test_count))
            ]
        return self.images[data]


def colour(name, split, num_classes, limit):
    """Colour images of 32 x 32 pixels and their labels, of the first classes alone."""
    if name == "bccd_detection":
        return crops(split, limit)
    found = sk.data.load(name, split=split, size=None if "mnist" in name else 32)
    rows = np.flatnonzero(found.labels < num_classes)[:limit]
    return sk.data.to_rgb(found.images[rows], 32), found.labels[rows]


def crops(split, limit=None):
    """Squares around the boxes of photographs of blood, brought to 32 x 32 pixels, and the kinds of cells."""
    found = sk.data.load("bccd_detection", split=split)
    pairs = zip(found.images, found.boxes, strict=True)
    squares = [crop(image, box) for image, boxes in pairs for box in boxes][:limit]
    return np.stack(squares), np.concatenate(found.labels)[: len(squares)]


def crop(image, box):
    left, top, right, bottom = box
    side = max(right - left, bottom - top)
    corner = [
        np.clip((low + high - side) / 2, 0, length - side)
        for low, high, length in ((left, right, image.shape[1]), (top, bottom, image.shape[0]))
    ]
    square = (*corner, corner[0] + side, corner[1] + side)
    return np.array(Image.fromarray(image).resize((32, 32), box=tuple(map(float, square))))


def print_table(rows, networks, data):
    accuracies = {
        (network, name): 100 * np.array([row["accuracy"] for row in rows if cell(row) == (network, name)])
        for network in networks
        for name in data
    }
    print("\n| linear probe, % | " + " | ".join(data) + " |\n" + "|---" * (len(data) + 1) + "|")
    for network in networks:
        found = [accuracies[network, name] for name in data]
        cells = [sk.recipes.mean_and_deviation(values) for values in found]
        print(f"| {NETWORKS[network]} | " + " | ".join(cells) + " |")
    for one, other in PAIRS:
        for name in data:
            first, second = accuracies.get((one, name), ()), accuracies.get((other, name), ())
            if len(first) == len(second) > 1:
                found = sk.evaluation.paired_comparison(second, first)
                print(f"{name}: {one} - {other} {found:+.1f}, {found.verdict}")


def cell(row):
    return row["network"], row["data"]


if __name__ == "__main__":
    sk.recipes.command_line(run)
