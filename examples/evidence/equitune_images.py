"""Do the orderings of equitune hold for other pretrained networks, for cells that have no upright, at 224 px?

Paper      Basu and others, Efficient Equivariant Transfer Learning (NeurIPS 2023), arXiv:2305.09900
Data       cifar10_train45k, cifar10_test1k, bccd_detection, imagenette224_small, weights_resnet56_cifar10 and
           weights_efficientnet_lite0_imagenet, in the folder STAR_KERAS_DATA
Command    python examples/evidence/equitune_images.py [--tasks cells] [--minutes 20]

What equitune_cnn.py asks of resnet20.cifar10-1, asked of four other kinds of classifier: ResNet-56 with
published weights; a self-supervised backbone, frozen, below a linear layer that was fitted to 4,000 upright
images; the backbone of resnet20.cifar10-1 below a linear layer for blood cells, cut out of the training
photographs by their boxes and brought to 32 px, of which none is upright; and EfficientNet-Lite0, whose
thousand classes hold the ten of Imagenette. Test images are turned by random quarter turns; "upright" cells
are cells as they lie.

Zero-shot, a network is asked once about the four turns of each image and all methods share its answers: they
wrap a network that reads them from memory, and four images of every run are compared with the wrapper of the
network itself. The score of lambda-equitune learns from 1,024 images that are not turned. The seed draws them
of 2,000 training images that no linear layer was fitted to (ResNet-56 and EfficientNet were trained on them),
or of all cells of the validation photographs. Fine-tuned are ResNet-56 and the STAR ResNet-20 with its layer,
by one epoch of the same 1,024 images, turned; a step of EfficientNet takes too long. Nothing is chosen here:
the steps of the score, the learning rate and the proxy that equizero is tuned with are those that
equitune_cnn.py chose, and the score has one layer of 100 units; a linear one and one of three such layers are
tried beside it. A seed is that of the turns, the draw and the score; intervals are of ten parts of the test
images, each the mean of its seeds. Of Imagenette's images EfficientNet may have been trained on many, those
of the test among them. Every run is a line of results/equitune_images.jsonl; the same command goes on where
it stopped and prints the tables of what is there.
"""

import functools
import os
import pathlib
import typing

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import converted
import keras
import numpy as np
from equitune_cnn import NAMES, drawn_turns, load, print_verdicts, turn
from measuring import FROZEN, TUNING, difference, fine_tune, predict, share
from transfer import crops

import star_keras as sk

RESULTS = pathlib.Path(__file__).parent / "results"
STEPS, RATE, PROXY = 500, 1e-3, "max_value"  # what equitune_cnn.py chose
TASKS = {
    "resnet56": "ResNet-56, CIFAR-10",
    "star-resnet20": "STAR ResNet-20, linear layer, CIFAR-10",
    "star-resnet18": "STAR ResNet-18, linear layer, CIFAR-10",
    "cells": "ResNet-20 of CIFAR-10, linear layer, blood cells",
    "efficientnet_lite0": "EfficientNet-Lite0, Imagenette at 224 px",
}
SCORES = {"linear": (), "one layer": (100,), "three layers": (100, 100, 100)}
USUAL = "one layer"
# What is run, and with --smoke.
WHOLE = {
    "tasks": tuple(TASKS),
    "seeds": (0, 1, 2),
    "proxies": ("entropy", "confidence", "max_value"),
    "scores": tuple(SCORES),
    "tuned": ("resnet56", "star-resnet20"),
    "tuned_methods": ("pretrained", "equitune", PROXY, "lambda"),
}
SMALL = {
    "tasks": ("star-resnet20",),
    "seeds": (0, 1),
    "proxies": ("max_value",),
    "scores": ("linear", "one layer"),
    "tuned": ("star-resnet20",),
    "tuned_methods": ("lambda",),
}
PARTS = 10  # of the test images, which verdicts are drawn from
TURNS = sk.groups.Cyclic(4)
# To turn an image is to move the members of its orbit along.
MOVES_OF_ORBITS = sk.groups.Permutation([[(place - move) % 4 for place in range(4)] for move in range(4)], -2)


