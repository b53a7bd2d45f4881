"""Do experts collapse less behind an extractor that the soft nearest neighbour loss disentangles?

Paper      Agarap and Azcarraga, Mixture of Experts with Soft Nearest Neighbor Loss (2026), arXiv:2603.26734
Data       mnist, fashion_mnist, cifar10, tiny_imagenet (200 classes at 32 px, in place of CIFAR-100);
           cifar100 where tensorflow-datasets has prepared it
Command    python examples/evidence/moe_collapse.py --data cifar10 [--minutes 10] [--full]

Sizes, optimiser and temperature are our reading of the paper, which could not be had in full: five experts,
AdamW 1e-3, batch 256, the least entangled of three taps, cosine distance, annealed temperature. A run has
6,000 training images and 12 epochs, a method ten seeds. The weight of the loss is chosen on 1,000 other
training images; test images are for the comparison alone. Every run is a line of
results/moe_collapse_DATA.jsonl; the same command goes on where it stopped. Once all runs are there it prints
the table and draws accuracy and routing of all seeds, and how alike the experts of the first seed are.
Verdicts are by p values that count all sets that are done (Holm). `--full` trains the first seed
on all images for 30 epochs, without the loss and with it, and writes results/moe_collapse_DATA_full.jsonl.
"""

import json
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import keras
import numpy as np

import star_keras as sk

RESULTS = pathlib.Path(__file__).parent / "results"
TAPS = ("conv_1", "conv_2", "code")
SEEDS = (42, 1234, 73, 1024, 86400, 31415, 2718, 30, 22, 17)
CHOOSING_SEEDS = (1, 2, 3)
WEIGHTS = (0.1, 1.0, 10.0)
METHODS = {
    "baseline": "the same network, weight 0",
    "snnl": "soft nearest neighbour loss and cross entropy together",
    "staged": "the loss alone for 12 epochs, then experts on the frozen extractor for 12",
    "no_extractor": "experts on pixels",
}
DRAWN = {
    "baseline": "cross entropy alone",
    "snnl": "with neighbour loss",
    "no_extractor": "experts on pixels",
}
# name in the rows: (its name in tables, factor, digits)
MEASURES = {
    "accuracy": ("accuracy, %", 100, 2),
    "routing_entropy": ("entropy of the gates", 1, 3),
    "utilization_entropy": ("of the mean gates", 1, 3),
    "dead_experts": ("dead experts", 1, 1),
    "expert_similarity": ("cosine of weights", 1, 3),
    "expert_output_similarity": ("of answers", 1, 3),
}
# name in the data room: (training set, test set, split of the test set, classes)
DATA = {
    "mnist": ("mnist", "mnist", "test", 10),
    "fashion_mnist": ("fashion_mnist", "fashion_mnist", "test", 10),
    "cifar10": ("cifar10_train45k", "cifar10_test1k", None, 10),
    "tiny_imagenet": ("tiny_imagenet32_train", "tiny_imagenet32_val5k", None, 200),
    "cifar100": ("cifar100", "cifar100", "test", 100),
}


def run(data="fashion_mnist", results=str(RESULTS), minutes=None, full=False, smoke=False):
    path = sk.recipes.results_file(results, f"moe_collapse_{data}", smoke)
    experiment, left = Experiment(data, smoke), sk.recipes.time_left(minutes)
    tuning, seeds = (CHOOSING_SEEDS[:1], SEEDS[:2]) if smoke else (CHOOSING_SEEDS, SEEDS)
    choices = [
        {"method": "snnl", "weight": weight, "seed": seed, "split": "validation"}
        for weight in WEIGHTS
        for seed in tuning
    ]
    rows = sk.recipes.sweep(experiment, choices, path, left())
    if len(rows) < len(choices):
        return rows
    weight = best_weight(rows)
    methods = {"baseline": 0.0, "snnl": weight, "staged": 1.0, "no_extractor": 0.0}
    if full:
        experiment, path = Experiment(data, smoke, full=True), path.with_stem(f"{path.stem}_full")
        methods, seeds = {"baseline": 0.0, "snnl": weight}, SEEDS[:1]
    compared = [
        {"method": method, "weight": weight, "seed": seed, "split": "test"}
        for seed in seeds
        for method, weight in methods.items()
    ]
    rows = sk.recipes.sweep(experiment, compared, path, left())
    if len(rows) == len(compared):
        print_table(data, methods, rows)
        if not full:
            print_verdicts(rows)
            print_over_sets(path, data)
            draw(path.with_suffix(""), rows)
    return rows


