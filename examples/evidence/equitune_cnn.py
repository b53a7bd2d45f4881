"""Does lambda-equitune make a pretrained CNN proof against quarter turns, better than equitune and equizero?

Paper      Basu and others, Efficient Equivariant Transfer Learning (NeurIPS 2023), arXiv:2305.09900
Data       cifar10_train45k, cifar10_test1k, in the folder STAR_KERAS_DATA
Command    python examples/evidence/equitune_cnn.py [--minutes 20]

The classifier resnet20.cifar10-1 meets the test images turned by random quarter turns: as it is (zero-shot)
and fine-tuned for one epoch on 1,024 turned training images, drawn anew by each of three seeds; the score
of lambda-equitune learns from the same images first, while the classifier is frozen, and is frozen itself,
on the features of a frozen copy, while the classifier is tuned. The budget is one of images and epochs: a
step of a wrapped classifier costs four passes. Learning rates, the steps of the score and the proxy that
equizero is tuned with are chosen on 500 other training images; the classifier was trained on these, too, so
they tell settings apart but their accuracies are too high. The score's need of data is tried with 10,000
images and fractions of them. Every run is a line of results/equitune_cnn.jsonl; the same command goes on
where it stopped and prints the tables once all runs are there.
"""

import functools
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import keras
import numpy as np
from measuring import FROZEN, TUNING, difference, fine_tune, predict, share

import star_keras as sk

RESULTS = pathlib.Path(__file__).parent / "results"
CHOOSING_SEED = 17
# What is run, and with --smoke.
WHOLE = {
    "seeds": (0, 1, 2),
    "proxies": ("entropy", "confidence", "max_value"),
    "tuned": ("pretrained", "equitune", "equizero", "lambda"),
    "steps": (100, 500, 2000),
    "rates": (1e-3, 1e-2),
    "fractions": (1.0, 0.1, 0.01, 0.001),
}
SMALL = {
    "seeds": (0, 1),
    "proxies": ("entropy",),
    "tuned": ("equitune", "lambda"),
    "steps": (100,),
    "rates": (1e-3,),
    "fractions": (1.0,),
}
NAMES = {
    "pretrained": "classifier alone",
    "equitune": "equitune",
    "entropy": "equizero, entropy",
    "confidence": "equizero, confidence",
    "max_value": "equizero, max value",
    "equizero": "equizero",
    "lambda": "λ-equitune",
}
DATA = "data"  # the stage in which the score learns from fewer and fewer images


def run(results=str(RESULTS), minutes=None, smoke=False):
    plan = SMALL if smoke else WHOLE
    experiment, left = Experiment(smoke), sk.recipes.time_left(minutes)
    path = sk.recipes.results_file(results, "equitune_cnn", smoke)

    def go(runs):
        return sk.recipes.sweep(experiment, runs, path, left())

    row = {"stage": FROZEN, "seed": CHOOSING_SEED, "split": "validation"}
    choices = [{"method": proxy, "setting": None, **row} for proxy in plan["proxies"]]
    choices += [{"method": "lambda", "setting": steps, **row} for steps in plan["steps"]]
    rows = go(choices)
    if len(rows) < len(choices):
        return rows
    steps = best(rows, ["lambda"])["setting"]
    experiment.chosen = {"proxy": best(rows, plan["proxies"])["method"], "steps": steps}

    settings = {"pretrained": None, "equitune": None, **dict.fromkeys(plan["proxies"]), "lambda": steps}
    zero_shot = compared(FROZEN, settings, plan["seeds"])
    row = {"stage": TUNING, "seed": CHOOSING_SEED, "split": "validation"}
    choices = [{"method": m, "setting": rate, **row} for m in plan["tuned"] for rate in plan["rates"]]
    zero_shot_rows, rows = go(zero_shot), go(choices)
    if len(rows) < len(choices):
        return zero_shot_rows
    settings = {method: best(rows, [method])["setting"] for method in plan["tuned"]}
    tuned = compared(TUNING, settings, plan["seeds"])
    row = {"stage": DATA, "method": "lambda", "setting": steps, "split": "test"}
    data = [{"fraction": part, "seed": seed, **row} for part in plan["fractions"] for seed in plan["seeds"]]
    tuned_rows, data_rows = go(tuned), go(data)
    if len(tuned_rows) == len(tuned):
        print_table(zero_shot_rows, tuned_rows)
        print(f"\nChosen on validation images: {experiment.chosen}, learning rates {settings}")
        print_verdicts(FROZEN, zero_shot_rows, plan["proxies"])
        print_verdicts(TUNING, tuned_rows, ["equizero"])
    if len(data_rows) == len(data):
        print_data(data_rows)
    return zero_shot_rows + tuned_rows + data_rows


