"""Do equitune, equizero and lambda-equitune make a zero-shot classifier proof against turned images?

Paper      Basu and others, Efficient Equivariant Transfer Learning (NeurIPS 2023), arXiv:2305.09900
Data       imagenette224_small at 32 px, in the folder STAR_KERAS_DATA
Command    python examples/evidence/equitune_zero_shot.py [--minutes 20]

The paper takes CLIP. Here each of five seeds trains a dual encoder of its own: the backbone of
resnet20.cifar10-1 beside a bag of words, by contrast on 1,800 upright training images of Imagenette, six
epochs, with captions from five templates. Its classifier from prompts meets the 500 validation images, the
test of this comparison, each moved by a random element of a group: quarter turns, half turns, or the mirror
that turns images upside down. "Zero-shot" is as to moved images; the classes have been seen.

Four methods, as they are and fine-tuned for one epoch on 256 moved training images: the classifier alone,
equitune, equizero (straight-through), and lambda-equitune, whose score learns from the same images first,
upright, while the encoders are frozen; then the encoder learns below the score, frozen on the features of a
frozen copy ("two stages"), or both learn ("joint"). The steps of the score and the proxy of equizero are
chosen by seed 0 on 200 training images that were held out, moved by quarter turns; the learning rate is what
every method of equitune_cnn.py chose. Every run is a line of results/equitune_zero_shot.jsonl; the same
command goes on where it stopped, takes trained encoders from the folder it keeps them in, and prints the
tables once all runs are there.
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
PIXELS, MARGIN = 32, 4
TEMPLATES = ("a photo of a {}.", "a {}.", "a picture of the {}.", "a small photo of one {}.", "this is a {}.")
GROUPS = {
    "quarter turns": sk.groups.Cyclic(4),
    "half turns": sk.groups.Cyclic(2),
    "upside down": sk.groups.Flip("height"),
}
PROXIES = ("max_value", "confidence", "entropy")
NAMES = {
    "pretrained": "classifier alone",
    "equitune": "equitune",
    "max_value": "equizero, greatest similarity",
    "confidence": "equizero, confidence",
    "entropy": "equizero, entropy",
    "equizero": "equizero",
    "lambda": "λ-equitune",
    "two stages": "λ-equitune, two stages",
    "joint": "λ-equitune, joint",
}
RATE = 1e-3  # what each method of equitune_cnn.py chose
# What is run, and with --smoke.
WHOLE = {
    "seeds": (0, 1, 2, 3, 4),
    "groups": tuple(GROUPS),
    "proxies": PROXIES,
    "steps": (100, 500),
    "tuned": ("pretrained", "equitune", "equizero", "two stages", "joint"),
}
SMALL = {
    "seeds": (0, 1),
    "groups": ("quarter turns",),
    "proxies": ("confidence",),
    "steps": (10,),
    "tuned": ("pretrained", "equizero", "joint"),
}


def run(results=str(RESULTS), folder="runs/equitune_zero_shot", minutes=None, smoke=False):
    plan = SMALL if smoke else WHOLE
    experiment = Experiment(pathlib.Path(folder), smoke)
    path, left = sk.recipes.results_file(results, "equitune_zero_shot", smoke), sk.recipes.time_left(minutes)

    def go(runs):
        rows = sk.recipes.sweep(experiment, runs, path, left())
        return rows if len(rows) == len(runs) else None

    held_out = {"group": "quarter turns", "seed": 0, "split": "validation"}
    choices = [{"stage": FROZEN, "method": proxy, "setting": None, **held_out} for proxy in plan["proxies"]]
    choices += [{"stage": FROZEN, "method": "lambda", "setting": s, **held_out} for s in plan["steps"]]
    rows = go(choices)
    if rows is None:
        return
    steps = best(rows, ["lambda"])["setting"]
    experiment.chosen = {"proxy": best(rows, plan["proxies"])["method"], "steps": steps}

    settings = {"pretrained": None, "equitune": None, **dict.fromkeys(plan["proxies"]), "lambda": steps}
    runs = compared(FROZEN, plan["groups"][:1], settings, plan["seeds"])
    few = {method: settings[method] for method in settings if method not in PROXIES}
    few[experiment.chosen["proxy"]] = None
    frozen = go(runs + compared(FROZEN, plan["groups"][1:], few, plan["seeds"]))
    settings = dict.fromkeys(plan["tuned"], RATE)
    tuned = go(compared(TUNING, plan["groups"], settings, plan["seeds"]))
    if frozen is None or tuned is None:
        return
    print_table(frozen + tuned)
    print(f"\nChosen on held-out training images: {experiment.chosen}")
    for stage, rows in ((FROZEN, frozen), (TUNING, tuned)):
        for group in plan["groups"]:
            print_verdicts(f"{stage}, {group}", [row for row in rows if row["group"] == group])


def compared(stage, groups, settings, seeds):
    """Runs on test images, with the setting of each method."""
    return [
        {"stage": stage, "method": m, "setting": settings[m], "group": g, "seed": s, "split": "test"}
        for s in seeds
        for g in groups
        for m in settings
    ]


def best(rows, methods):
    return max((row for row in rows if row["method"] in methods), key=lambda row: row["moved"])


class Experiment:
    """Called with a run's arguments, it makes a classifier proof against a group, and measures it."""

    def __init__(self, folder, smoke):
        self.folder, self.smoke, self.chosen = folder, smoke, {}
        self.epochs, self.held_out, self.count = (1, 20, 32) if smoke else (6, 200, 256)
        train, test = load("train", smoke), load("test", smoke)
        rows = np.random.default_rng(0).permutation(len(train[1]))
        self.names = train[2]
        self.train = tuple(part[rows[self.held_out :]] for part in train[:2])
        validation = tuple(part[rows[: self.held_out]] for part in train[:2])
        self.measured = {"validation": validation, "test": test[:2]}

    def __call__(self, stage, method, setting, group, seed, split):
        keras.utils.set_random_seed(seed)
        images, labels = (crop(self.measured[split][0]), self.measured[split][1])
        moved = move(GROUPS[group], images, seed)
        if stage == TUNING:
            model = self._tune(method, setting, GROUPS[group], seed)
        elif method == "lambda":
            model = self._learn_weights(GROUPS[group], seed, setting)
        else:
            model = self._wrap(method, self._classifier(seed), GROUPS[group])
        found = {"moved": share(predict(model, moved), labels)}
        if method == "pretrained":
            found["upright"] = share(predict(model, images), labels)
            return found
        found["invariance_error"] = float(model.equivariance_error(images[:8]).max())
        if model.weighting == "lambda":
            found["weight_of_upright"] = float(np.array(model.orbit_weights(images[:100]))[:, 0].mean())
        if method in ("two stages", "joint"):
            uniform = self._wrap("equitune", model.model, GROUPS[group])
            found["uniform_weights"] = share(predict(uniform, moved), labels)
        return found

    def _encoders(self, seed):
        """The dual encoder of a seed: from the folder, or trained and put there."""
        folder = self.folder / f"{'smoke_' if self.smoke else ''}seed_{seed}"
        if folder.is_dir():
            return sk.models.load(folder, part="pretraining")
        backbone = {"architecture": "resnet20", "input_shape": [PIXELS, PIXELS, 3], "stem": "cifar"}
        texts = [template.replace("{}", name) for template in TEMPLATES for name in self.names]
        words = sk.models.DualEncoder.words(texts)
        keras.utils.set_random_seed(seed)
        model = sk.models.create("dual_encoder", backbone=backbone, vocabulary=words)
        model.backbone.set_weights(sk.models.load("resnet20.cifar10-1").get_weights())
        images, labels = self.train
        token_ids = model.tokenize(texts).reshape(len(TEMPLATES), len(self.names), -1)
        batch = 32 if self.smoke else 128
        steps = self.epochs * (len(labels) // batch)
        model.compile(keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(2e-3, steps)))
        draw = np.random.default_rng((seed, 4))
        for _ in range(self.epochs):
            rows = draw.permutation(len(labels))[: len(labels) // batch * batch]
            captions = token_ids[draw.integers(len(TEMPLATES), size=len(rows)), labels[rows]]
            pairs = {"images": crop(images[rows], draw), "token_ids": captions}
            model.fit(pairs, labels[rows], batch_size=batch, verbose=0)
        sk.models.save(model, folder)
        return model

    def _classifier(self, seed):
        return sk.applications.zero_shot.from_prompts(self._encoders(seed), self.names, TEMPLATES)

    def _wrap(self, method, classifier, group, **options):
        if method == "pretrained":
            return classifier
        if method in PROXIES:
            method, options = "equizero", {"proxy": method}
        return sk.applications.zero_shot.invariant(classifier, group, method, **options)

    @functools.lru_cache(maxsize=1)  # noqa: B019 - one experiment lives as long as the process
    def _frozen_orbits(self, group, seed):
        images, labels = self._draw(seed)
        wrapper = self._wrap("lambda", self._classifier(seed), group)
        return *sk.recipes.orbit_outputs(wrapper, images), labels

    def _draw(self, seed):
        rows = np.random.default_rng((seed, 2)).permutation(len(self.train[1]))[: self.count]
        return crop(self.train[0][rows]), self.train[1][rows]

    def _learn_weights(self, group, seed, steps):
        """Stage one: the score learns by `steps` steps of 32 images, the encoders are frozen."""
        wrapper = self._wrap("lambda", self._classifier(seed), group)
        features, outputs, labels = self._frozen_orbits(group, seed)
        epochs = max(1, round(steps / np.ceil(len(labels) / 32)))
        sk.recipes.learn_orbit_weights(wrapper, features, outputs, labels, epochs, batch_size=32)
        return wrapper

    def _tune(self, method, rate, group, seed):
        images, labels = self._draw(seed)
        if method in ("two stages", "joint"):
            model = self._learn_weights(group, seed, self.chosen["steps"])
            if method == "two stages":
                frozen = self._wrap("lambda", model.model, group, frozen_features=True)
                frozen.score.set_weights(model.score.get_weights())
                frozen.score.trainable = False
                model = frozen
        else:
            name = self.chosen["proxy"] if method == "equizero" else method
            model = self._wrap(name, self._classifier(seed), group)
        fine_tune(model, move(group, images, seed), labels, rate)
        return model


def load(split, smoke):
    if smoke:
        found = sk.data.load("fashion_mnist", split=split)
        return sk.data.to_rgb(found.images[:120], PIXELS + MARGIN), found.labels[:120], found.class_names
    split = {"train": "train", "test": "val"}[split]
    return sk.data.load("imagenette224_small", split=split, size=PIXELS + MARGIN)[:3]


def crop(images, draw=None):
    """The middle of the images, or, of each, a random place and side, left or right."""
    if draw is None:
        start = MARGIN // 2
        return images[:, start : start + PIXELS, start : start + PIXELS]
    places = draw.integers(MARGIN + 1, size=(len(images), 2))
    cut = [image[y : y + PIXELS, x : x + PIXELS] for image, (y, x) in zip(images, places, strict=True)]
    return np.stack([image[:, ::-1] if draw.random() < 0.5 else image for image in cut])


def move(group, images, seed):
    """Each image moved by a random element."""
    drawn = np.random.default_rng((seed, 1)).integers(group.order, size=len(images))
    return np.array(group.orbit(images))[drawn, np.arange(len(images))]


def print_table(rows):
    columns = list(dict.fromkeys((row["stage"], row["group"]) for row in rows))
    print("\nAccuracy in % on moved test images, mean ± deviation over seeds\n")
    print(f"| method | {' | '.join(', '.join(column) for column in columns)} |")
    print("|---" * (len(columns) + 1) + "|")
    for method in dict.fromkeys(row["method"] for row in rows):
        cells = []
        for stage, group in columns:
            key = (stage, group, method)
            moved = [r["moved"] for r in rows if (r["stage"], r["group"], r["method"]) == key]
            cells.append(sk.recipes.mean_and_deviation(moved, factor=100))
        print(f"| {NAMES[method]} | {' | '.join(cells)} |")
    print("\nClassifier alone on upright images:")
    for column in columns:
        upright = [r["upright"] for r in rows if (r["stage"], r["group"]) == column and "upright" in r]
        print(f"- {', '.join(column)}: {sk.recipes.mean_and_deviation(upright, factor=100)}")


def print_verdicts(title, rows):
    """Whether the orderings of the paper hold on moved images, by bootstrap intervals over seeds."""
    scores = {row["method"]: [] for row in rows}
    for row in rows:
        scores[row["method"]].append(row["moved"])
    print(f"\n{title}:")
    zeros, lambdas = (*PROXIES, "equizero"), ("lambda", "two stages", "joint")
    pairs = [("equitune", "pretrained"), *((zero, "equitune") for zero in zeros)]
    pairs += [(one, low) for one in lambdas for low in ("equitune", *zeros)]
    for high, low in pairs:
        if high in scores and low in scores:
            found = difference(scores[low], scores[high])
            print(f"- {NAMES[high]} above {NAMES[low]}: {found.verdict}, {found:+.1f} points")
    # of frozen encoders, uniform weights are equitune itself
    for method in [method for method in ("two stages", "joint") if method in scores]:
        uniform = [row["uniform_weights"] for row in rows if row["method"] == method]
        loss = difference(scores[method], uniform)
        print(f"- uniform weights in place of the trained λ ({NAMES[method]}): {loss:+.1f} points")


if __name__ == "__main__":
    sk.recipes.command_line(run)
