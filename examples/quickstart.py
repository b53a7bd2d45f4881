"""Quickstart: a backbone that learned from CIFAR-10 images without labels meets clothes it has never seen.

Transfers a pretrained backbone to Fashion-MNIST with 10, 30 and 100 labelled images a class, by
fine-tuning (`model.fit`) and by a linear probe on frozen features, next to the same network without its
pretrained weights. Everything it needs travels with the package; it takes about five minutes on two cores,
prints a table and draws quickstart.png.

It is not a benchmark: 2,000 test images, few seeds, one set of training options for all.

    python examples/quickstart.py [--model star-resnet20] [--picture quickstart.png]
"""

import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import keras
import matplotlib
import numpy as np

import star_keras as sk

matplotlib.use("Agg")
from matplotlib import pyplot as plt

LABELS_PER_CLASS = {10: (0, 1, 2), 30: (0, 1, 2), 100: (0,)}  # and the seeds of each
METHODS = {
    "pretrained, fine-tuned": ("#0072b2", "-", "o"),
    "pretrained, linear probe": ("#56b4e9", "--", "o"),
    "from scratch": ("#d55e00", "-", "s"),
    "random features, linear probe": ("#e69f00", "--", "s"),
}


def run(model="star-resnet20", picture="quickstart.png", epochs=10, smoke=False):
    started = time.time()
    train, test = sk.data.load("fashion_mnist"), sk.data.load("fashion_mnist", split="test")
    train_images, test_images = sk.data.to_rgb(train.images, 32), sk.data.to_rgb(test.images, 32)
    plan = {10: (0,)} if smoke else LABELS_PER_CLASS
    if smoke:
        test_images, test, epochs = test_images[:200], test._replace(labels=test.labels[:200]), 1

    # One compiled network does all the work; every run gives it its own weights to start from.
    network = sk.models.load(model, num_classes=10)
    network.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    network.optimizer.build(network.trainable_variables)
    blank = [np.asarray(variable).copy() for variable in network.optimizer.variables]

    accuracies = {name: {} for name in METHODS}
    jobs = [(count, seed) for count, seeds in plan.items() for seed in seeds]
    progress = keras.utils.Progbar(len(jobs), unit_name="run")
    for done, (count, seed) in enumerate(jobs, start=1):
        rows = choose(train.labels, count, seed)
        images, labels = train_images[rows], train.labels[rows]
        for weights, names in ((True, list(METHODS)[:2]), (False, list(METHODS)[2:])):
            keras.utils.set_random_seed(seed)
            start = sk.models.load(model, weights=weights, num_classes=10)
            network.set_weights(start.get_weights())
            for variable, value in zip(network.optimizer.variables, blank, strict=True):
                variable.assign(value)
            probed = probe_accuracy(network.backbone, images, labels, test_images, test.labels)
            network.fit(images, labels, batch_size=25, epochs=epochs, verbose=0)
            tuned = network.evaluate(test_images, test.labels, batch_size=250, verbose=0, return_dict=True)
            for name, accuracy in zip(names, (tuned["accuracy"], probed), strict=True):
                accuracies[name].setdefault(count, []).append(accuracy)
        progress.update(done)

    print_table(model, accuracies, plan)
    backbone = sk.models.load(model)
    draw(
        picture,
        model,
        accuracies,
        plan,
        test_images,
        sk.evaluation.extract_features(backbone, test_images, verbose=0),
    )
    print(f"\nThe picture is in {picture}. It took {time.time() - started:.0f} seconds.")
    return accuracies


def choose(labels, count, seed):
    """Indices of `count` images of each class."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.choice(np.flatnonzero(labels == k), count, replace=False) for k in range(10)])


def probe_accuracy(backbone, images, labels, test_images, test_labels):
    features = sk.evaluation.extract_features(backbone, images, verbose=0)
    test_features = sk.evaluation.extract_features(backbone, test_images, verbose=0)
    result = sk.evaluation.linear_probe(
        features, labels, test_features, test_labels, weights=1.0, standardize=True
    )
    return result.accuracy


def print_table(model, accuracies, plan):
    print(f"\n{model} -> Fashion-MNIST, accuracy in % on 2,000 test images (mean and range over seeds)\n")
    print("labels a class".ljust(32) + "".join(f"{count:>18}" for count in plan))
    for name, by_count in accuracies.items():
        cells = []
        for count in plan:
            values = 100 * np.array(by_count[count])
            spread = f" ({values.min():.1f}-{values.max():.1f})" if len(values) > 1 else ""
            cells.append(f"{values.mean():.1f}{spread}".rjust(18))
        print(name.ljust(32) + "".join(cells))


def draw(picture, model, accuracies, plan, images, features):
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(11, 4.6), width_ratios=(1.15, 1), layout="constrained"
    )
    counts = list(plan)
    for name, (colour, line, marker) in METHODS.items():
        values = [100 * np.array(accuracies[name][count]) for count in counts]
        means = np.array([value.mean() for value in values])
        spread = np.abs(
            [[value.min(), value.max()] - mean for value, mean in zip(values, means, strict=True)]
        )
        left.errorbar(
            counts, means, spread.T, color=colour, linestyle=line, marker=marker, capsize=3, label=name
        )
    left.set(xscale="log", xticks=counts, xlabel="labelled images a class", ylabel="test accuracy, %")
    left.set_xticks(counts, [str(count) for count in counts])
    left.minorticks_off()
    left.set_title(f"{model}: CIFAR-10 images before, Fashion-MNIST now", fontsize=11)
    left.grid(alpha=0.3)
    left.legend(frameon=False, fontsize=9)

    queries = np.linspace(0, len(images) - 1, 6).astype(int)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    order = np.argsort(-(unit[queries] @ unit.T), axis=1)[:, :7]
    tiles = [
        np.concatenate([np.pad(images[i], ((1, 1), (1, 1), (0, 0))) for i in row], axis=1) for row in order
    ]
    right.imshow(np.concatenate(tiles))
    right.axvline(33.5, color="#d55e00", linewidth=2)
    right.set_title("Nearest in feature space (query first), no labels used", fontsize=11)
    right.set_axis_off()
    figure.savefig(picture, dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    sk.recipes.command_line(run)