def compared(stage, settings, seeds):
    """Runs on test images, with the setting of each method."""
    row = {"stage": stage, "split": "test"}
    return [{"method": m, "seed": s, "setting": settings[m], **row} for s in seeds for m in settings]


def best(rows, methods):
    return max((row for row in rows if row["method"] in methods), key=lambda row: row["turned"])


class Experiment:
    """Called with a run's arguments, it makes a model proof against turns and measures it."""

    def __init__(self, smoke):
        self.smoke, self.chosen = smoke, {}
        self.turns = sk.groups.Cyclic(4)
        train, test = load("train", smoke), load("test", smoke)
        held_out, self.tuning, self.many = (20, 32, 64) if smoke else (500, 1024, 10_000)
        rows = np.random.default_rng(0).permutation(len(train[1]))
        self.held_out = {"validation": tuple(part[rows[:held_out]] for part in train), "test": test}
        self.train = tuple(part[rows[held_out:]] for part in train)

    def __call__(self, stage, method, setting, seed, split, fraction=None):
        keras.utils.set_random_seed(seed)
        images, labels = self.held_out[split]
        turned = turn(images, seed)
        train = self._draw(seed, self.tuning)
        if stage == TUNING:
            model = self._tune(method, setting, train, seed)
        elif stage == DATA:
            model = self._learn_weights(*self._part_of_many(fraction, seed), setting)
        elif method == "lambda":
            model = self._learn_weights(*self._frozen_orbits(seed), train[1], setting)
        else:
            model = self._wrap(method, pretrained())
        guesses = predict(model, turned)
        found = {"turned": share(guesses, labels)}
        if not isinstance(model, sk.layers.EquiTune):
            found["upright"] = share(predict(model, images), labels)
            return found
        found["invariance_error"] = float(model.equivariance_error(images[:16]).max())
        if method == "lambda":
            weights = np.array(model.orbit_weights(images[:200]))
            found["weight_of_upright"] = float(weights[:, 0].mean())
            found["uniform_weights"] = share(predict(self._wrap("equitune", model.model), turned), labels)
        return found

    def _draw(self, seed, count):
        rows = np.random.default_rng((seed, 2)).permutation(len(self.train[1]))[:count]
        return self.train[0][rows], self.train[1][rows]

    def _wrap(self, method, model):
        if method == "pretrained":
            return model
        if method == "equitune":
            return sk.layers.EquiTune(model, self.turns)
        proxy = self.chosen["proxy"] if method == "equizero" else method
        return sk.layers.EquiTune(model, self.turns, weighting="argmin", score=proxy)

    @functools.lru_cache(maxsize=1)  # noqa: B019 - one experiment lives as long as the process
    def _frozen_orbits(self, seed):
        return sk.recipes.orbit_outputs(self._unweighted(), self._draw(seed, self.tuning)[0])

    @functools.lru_cache(maxsize=1)  # noqa: B019
    def _many(self):
        images, labels = self._draw(CHOOSING_SEED, self.many)
        return *sk.recipes.orbit_outputs(self._unweighted(), images), labels

    def _part_of_many(self, fraction, seed):
        rows = np.random.default_rng((seed, 3)).permutation(self.many)[: max(2, round(fraction * self.many))]
        return tuple(part[rows] for part in self._many())

    def _unweighted(self, **frozen_copy):
        score = keras.Sequential([keras.layers.Dense(100, "relu"), keras.layers.Dense(1)])
        arguments = {"score": score, "features": "features", **frozen_copy}
        return sk.layers.EquiTune(pretrained(), self.turns, weighting="lambda", **arguments)

    def _learn_weights(self, features, outputs, labels, steps):
        """Stage one: the score learns by `steps` steps of 128 images, the classifier is frozen."""
        wrapper = self._unweighted()
        epochs = 1 if self.smoke else max(1, round(steps / np.ceil(len(labels) / 128)))
        sk.recipes.learn_orbit_weights(wrapper, features, outputs, labels, epochs)
        return wrapper

    def _tune(self, method, rate, train, seed):
        images, labels = train
        if method == "lambda":
            score = self._learn_weights(*self._frozen_orbits(seed), labels, self.chosen["steps"]).score
            copy = pretrained()
            frozen = keras.Model(copy.input, copy.get_layer("features").output)
            frozen.trainable = score.trainable = False
            model = self._unweighted(score=score, features=frozen)
        else:
            model = self._wrap(method, pretrained())
        fine_tune(model, turn(images, seed), labels, rate)
        return model