class Experiment:
    """One data set; called with a run's arguments, it trains a network and measures it.

    With an imbalance the last class has so many times fewer training images than the first, the others lie
    between on a geometric line. `full` takes all images. `network` and `router_weights` vary `moe_cnn` and
    its training.
    """

    def __init__(self, data, smoke, imbalance=1, full=False):
        if data not in DATA:
            raise ValueError(f"`data` must be one of {tuple(DATA)}. Received: data={data!r}")
        train, test, split, self.classes = DATA[data]
        train, test = sk.data.load(train), sk.data.load(test, split=split)
        count, self.epochs = (200, 1) if smoke else (len(train.labels), 30) if full else (6000, 12)
        drawn = np.random.default_rng(0).permutation(len(train.labels))
        self.train = self._images(train, long_tailed(drawn[:count], train.labels, self.classes, imbalance))
        self.held_out = {
            "validation": self._images(train, drawn[count : count + count // 6]),
            "test": self._images(test, np.arange(len(test.labels))),
        }

    @staticmethod
    def _images(split, rows):
        return sk.data.to_rgb(split.images[rows]), split.labels[rows]

    def __call__(self, method, weight, seed, split, network=None, router_weights=None):
        keras.utils.set_random_seed(seed)
        shape = self.train[0].shape[1:]
        if method == "no_extractor":
            classifier = experts_on_pixels(shape, self.classes)
        else:
            sizes = {"num_classes": self.classes, "input_shape": shape, **(network or {})}
            classifier = sk.models.create("moe_cnn", **sizes)
        trained = classifier
        if method in ("baseline", "snnl"):
            trained = sk.training.SoftNearestNeighborRegularization(
                classifier, TAPS, weight, router_weights=router_weights
            )
        if method == "staged":
            self._disentangle(classifier, weight)
        monitor = sk.callbacks.RoutingMonitor(*self.held_out[split], every=self.epochs)
        trained.compile(optimizer(), "sparse_categorical_crossentropy", metrics=["accuracy"])
        history = trained.fit(
            *self.train, batch_size=256, epochs=self.epochs, callbacks=[monitor], verbose=0
        ).history
        classifier.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
        loss, accuracy = classifier.evaluate(*self.held_out[split], batch_size=256, verbose=0)
        last = {name: values[-1] for name, values in history.items() if name not in ("loss", "accuracy")}
        matrix = sk.evaluation.expert_similarity(classifier.get_layer("experts")).matrix
        return {
            "accuracy": accuracy,
            "cross_entropy": loss,
            "training_accuracy": history["accuracy"][-1],
            **last,
            "similarity": np.round(matrix, 4).tolist(),
        }

    def _disentangle(self, classifier, weight):
        """Trains the extractor by the soft nearest neighbour loss alone, and freezes it."""
        extractor = keras.Model(classifier.input, classifier.get_layer("code").output)
        model = sk.training.SoftNearestNeighborRegularization(extractor, TAPS, weight)
        model.compile(optimizer(), lambda labels, code: 0.0 * keras.ops.sum(code, axis=-1))
        model.fit(*self.train, batch_size=256, epochs=self.epochs, verbose=0)
        extractor.trainable = False


def long_tailed(rows, labels, classes, imbalance):
    """Those of the rows that are left when class c keeps imbalance ** (-c / (classes - 1)) of its own."""
    kept = []
    for label in range(classes):
        own = rows[labels[rows] == label]
        kept.extend(own[: max(1, round(len(own) * imbalance ** (-label / (classes - 1))))])
    return rows[np.isin(rows, kept)]


def optimizer():
    return keras.optimizers.AdamW(1e-3, weight_decay=1e-5)


def experts_on_pixels(shape, classes):
    experts = sk.layers.RoutedExperts(
        classes,
        num_experts=5,
        hidden_units=(100,),
        router_units=(100,),
        batch_norm=False,
        kernel_initializer="he_normal",
        bias_initializer="zeros",
        name="experts",
    )
    images = keras.Input(shape)
    pixels = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(images))
    return keras.Model(images, keras.layers.Softmax(dtype="float32")(experts(pixels)))


def best_weight(rows):
    """The weight with the highest mean accuracy on validation images."""
    return max(WEIGHTS, key=lambda weight: np.mean([r["accuracy"] for r in rows if r["weight"] == weight]))


def values(rows, method, name):
    return np.array([row[name] for row in rows if row["method"] == method])


def print_table(data, methods, rows):
    count = len(values(rows, "snnl", "accuracy"))
    print(f"\n{data}: mean and deviation over {count} seeds, weight {methods['snnl']}\n")
    titles = " | ".join(title for title, _, _ in MEASURES.values())
    print(f"| method | {titles} |\n|---" + "|---" * len(MEASURES) + "|")
    for method in methods:
        cells = [
            sk.recipes.mean_and_deviation(values(rows, method, name), f".{digits}f", factor)
            for name, (_, factor, digits) in MEASURES.items()
        ]
        print(f"| {METHODS[method]} | " + " | ".join(cells) + " |")


def compared_by(rows, name):
    factor = MEASURES[name][1]
    return sk.evaluation.paired_comparison(
        factor * values(rows, "baseline", name), factor * values(rows, "snnl", name)
    )


def print_verdicts(rows):
    print()
    for name, (title, _, digits) in MEASURES.items():
        found = compared_by(rows, name)
        print(f"- {title}: snnl - baseline {found:+.{digits}f}, Wilcoxon p {found.wilcoxon_p:.3f}")


def print_over_sets(path, data):
    """What the loss does on every set that is done, by p values that count them all."""
    found = {}
    for name in DATA:
        other = path.with_name(path.name.replace(data, name))
        lines = other.read_text().splitlines() if other.exists() else ()
        rows = [row for row in map(json.loads, lines) if row["split"] == "test"]
        if len(values(rows, "baseline", "seed")) == len(values(rows, "snnl", "seed")) > 1:
            found[name] = rows
    for measure, (title, _, digits) in MEASURES.items():
        compared = [compared_by(rows, measure) for rows in found.values()]
        tested = sum(np.isfinite(one.wilcoxon_p) for one in compared)
        adjusted = sk.evaluation.holm([one.wilcoxon_p for one in compared])
        print(f"\n{title}, p among {tested} sets (Holm):")
        for name, one, p in zip(found, compared, adjusted, strict=True):
            print(f"- {name}: {one:+.{digits}f}, p {p:.3f}: {one.verdict if p < 0.05 else 'within noise'}")


def draw(stem, rows):
    boxes = {
        label: {
            DRAWN[method]: [scale * row[key] for row in rows if row["method"] == method] for method in DRAWN
        }
        for label, key, scale in (
            ("test accuracy, %", "accuracy", 100),
            ("entropy of the gates, nats", "routing_entropy", 1),
            ("cosine of experts' answers", "expert_output_similarity", 1),
        )
    }
    sk.plots.methods(boxes).savefig(f"{stem}_runs.png", dpi=110)
    maps = {
        f"Weights, {DRAWN[row['method']]}": np.array(row["similarity"])
        for row in rows
        if row["method"] in ("baseline", "snnl") and row["seed"] == SEEDS[0]
    }
    sk.plots.correlations(maps, label="cosine of two experts").savefig(f"{stem}_experts.png", dpi=110)


if __name__ == "__main__":
    sk.recipes.command_line(run)
