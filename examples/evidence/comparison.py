"""Do softly routed experts transfer better, follow augmentations better, and repeat themselves less?

Paper      Jeon and others, Soft Task-Aware Routing of Experts (NeurIPS 2025), arXiv:2510.27222, section 4
Data       cifar10_train45k, bccd_detection and the sets of transfer.py, in the folder STAR_KERAS_DATA
Command    python examples/evidence/comparison.py [--minutes 60]

Every method pretrains a ResNet-20 on the first 15,000 images of CIFAR-10 for 12 epochs, with the views, rate,
batch and width of heads of the recipe star-resnet20; none was tuned for another method. Measured are, on
5,000 other training images of CIFAR-10, which no method has seen: a linear probe, how well views can be
predicted, what both embeddings and what experts have in common, and who works for which task; then probes of
six other sets, and problems of five classes of Tiny ImageNet. EquiMod-like heads are separate; they predict
the shift of an embedding, as the paper's method does, or the embedding itself, as EquiMod did. Every run is a
line of results/comparison.jsonl; the same command goes on where it stopped, within a run too, prints tables
and verdicts of what is there, and draws them. Correlations are canonical, mean of all directions, as a share
of what lies between chance (0) and equality (1). With three seeds an interval reaches from the least to the
greatest difference: of eight verdicts without any effect one says "confirmed".
"""

import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import keras
import numpy as np
import transfer

import star_keras as sk

RESULTS = pathlib.Path(__file__).parent / "results"
# name: (name in tables, experts, routing, weights of both losses, whether shifts are predicted)
METHODS = {
    "simclr": ("SimCLR", 1, "learned", (1.0, 0.0), True),
    "equivariance": ("equivariance only", 1, "learned", (0.0, 1.0), True),
    "direct": ("EquiMod-like, direct", 2, "separate", (1.0, 1.0), False),
    "separate": ("EquiMod-like, shifts", 2, "separate", (1.0, 1.0), True),
    "shared": ("STAR-SS", 3, "shared", (1.0, 1.0), True),
    **{f"star {n}": (f"STAR, {n} experts", n, "learned", (1.0, 1.0), True) for n in (2, 4, 8, 16)},
}
ROUTED = [method for method in METHODS if method.startswith("star")]
# (higher, lower) in the orderings that the paper reports; its own method with the experts of star-resnet20.
PAIRS = (
    ("star 8", "separate"),
    ("star 8", "direct"),
    ("star 8", "shared"),
    ("star 8", "simclr"),
    ("separate", "simclr"),
    ("star 16", "star 2"),
)
# measure: (its name in tables, factor, digits); more is better, but of an error and of correlations.
MEASURES = {
    "probe": ("CIFAR-10, %", 100, 1),
    "transfer": ("other sets, %", 100, 1),
    "five_shots": ("five shots, %", 100, 1),
    "mrr": ("MRR", 1, 3),
    "error": ("prediction error", 1, 3),
    "r2": ("R² of parameters", 1, 3),
    "tasks": ("correlation of tasks", 1, 3),
    "experts": ("correlation of experts", 1, 3),
}
LESS_IS_BETTER = ("error", "tasks", "experts")
WHOLE = {"methods": tuple(METHODS), "seeds": (0, 1, 2), "sets": tuple(transfer.DATA)}
SMALL = {"methods": ("simclr", "star 8"), "seeds": (0, 1), "sets": ("Fashion-MNIST",)}
QUERIES, NEIGHBORS = 6, 5


def run(results=str(RESULTS), folder="runs/comparison", minutes=None, precision="auto", smoke=False):
    plan = SMALL if smoke else WHOLE
    experiment = Experiment(folder, plan["sets"], smoke)
    shared = {"precision": sk.recipes.set_precision(precision)}
    runs = [
        {"method": method, "seed": seed, **shared} for seed in plan["seeds"] for method in plan["methods"]
    ]
    path = sk.recipes.results_file(results, "comparison", smoke)
    rows = sk.recipes.sweep(experiment, runs, path, minutes)
    print_tables(rows, plan["sets"])
    print_verdicts(rows)
    draw(rows, path.with_suffix(""))
    return rows