def run(results=str(RESULTS), tasks="all", minutes=None, smoke=False):
    plan = SMALL if smoke else WHOLE
    names = plan["tasks"] if tasks == "all" else tasks.split(",")
    if not set(names) <= set(TASKS):
        raise ValueError(f"`tasks` must be of {', '.join(TASKS)}, or all. Received: {tasks!r}")
    runs = [one for task in names for one in runs_of(task, plan)]
    path = sk.recipes.results_file(results, "equitune_images", smoke)
    rows = sk.recipes.sweep(Experiment(smoke), runs, path, minutes)
    compared = comparisons(rows)
    print_table(compared, ["pretrained", "equitune", *plan["proxies"], "lambda"])
    print_scores(rows, plan["scores"])
    for title, found in compared.items():
        methods = {row["method"] for row in found}
        if "lambda" in methods and len(found) == len(methods) * len(plan["seeds"]):
            print_verdicts(title, by_parts(found), plan["proxies"])
    return rows


def runs_of(task, plan):
    settings = [(FROZEN, method, None) for method in ("pretrained", "equitune", *plan["proxies"])]
    settings += [(FROZEN, "lambda", score) for score in plan["scores"]]
    if task in plan["tuned"]:
        settings += [(TUNING, m, USUAL if m == "lambda" else None) for m in plan["tuned_methods"]]
    return [
        {"task": task, "stage": stage, "method": method, "score": score, "seed": seed}
        for stage, method, score in settings
        for seed in plan["seeds"]
    ]


class Known(typing.NamedTuple):
    """A network, images and labels, and what it says of the four turns of each: features and answers."""

    network: keras.Model
    train: tuple
    test: tuple
    train_orbits: tuple
    test_orbits: tuple


class Experiment:
    """Called with a run's arguments, it makes a network proof against turns and measures it."""

    def __init__(self, smoke):
        self.smoke, self.count = smoke, 32 if smoke else 1024

    def __call__(self, task, stage, method, score, seed):
        known = self._know(task)
        keras.utils.set_random_seed(seed)
        rows = np.random.default_rng((seed, 2)).permutation(len(known.train[1]))[: self.count]
        learned = self._learn_score(known, rows, SCORES[score]) if score else None
        if stage == FROZEN:
            return zero_shot(known, method, learned, seed)
        return fine_tuned(known, rows, method, learned, seed)

    @functools.lru_cache(maxsize=1)  # noqa: B019 - one experiment lives as long as the process
    def _know(self, task):
        keras.utils.set_random_seed(0)
        make = {"cells": cells, "efficientnet_lite0": imagenette}.get(task, functools.partial(cifar10, task))
        network, train, test = make(self.smoke)
        tap = wrap(network, TURNS, "lambda", keras.layers.Dense(1))
        orbits = [sk.recipes.orbit_outputs(tap, images, batch_size=64) for images, _ in (train, test)]
        return Known(network, train, test, *orbits)

    def _learn_score(self, known, rows, hidden_units):
        hidden = [keras.layers.Dense(units, "relu") for units in hidden_units]
        wrapper = wrap(known.network, TURNS, "lambda", keras.Sequential([*hidden, keras.layers.Dense(1)]))
        features, answers = (part[rows] for part in known.train_orbits)
        epochs = 1 if self.smoke else round(STEPS / np.ceil(len(rows) / 128))
        sk.recipes.learn_orbit_weights(wrapper, features, answers, known.train[1][rows], epochs)
        return wrapper.score