def load(split, smoke):
    if smoke:
        found = sk.data.load("fashion_mnist", split=split)
        return sk.data.to_rgb(found.images[:120], 32), found.labels[:120]
    found = sk.data.load({"train": "cifar10_train45k", "test": "cifar10_test1k"}[split])
    return found.images, found.labels


def pretrained():
    """The classifier, with logits in place of its softmax: they are what the paper averages."""
    return sk.models.load("resnet20.cifar10-1", part="classifier", classifier_activation=None)


def drawn_turns(count, seed):
    return np.random.default_rng((seed, 1)).integers(4, size=count)


def turn(images, seed):
    """Each image turned by a random number of quarter turns."""
    drawn = drawn_turns(len(images), seed)
    return np.stack([np.rot90(image, turns) for image, turns in zip(images, drawn, strict=True)])


def print_table(*stages):
    print("\nAccuracy in % on test images, mean ± deviation over seeds\n")
    print("| method | stage | turned | upright |\n|---|---|---|---|")
    for rows in stages:
        for method in dict.fromkeys(row["method"] for row in rows):
            of_method = [row for row in rows if row["method"] == method]
            # A wrapped classifier is invariant, to the error of its rows: it was measured once.
            columns = (
                [row["turned"] for row in of_method],
                [row.get("upright", row["turned"]) for row in of_method],
            )
            cells = [sk.recipes.mean_and_deviation(column, factor=100) for column in columns]
            print(f"| {NAMES[method]} | {rows[0]['stage']} | {' | '.join(cells)} |")


def print_verdicts(title, rows, proxies):
    """Whether the orderings of the paper hold on turned images, by bootstrap intervals over seeds."""
    scores = {row["method"]: [] for row in rows}
    for row in rows:
        scores[row["method"]].append(row["turned"])
    print(f"\n{title}:")
    pairs = [("lambda", "equitune"), ("equitune", "pretrained"), *(("equitune", proxy) for proxy in proxies)]
    for high, low in pairs:
        if high in scores and low in scores:
            found = difference(scores[low], scores[high])
            print(f"- {NAMES[high]} above {NAMES[low]}: {found.verdict}, {found:+.1f} points")
    uniform = [row["uniform_weights"] for row in rows if row["method"] == "lambda"]
    loss = difference(scores["lambda"], uniform)
    print(f"- uniform weights in place of the trained λ: {loss:+.1f} points")


def print_data(rows):
    print("\n| images that λ learned from, of 10,000 | turned |\n|---|---|")
    for fraction in dict.fromkeys(row["fraction"] for row in rows):
        turned = [row["turned"] for row in rows if row["fraction"] == fraction]
        print(f"| {100 * fraction:g} % | {sk.recipes.mean_and_deviation(turned, factor=100)} |")


if __name__ == "__main__":
    sk.recipes.command_line(run)
