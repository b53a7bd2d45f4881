"""Do softly routed experts transfer better, follow augmentations better, and repeat themselves less?

Paper      Jeon and others, Soft Task-Aware Routing of Experts (NeurIPS 2025), arXiv:2510.27222, section 4
Data       cifar10_train45k, bccd_detection and the sets of transfer.py, in the folder STAR_KERAS_DATA
Command    python examples/evidence/comparison.py [--minutes 60]
GPU        KERAS_BACKEND=jax python examples/evidence/comparison.py --full

Every method pretrains a ResNet-20 on the first 15,000 images of CIFAR-10 for 12 epochs, by SGD, with the
views, rate, batch and width of heads of the recipe star-resnet20. They are STAR's own; nothing was tuned for
another method. A run takes about twenty minutes on one core, in mixed_bfloat16; runs in what --precision
names are others. STAR-SS has an expert for each task and one that both share. EquiMod-like heads are
separate; they predict the shift of an embedding, as the paper's method does, or the embedding itself, as
EquiMod did. --full takes a ResNet-18, heads of 512 as in the recipe star-resnet18, and the first 40,000
images.

Measured are, on 5,000 other training images of CIFAR-10, which no method has seen: a linear probe (of 10,000
images, on standardised features, with 11 decays to choose from), how well views can be predicted (20 of each
of 2,000 images), what both embeddings and what experts have in common, and who works for which task; then
probes of six other sets, as in transfer.py, and 2,000 problems of five classes of Tiny ImageNet. With
--detect it trains detectors of blood cells, as detection.py does, on the backbones of three methods, where
these still lie in --folder.

Every run is a line of results/comparison.jsonl, detectors of comparison_detection.jsonl; with --full both
begin with comparison_full. The same command goes on where it stopped, within a run too, prints tables and
verdicts of what is there, and draws them. Correlations are canonical, mean of all directions, as a share of
what lies between chance (0) and equality (1).

How both tasks correlate depends on the structure of the heads, too, whatever is learned. With heads of 64
units and embeddings of 128 the shared expert of STAR-SS gives both embeddings 64 common directions. Separate
heads have 64 directions, STAR has 128, so that their shares are comparable only at 0 and 1. So pairs are
compared by it among numbers of experts alone; and random experts under random routers correlate less the
more of them there are, which is printed and drawn beside.

Each of the paper's orderings gets one verdict, once all seeds are there: confirmed where all differences that
decide it, which comparison_report.py names, are. With three seeds a bootstrap interval reaches from the least
to the greatest difference, so that a verdict asks Student's interval, too.
"""

import functools
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import comparison_report
import detection
import keras
import numpy as np
import transfer

import star_keras as sk

RESULTS = pathlib.Path(__file__).parent / "results"
# name: (experts, routing, weights of both losses, whether shifts are predicted)
METHODS = {
    "simclr": (1, "learned", (1.0, 0.0), True),
    "equivariance": (1, "learned", (0.0, 1.0), True),
    "direct": (2, "separate", (1.0, 1.0), False),
    "separate": (2, "separate", (1.0, 1.0), True),
    "shared": (3, "shared", (1.0, 1.0), True),
    **{method: (n, "learned", (1.0, 1.0), True) for method, n in comparison_report.ROUTED.items()},
}
WHOLE = {"methods": tuple(METHODS), "seeds": (0, 1, 2), "sets": tuple(transfer.DATA)}
SMALL = {"methods": ("simclr", "star 8"), "seeds": (0, 1), "sets": ("Fashion-MNIST",)}
# Of detectors: the methods, and the rate that detection.py chose for both of its pretrained networks.
DETECTED, RATE = ("simclr", "separate", "star 8"), 2e-3
QUERIES, NEIGHBORS = 6, 5


