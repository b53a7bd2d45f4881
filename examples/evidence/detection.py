"""Do frozen pretrained features find blood cells better than those of a network at random initialisation?

Paper      Jeon and others, Soft Task-Aware Routing of Experts (NeurIPS 2025), section 4: detection
Data       bccd_detection in the folder STAR_KERAS_DATA: 205 training, 87 validation and 72 test images
Command    python examples/evidence/detection.py [--minutes 20]

The photographs are halved twice, to 120 x 160 pixels, with their boxes. On the frozen pyramid of a
ResNet-20 a small RetinaNet learns red cells, white cells and platelets for 20 epochs. Its learning rate is
chosen for each network on validation images, seed 0; test images are for the comparison alone, three seeds
each. A seed is that of the detector, and of the random network, too, whose batch statistics see 40 batches of
training images (1.5 % of what they begin with is left). Every run is a line of results/detection.jsonl; the
same command goes on where it stopped and prints the table once all runs are there.
"""

import itertools
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import numpy as np

import star_keras as sk

RESULTS = pathlib.Path(__file__).parent / "results"
NETWORKS = {
    "star-resnet20": "STAR, 45,000 images of CIFAR-10 without labels",
    "resnet20": "supervised, the same images with labels",
    "random": "random initialisation",
}
# What is run, and with --smoke.
WHOLE = {"networks": tuple(NETWORKS), "rates": (1e-3, 2e-3), "seeds": (1, 2, 3)}
SMALL = {"networks": ("star-resnet20", "random"), "rates": (1e-3,), "seeds": (1, 2)}


def run(results=str(RESULTS), minutes=None, smoke=False):
    path, left = sk.recipes.results_file(results, "detection", smoke), sk.recipes.time_left(minutes)
    experiment, plan = Experiment(smoke), SMALL if smoke else WHOLE
    choices = [
        {"network": network, "rate": rate, "seed": 0, "split": "val"}
        for network in plan["networks"]
        for rate in plan["rates"]
    ]
    rows = sk.recipes.sweep(experiment, choices, path, left())
    if len(rows) < len(choices):
        return rows
    compared = [
        {"network": network, "rate": best_rate(rows, network), "seed": seed, "split": "test"}
        for seed in plan["seeds"]
        for network in plan["networks"]
    ]
    rows = sk.recipes.sweep(experiment, compared, path, left())
    if len(rows) == len(compared):
        print_table(plan["networks"], rows)
    return rows


class Experiment:
    """Called with a run's arguments, it trains a detector and measures it."""

    def __init__(self, smoke):
        count, self.epochs = (8, 1) if smoke else (None, 20)
        self.splits = {name: halved_twice(name, count) for name in ("train", "val", "test")}

    def __call__(self, network, rate, seed, split):
        return self.measured(self.backbone(network, seed), rate, seed, split)

    def measured(self, backbone, rate, seed, split):
        found = sk.evaluation.detection(
            backbone,
            self.splits["train"],
            self.splits[split],
            num_classes=3,
            epochs=self.epochs,
            learning_rate=rate,
            seed=seed,
            verbose=0,
        )
        return {"ap": found.ap, "ap50": found.ap50, "ap75": found.ap75, "per_class": found.per_class}

    def backbone(self, network, seed):
        images = self.splits["train"][0]
        size = {"input_shape": images.shape[1:], "stem": "strided"}
        if network != "random":
            return sk.models.load(network, **size)
        shape = sk.models.create("resnet20", **size)
        return sk.evaluation.untrained(shape, images, seed=seed, batch_size=32, steps=40)


def halved_twice(split, count=None):
    """Images of 120 x 160 pixels, their boxes and labels."""
    cells = sk.data.load("bccd_detection", split=split)
    images = cells.images[:count]
    images = images.reshape(len(images), 120, 4, 160, 4, 3).mean(axis=(2, 4)).round().astype("uint8")
    return images, [boxes / 4 for boxes in cells.boxes[:count]], cells.labels[:count]


def best_rate(rows, network):
    """The learning rate with the highest precision on validation images."""
    return max((row for row in rows if row["network"] == network), key=lambda row: row["ap"])["rate"]


def print_table(networks, rows):
    scores = {
        network: {
            name: 100 * np.array([row[name] for row in rows if row["network"] == network])
            for name in ("ap", "ap50", "ap75")
        }
        for network in networks
    }
    print("\n| frozen ResNet-20 | AP | AP50 | AP75 |\n|---|---|---|---|")
    for network, values in scores.items():
        cells = [sk.recipes.mean_and_deviation(v) for v in values.values()]
        print(f"| {NETWORKS[network]} | " + " | ".join(cells) + " |")
    for first, second in itertools.combinations(networks, 2):
        found = sk.evaluation.paired_comparison(scores[second]["ap"], scores[first]["ap"])
        print(f"AP: {first} - {second} {found:+.1f}, {found.verdict}")


if __name__ == "__main__":
    sk.recipes.command_line(run)