def zero_shot(known, method, score, seed):
    (images, labels), (model, orbits) = known.test, recall(known.test_orbits, method, score)
    moved = np.array(MOVES_OF_ORBITS.orbit(orbits))[drawn_turns(len(labels), seed), np.arange(len(labels))]
    wrapper = wrap(known.network, TURNS, method, score)
    found = measure(model, orbits, moved, labels)
    expected = np.array(wrapper(turn(images, seed)[:4]))
    found["memory_error"] = float(np.abs(model(moved[:4]) - expected).max() / np.abs(expected).max())
    return {**found, **invariance(wrapper, images)}


def fine_tuned(known, rows, method, score, seed):
    features, (images, labels) = None, known.test
    if method == "lambda":
        copy = copied(known.network)
        features = keras.Model(copy.input, copy.get_layer("features").output)
        features.trainable = score.trainable = False
    model = wrap(copied(known.network), TURNS, method, score, features)
    train_images, train_labels = (part[rows] for part in known.train)
    fine_tune(model, turn(train_images, seed), train_labels, RATE)
    return {**measure(model, images, turn(images, seed), labels), **invariance(model, images)}


def measure(model, upright, turned, labels):
    guesses, found = {"turned": predict(model, turned)}, {}
    if not isinstance(model, sk.layers.EquiTune):
        guesses["upright"] = predict(model, upright)
    elif model.weighting == "lambda":
        found["weight_of_upright"] = float(np.array(model.orbit_weights(upright[:200]))[:, 0].mean())
        guesses["uniform_weights"] = predict(wrap(model.model, model.group, "equitune"), turned)
    return {**accuracies(guesses, labels), **found}


def invariance(model, images):
    if not isinstance(model, sk.layers.EquiTune):
        return {}
    return {"invariance_error": float(model.equivariance_error(images[:4]).max())}


def wrap(network, group, method, score=None, features="features"):
    if method == "pretrained":
        return network
    if method == "equitune":
        return sk.layers.EquiTune(network, group)
    if method == "lambda":
        return sk.layers.EquiTune(network, group, weighting="lambda", score=score, features=features)
    return sk.layers.EquiTune(network, group, weighting="argmin", score=method)


def recall(known_orbits, method, score):
    """The wrapper with a network that reads the first member of an orbit, and orbits to be read."""
    features, _ = known_orbits
    orbits, width = np.concatenate(known_orbits, axis=-1), features.shape[-1]
    orbit = keras.Input(orbits.shape[1:])
    network = keras.Model(orbit, orbit[:, 0, width:])
    return wrap(network, MOVES_OF_ORBITS, method, score, keras.Model(orbit, orbit[:, 0, :width])), orbits


def copied(network):
    copy = keras.models.clone_model(network)
    copy.set_weights(network.get_weights())
    return copy


def cifar10(name, smoke):
    """The network, upright training images that no linear layer saw, and test images."""
    images, labels = load("train", smoke)
    rows = np.random.default_rng(0).permutation(len(labels))
    fitted, rest = np.split(rows[: 100 if smoke else 6000], [60 if smoke else 4000])
    if name == "resnet56":
        network = converted.resnet56()
    else:
        network = with_linear_layer(sk.models.load(name), images[fitted], labels[fitted])
    return network, (images[rest], labels[rest]), load("test", smoke)


def cells(smoke):
    train, *others = [crops(split, 60 if smoke else None) for split in ("train", "val", "test")]
    return with_linear_layer(sk.models.load("resnet20.cifar10-1"), *train), *others


def imagenette(smoke):
    """All images, with the numbers that their classes have among a thousand."""
    numbers = converted.published("imagenette224_small")["imagenet_index"]
    splits = [sk.data.load("imagenette224_small", split=split) for split in ("train", "val")]
    sets = [(split.images[:: 50 if smoke else 1], split.labels[:: 50 if smoke else 1]) for split in splits]
    return converted.efficientnet_lite0(), *((images, numbers[labels]) for images, labels in sets)