def run(
    results=str(RESULTS),
    folder="runs/comparison",
    minutes=None,
    precision="mixed_bfloat16",
    detect=False,
    full=False,
    smoke=False,
):
    plan, stem = SMALL if smoke else WHOLE, "comparison_full" if full else "comparison"
    experiment, left = Experiment(folder, plan["sets"], smoke, full), sk.recipes.time_left(minutes)
    shared = {"precision": sk.recipes.set_precision(precision)}
    runs = [
        {"method": method, "seed": seed, **shared} for seed in plan["seeds"] for method in plan["methods"]
    ]
    path = sk.recipes.results_file(results, stem, smoke)
    rows = sk.recipes.sweep(experiment, runs, path, left())
    detectors = [
        {"method": row["method"], "seed": row["seed"], **shared, "rate": RATE}
        for row in rows
        if row["method"] in DETECTED
    ]
    path_of_detectors = sk.recipes.results_file(results, f"{stem}_detection", smoke)
    detection_of = Detection(experiment)
    detected = sk.recipes.sweep(detection_of, detectors, path_of_detectors, minutes=0)
    if detect:
        done = [run for run in detectors if any(run.items() <= row.items() for row in detected)]
        ready = [run for run in detectors if run in done or detection_of.has_backbone(**run)]
        detected = sk.recipes.sweep(detection_of, ready, path_of_detectors, left())
    comparison_report.tell(rows, detected, plan, path.with_suffix(""), experiment.width)
    return rows