class Experiment:
    """Called with a run's arguments, it pretrains a network and takes every measure of it."""

    def __init__(self, folder, sets, smoke):
        self.folder, self.sets, self.smoke = pathlib.Path(folder), sets, smoke
        self.epochs, self.batch_size, self.width = (1, 32, 16) if smoke else (12, 256, 64)
        count, unseen = (96, 400) if smoke else (15_000, 5_000)
        name = "fashion_mnist" if smoke else "cifar10_train45k"
        known = sk.data.load(name)
        images = sk.data.to_rgb(known.images, 32)
        self.seen = images[:count], known.labels[:count]
        self.unseen = images[-unseen:], known.labels[-unseen:]
        tiny = None if smoke else sk.data.load("tiny_imagenet32_val5k")
        self.problems = self.unseen if smoke else (tiny.images, tiny.labels)
        count, test_count = (60, 60) if smoke else (transfer.COUNT, transfer.TEST_COUNT)
        self.transfer = transfer.Experiment(count, test_count)

    def __call__(self, method, seed, precision):
        keras.config.set_dtype_policy(precision)
        model, history = self._pretrained(method, seed)
        found = {"losses": {key: values[-1] for key, values in history.items()}}
        found |= self._measures(model, METHODS[method], seed)
        found["sets"] = {
            name: self.transfer.probe(model.backbone, name, seed)["accuracy"] for name in self.sets
        }
        found["transfer"] = float(np.mean(list(found["sets"].values())))
        for name, shots in (("one_shot", 1), ("five_shots", 5)):
            found[name] = self._few_shot(model.backbone, shots, seed)
        return found | {"neighbors": self._neighbors(model, method)} if seed == 0 else found

    def _pretrained(self, method, seed):
        """A model in float32, whatever it was trained in, and the history."""
        keras.utils.set_random_seed(seed)
        model, images = self._model(method, seed), self.seen[0]
        schedule = keras.optimizers.schedules.CosineDecay(
            0.06, self.epochs * (len(images) // self.batch_size)
        )
        model.compile(keras.optimizers.SGD(schedule, momentum=0.9, weight_decay=5e-3))
        folder = self.folder / f"{'smoke ' if self.smoke else ''}{method} {seed}"
        history = sk.recipes.pretrain(model, images, self.seen, folder, self.epochs, self.batch_size, seed)
        keras.config.set_dtype_policy("float32")
        exact = self._model(method, seed)
        exact.set_weights(model.get_weights())
        return exact, history

    def _model(self, method, seed):
        _, num_experts, routing, (invariance, equivariance), shifts = METHODS[method]
        # The backbone first: of one seed it is the same for all methods.
        backbone = sk.models.create("resnet20", input_shape=(32, 32, 3))
        views, predictor = sk.augmentation.star_views(32), None
        if not shifts:
            mean, std = (moment.tolist() for moment in views.moments((32, 32, 3)))
            predictor = sk.layers.EquivariantPredictor(residual=False, offset=mean, scale=std)
        model = sk.training.STARPretraining(
            backbone=backbone,
            augmentation=views,
            projector=sk.layers.RoutedExperts(
                128,
                num_experts,
                tasks=("invariant", "equivariant"),
                hidden_units=(self.width, self.width),
                routing=routing,
            ),
            predictor=predictor,
            invariance_weight=invariance,
            equivariance_weight=equivariance,
            seed=seed,
        )
        model.build(self.seen[0].shape)
        return model

    def _measures(self, model, method, seed):
        sizes = (
            {"count": 48, "images": 300, "views": 2, "episodes": 2}
            if self.smoke
            else {"count": 10_000, "images": 2000, "episodes": 1}
        )
        settings = sk.evaluation.ReportSettings(seeds=(seed,), untrained=False, **sizes)
        measured = sk.evaluation.report(model, self.seen, self.unseen, settings, verbose=False).measures
        by_predictor = {one["predictor"]: one for one in measured["equivariance"]}
        _, num_experts, routing, (_, equivariance), _ = method
        found = {
            "probe": measured["linear_probe"][0]["accuracy"],
            "neighbor": measured["nearest_neighbor"][0]["accuracy"],
            **_chosen(by_predictor["fitted"], mrr="mrr", hits="hits_at_1", error="prediction_error", r2="r2"),
        }
        if equivariance:
            found |= _chosen(
                by_predictor["own"], own_mrr="mrr", own_error="prediction_error", own_gain="gain"
            )
        if num_experts > 1:
            tasks, experts = measured["task_correlation"][0], measured["expert_correlation"][0]
            found |= {"tasks": above_chance(tasks), "experts": above_chance(experts)}
            found["raw"] = {
                "tasks": [tasks["mean"], tasks["floor"]],
                "experts": [experts["mean"], experts["floor"]],
            }
            found["expert_matrix"] = np.round(experts["matrix"], 3).tolist()
        if num_experts > 1 and routing == "learned":
            found["routing"] = _chosen(measured["routing"][0], gates="gates", ratios="ratios", roles="roles")
        return found

    def _few_shot(self, backbone, shots, seed):
        images, labels = self.problems
        features = sk.evaluation.extract_features(backbone, images, verbose=0)
        episodes = 5 if self.smoke else 2000
        return sk.evaluation.few_shot(features, labels, shots=shots, episodes=episodes, seed=seed).accuracy

    def _neighbors(self, model, method):
        """The neighbours of six test images of Fashion-MNIST among the others, in the space of the method."""
        images, labels = fashion_mnist()
        space = "invariant" if METHODS[method][3][0] else "equivariant"
        embeddings = sk.evaluation.extract_embeddings(model, sk.data.to_rgb(images, 32), space, verbose=0)
        first = np.unique(labels, return_index=True)[1][:QUERIES]
        bank = np.delete(np.arange(len(images)), first)
        found = sk.evaluation.nearest_images(embeddings[first], embeddings[bank], NEIGHBORS)
        return found._replace(indices=bank[found.indices]).to_dict() | {"queries": first.tolist()}


def above_chance(found):
    """0 for independent embeddings, 1 for equal spaces, whatever the number of directions."""
    return (found["mean"] - found["floor"]) / (1 - found["floor"])


def _chosen(run, **names):
    return {name: run[key] for name, key in names.items()}


def fashion_mnist():
    found = sk.data.load("fashion_mnist", split="test")
    return found.images, found.labels


def values(rows, method, measure):
    """One value a seed, in the order of the seeds; none where the measure does not apply."""
    return [row[measure] for row in rows if row["method"] == method and measure in row]


def print_tables(rows, sets):
    print_table(rows, MEASURES, values)
    titles = {name: (f"{name}, %", 100, 1) for name in sets}
    print_table(rows, titles, lambda rows, method, name: [row[name] for row in values(rows, method, "sets")])


def print_table(rows, titles, values_of):
    print(
        "\n| | "
        + " | ".join(title for title, _, _ in titles.values())
        + " |\n|---"
        + "|---" * len(titles)
        + "|"
    )
    for method in dict.fromkeys(row["method"] for row in rows):
        cells = [
            sk.recipes.mean_and_deviation(values_of(rows, method, name), f".{digits}f", factor)
            for name, (_, factor, digits) in titles.items()
        ]
        print(f"| {METHODS[method][0]} | " + " | ".join(cells) + " |")


def means_of_sets(rows, method):
    found = values(rows, method, "sets")
    return [np.mean([row[name] for row in found]) for name in found[0]] if found else []


def print_verdicts(rows):
    """Of every pair, differences in the direction that the paper reports, over seeds, and over the sets."""
    for higher, lower in PAIRS:
        judged = {
            title: (
                values(rows, lower, name),
                values(rows, higher, name),
                factor,
                digits,
                name in LESS_IS_BETTER,
            )
            for name, (title, factor, digits) in MEASURES.items()
        }
        of_sets = (means_of_sets(rows, method) for method in (lower, higher))
        judged["other sets, each of them"] = (*of_sets, 100, 1, False)
        print(f"\n{METHODS[higher][0]} beside {METHODS[lower][0]}")
        for title, (one, other, factor, digits, less) in judged.items():
            if len(one) == len(other) > 1:
                sign = -factor if less else factor
                found = sk.evaluation.paired_comparison(sign * np.array(one), sign * np.array(other))
                print(f"- {title}: better by {found:+.{digits}f}, {found.verdict}")
    for row in rows:
        if "routing" in row:
            ratios = np.sort(row["routing"]["ratios"]).round(2).tolist()
            print(f"{METHODS[row['method']][0]}, seed {row['seed']}: min/max of experts {ratios}")


def draw(rows, stem):
    """Accuracy and correlation over the number of experts, and what two spaces take for alike."""
    measures = {"transfer": "probes of other sets, %", "tasks": "correlation of both embeddings"}
    runs = {method: values(rows, method, "transfer") for method in ROUTED}
    if min(map(len, runs.values())) > 1 and len(set(map(len, runs.values()))) == 1:
        panels, marks = {}, {}
        for measure, title in measures.items():
            factor = MEASURES[measure][1]
            panels[title] = {"STAR": [factor * np.array(values(rows, method, measure)) for method in ROUTED]}
            others = {METHODS[name][0]: values(rows, name, measure) for name in ("simclr", "separate")}
            marks[title] = {name: factor * np.mean(found) for name, found in others.items() if found}
        save(sk.plots.over_experts(panels, [METHODS[method][1] for method in ROUTED], marks), stem, "experts")
    first = {row["method"]: row for row in rows if row["seed"] == 0}
    if {"simclr", "equivariance"} <= first.keys():
        images, _ = fashion_mnist()
        found = {METHODS[method][0]: first[method]["neighbors"] for method in ("simclr", "equivariance")}
        queries = images[found["SimCLR"]["queries"]]
        neighbors = {
            name: sk.evaluation.Neighbors(np.array(one["indices"]), np.array(one["similarities"]))
            for name, one in found.items()
        }
        save(
            sk.plots.retrieval(sk.data.to_rgb(queries), sk.data.to_rgb(images), neighbors), stem, "neighbors"
        )


def save(figure, stem, name):
    figure.savefig(f"{stem}_{name}.png", dpi=110)


if __name__ == "__main__":
    sk.recipes.command_line(run)