def with_linear_layer(backbone, images, labels):
    """A classifier: the frozen backbone, standardised features, a linear layer fitted to them."""
    features = sk.evaluation.extract_features(backbone, images, verbose=0)
    standardise = keras.layers.Normalization(mean=features.mean(axis=0), variance=features.var(axis=0))
    head = keras.Sequential(
        [keras.Input(features.shape[1:]), standardise, keras.layers.Dense(int(labels.max()) + 1)]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    head.compile(keras.optimizers.Adam(3e-3), loss)
    head.fit(features, labels, batch_size=128, epochs=20, verbose=0)
    return keras.Model(backbone.input, head(backbone.output))


def accuracies(guesses, labels):
    """Of each kind of guesses the share that is right and that of every part; and as averages of classes."""
    found = {}
    for name, measure in (("all", share), ("class_average", class_average)):
        found[name] = {kind: measure(guess, labels) for kind, guess in guesses.items()}
        found[name]["parts"] = {
            kind: [measure(guess[part::PARTS], labels[part::PARTS]) for part in range(PARTS)]
            for kind, guess in guesses.items()
        }
    return {**found.pop("all"), **found}


def class_average(guesses, labels):
    return float(np.mean([share(guesses[labels == one], one) for one in np.unique(labels)]))


def comparisons(rows):
    """`{title: rows}` of each task and stage; where classes are unbalanced, their average, too."""
    found = {}
    for row in rows:
        title = f"{TASKS[row['task']]}, {row['stage']}"
        if row["score"] in (None, USUAL):
            found.setdefault(title, []).append(row)
            if row["task"] == "cells":
                averaged = {**row, **row["class_average"]}
                found.setdefault(f"{title}, class average", []).append(averaged)
    return found


def by_parts(rows):
    """A row for each method and part of the test images: means over seeds, with which most do not vary."""
    return [
        {"method": method}
        | {
            kind: np.mean([row["parts"][kind][part] for row in rows if row["method"] == method])
            for kind in next(row["parts"] for row in rows if row["method"] == method)
        }
        for method in dict.fromkeys(row["method"] for row in rows)
        for part in range(PARTS)
    ]


def print_table(compared, methods):
    print("\nAccuracy in % on test images, turned but for the first column, mean ± deviation over seeds\n")
    print(f"| | classifier alone, upright | {' | '.join(NAMES[method] for method in methods)} |")
    print("|---" * (len(methods) + 2) + "|")
    for title, rows in compared.items():
        columns = [[row["upright"] for row in rows if "upright" in row]]
        columns += [[row["turned"] for row in rows if row["method"] == method] for method in methods]
        print(f"| {title} | {' | '.join(map(cell, columns))} |")


def print_scores(rows, scores):
    """Accuracy by what the score is made of, and what it weighs upright members with."""
    print(f"\n| λ-equitune, {FROZEN}: score | {' | '.join(scores)} | {USUAL}, weight of the upright |")
    print("|---" * (len(scores) + 2) + "|")
    verdicts = []
    for task in dict.fromkeys(row["task"] for row in rows):
        of_task = [row for row in rows if row["task"] == task and row["stage"] == FROZEN]
        turned = {score: [row["turned"] for row in of_task if row["score"] == score] for score in scores}
        weights = [row["weight_of_upright"] for row in of_task if row["score"] == USUAL]
        print(f"| {TASKS[task]} | {' | '.join(map(cell, (*turned.values(), weights)))} |")
        for score in scores:
            if score != USUAL and len(turned[score]) == len(turned[USUAL]) > 1:
                found = difference(turned[USUAL], turned[score])
                verdicts.append(
                    f"- {TASKS[task]}: {score} above {USUAL}: {found.verdict}, {found:+.1f} points"
                )
    print("\n" + "\n".join(verdicts))


def cell(values):
    return sk.recipes.mean_and_deviation(values, factor=100)


if __name__ == "__main__":
    sk.recipes.command_line(run)