class Experiment:
    """Called with a run's arguments, it pretrains a network and takes every measure of it."""

    def __init__(self, folder, sets, smoke, full=False):
        self.folder, self.sets, self.smoke = pathlib.Path(folder), sets, smoke
        self.network, self.width, count = ("resnet18", 512, 40_000) if full else ("resnet20", 64, 15_000)
        self.epochs, self.batch_size, unseen = 12, 256, 5_000
        if smoke:
            self.epochs, self.batch_size, self.width, count, unseen = 1, 32, 16, 96, 400
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
        model, history = self._pretrained(method, seed, precision)
        found = {"losses": {key: values[-1] for key, values in history.items()}}
        found |= self._measures(model, METHODS[method], seed)
        probes = {name: self.transfer.probe(model.backbone, name, seed) for name in self.sets}
        found["sets"] = {name: probe["accuracy"] for name, probe in probes.items()}
        found["transfer"] = float(np.mean(list(found["sets"].values())))
        found["floors"] |= {name: probe["floor"] for name, probe in probes.items()}
        found["floors"]["transfer"] = float(np.mean([probe["floor"] for probe in probes.values()]))
        for name, shots in (("one_shot", 1), ("five_shots", 5)):
            episodes = self._few_shot(model.backbone, shots, seed)
            found[name], found["floors"][name] = episodes.accuracy, episodes.floor
        return found | {"neighbors": self._neighbors(model, method)} if seed == 0 else found

    def _pretrained(self, method, seed, precision):
        """A model in float32, whatever it was trained in, and the history."""
        keras.config.set_dtype_policy(precision)
        keras.utils.set_random_seed(seed)
        model, images = self._model(method, seed), self.seen[0]
        schedule = keras.optimizers.schedules.CosineDecay(
            0.06, self.epochs * (len(images) // self.batch_size)
        )
        model.compile(keras.optimizers.SGD(schedule, momentum=0.9, weight_decay=5e-3))
        folder = self.folder_of(method, seed, precision)
        history = sk.recipes.pretrain(model, images, self.seen, folder, self.epochs, self.batch_size, seed)
        keras.config.set_dtype_policy("float32")
        exact = self._model(method, seed)
        exact.set_weights(model.get_weights())
        return exact, history

    def folder_of(self, method, seed, precision):
        size = "smoke " if self.smoke else "" if self.network == "resnet20" else f"{self.network} "
        return self.folder / f"{size}{method} {seed} {precision}"

    def _model(self, method, seed):
        num_experts, routing, (invariance, equivariance), shifts = METHODS[method]
        # The backbone first: of one seed it is the same for all methods.
        backbone = sk.models.create(self.network, input_shape=(32, 32, 3))
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
        num_experts, routing, (_, equivariance), _ = method
        fitted = {"mrr": "mrr", "hits": "hits_at_1", "error": "prediction_error", "r2": "r2"}
        own = {"own_mrr": "mrr", "own_error": "prediction_error", "own_gain": "gain"}
        probe, floors = measured["linear_probe"][0], by_predictor["fitted"]["floors"]
        found = {
            "probe": probe["accuracy"],
            "neighbor": measured["nearest_neighbor"][0]["accuracy"],
            **_chosen(by_predictor["fitted"], fitted),
            "floors": {"probe": probe["floor"], **_chosen(floors, fitted | own)},
        }
        if equivariance:
            found |= _chosen(by_predictor["own"], own)
        if num_experts > 1:
            tasks = measured["task_correlation"][0]
            found |= {
                "tasks": comparison_report.above_chance(tasks),
                "raw": {"tasks": [tasks["mean"], tasks["floor"]]},
            }
        if num_experts > 1 and routing == "learned":
            # Experts of other methods belong to a task, so that they only say again what tasks say.
            experts, routed = measured["expert_correlation"][0], measured["routing"][0]
            found["experts"] = comparison_report.above_chance(experts)
            found["raw"]["experts"] = [experts["mean"], experts["floor"]]
            found["expert_matrix"] = np.round(experts["matrix"], 3).tolist()
            names = ("gates", "ratios", "roles", "order", "entropies", "samples")
            found["routing"] = {name: routed[name] for name in names}
        return found

    def _few_shot(self, backbone, shots, seed):
        images, labels = self.problems
        features = sk.evaluation.extract_features(backbone, images, verbose=0)
        episodes = 5 if self.smoke else 2000
        return sk.evaluation.few_shot(features, labels, shots=shots, episodes=episodes, seed=seed)

    def _neighbors(self, model, method):
        """The neighbours of six test images of Fashion-MNIST among the others, in the space of the method."""
        images, labels = comparison_report.fashion_mnist()
        space = "invariant" if METHODS[method][2][0] else "equivariant"
        embeddings = sk.evaluation.extract_embeddings(model, sk.data.to_rgb(images, 32), space, verbose=0)
        first = np.unique(labels, return_index=True)[1][:QUERIES]
        bank = np.delete(np.arange(len(images)), first)
        found = sk.evaluation.nearest_images(embeddings[first], embeddings[bank], NEIGHBORS)
        return found._replace(indices=bank[found.indices]).to_dict() | {"queries": first.tolist()}


class Detection:
    """Called with a run's arguments, it trains a detector on the backbone that lies in the run's folder."""

    def __init__(self, experiment):
        self.experiment = experiment

    @functools.cached_property
    def cells(self):
        return detection.Experiment(self.experiment.smoke)

    def has_backbone(self, method, seed, precision, rate):
        """Whether the run's folder has one; if not, says so."""
        folder = self._folder(method, seed, precision)
        if not folder.is_dir():
            full = "" if self.experiment.network == "resnet20" else " --full"
            print(
                f"No detector of {method!r}, seed {seed}: there is no backbone in {folder}. Trains it again: "
                f"python examples/evidence/comparison.py --precision {precision}{full} --results NEW_FOLDER"
            )
        return folder.is_dir()

    def _folder(self, method, seed, precision):
        return self.experiment.folder_of(method, seed, precision) / "backbone"

    def __call__(self, method, seed, precision, rate):
        keras.config.set_dtype_policy("float32")
        folder = self._folder(method, seed, precision)
        size = {"input_shape": self.cells.splits["train"][0].shape[1:], "stem": "strided"}
        backbone = sk.models.load(folder, dtype="float32", **size)
        return self.cells.measured(backbone, rate, seed, "test")


def _chosen(run, names):
    return {name: run[key] for name, key in names.items()}


if __name__ == "__main__":
    sk.recipes.command_line(run)
