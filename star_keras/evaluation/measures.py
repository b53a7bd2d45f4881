"""The measures of a report: functions of a model with its images and of plain arguments, plain JSON out."""

import functools
import typing

import numpy as np

from star_keras.augmentation import star_views
from star_keras.evaluation.embeddings import extract_embeddings
from star_keras.evaluation.episodes import few_shot
from star_keras.evaluation.equivariance import equivariance_metrics
from star_keras.evaluation.features import extract_features
from star_keras.evaluation.probe import linear_probe, nearest_neighbors
from star_keras.evaluation.redundancy import canonical_correlation, expert_pairs
from star_keras.evaluation.retrieval import nearest_images
from star_keras.evaluation.routing import routing_report
from star_keras.evaluation.spread import effective_rank, embedding_spread

MAX_WAYS = 5
SHOTS = (1, 5)
QUERIES, NEIGHBORS = 6, 4


class Step(typing.NamedTuple):
    """One measure to take.

    Attributes:
        measure: its name in `MEASURES`.
        arguments: all that its result depends on besides the model and the images.
        cost: about how long it takes, in images seen by the network.
    """

    measure: str
    arguments: dict
    cost: float


class Subject:
    """A model with the images it is measured on; features are computed when they are first asked for.

    Args:
        model: a backbone or a pretraining model.
        train, test: `(images, labels)`.
        batch_size: images at a time.
    """

    def __init__(self, model, train, test, batch_size):
        self.model, self.backbone = model, getattr(model, "backbone", model)
        (self.train_images, self.train_labels), (self.test_images, self.test_labels) = train, test
        self.batch_size = batch_size
        self._rows, self._features = np.arange(0), None

    @functools.cached_property
    def test_features(self):
        return extract_features(self.backbone, self.test_images, self.batch_size, verbose=0)

    def split(self, count, seed):
        """Features and labels of `count` training images, drawn by the seed, and of all test images."""
        drawn = np.random.default_rng(seed).permutation(len(self.train_images))[:count]
        return self._train_features(drawn), self.train_labels[drawn], self.test_features, self.test_labels

    def sample(self, images, seed):
        """Rows of as many test images, drawn by the seed, in order."""
        return np.sort(np.random.default_rng(seed).permutation(len(self.test_images))[:images])

    def embeddings(self, rows, space):
        return extract_embeddings(self.model, self.test_images[rows], space, self.batch_size, verbose=0)

    def _train_features(self, rows):
        missing = np.setdiff1d(rows, self._rows)
        if len(missing):
            images = self.train_images[missing]
            found = extract_features(self.backbone, images, self.batch_size, verbose=0)
            known = [] if self._features is None else [self._features]
            self._rows, self._features = np.append(self._rows, missing), np.concatenate([*known, found])
        order = np.argsort(self._rows)
        return self._features[order[np.searchsorted(self._rows, rows, sorter=order)]]


def plan(model, settings, train_images, untrained=False):
    """The steps that apply to a model, a list of `Step`.

    Args:
        model: a backbone or a pretraining model.
        settings: `ReportSettings`.
        train_images: their number. Where each draw has them all, they have the same neighbours, and one
            draw is enough; the probe still chooses its weight on others by each seed.
        untrained: whether the model only shows what the architecture is worth: then what its own
            predictor and its neighbours say is left out. Defaults to False.
    """
    sampled = {"images": settings.images, "seed": settings.seeds[0]}
    draws = [{"count": settings.count, "seed": seed} for seed in settings.seeds]
    steps = [Step("spread", sampled, settings.images)]
    different = draws if settings.count < train_images else draws[:1]
    steps += [Step("nearest_neighbor", draw, settings.count) for draw in different]
    steps += [Step("linear_probe", draw, settings.count / 2) for draw in draws]
    episodes = {"episodes": settings.episodes, "seed": settings.seeds[0]}
    steps += [Step("few_shot", {"shots": shots, **episodes}, settings.episodes) for shots in SHOTS]
    projector = getattr(model, "projector", None)
    if len(getattr(projector, "tasks", None) or ()) > 1:
        steps.append(Step("task_correlation", sampled, 3 * settings.images))
    if hasattr(projector, "route") and projector.num_experts > 1:
        steps.append(Step("expert_correlation", sampled, 4 * settings.images))
        steps.append(Step("routing", sampled, settings.images))
    if not untrained:
        steps.append(Step("retrieval", sampled, settings.images))
    if _takes_views(model):
        own = getattr(model, "predictor", None) is not None and not untrained
        seen = {**sampled, "views": settings.views}
        steps += [
            Step("equivariance", {"predictor": predictor, **seen}, settings.images * settings.views)
            for predictor in ("own", "fitted")[not own :]
        ]
    return steps


def _takes_views(model):
    if getattr(model, "augmentation", None) is not None:
        return True
    _, height, width, channels = getattr(model, "backbone", model).input_shape
    return height == width and height is not None and channels == 3


def measure_linear_probe(subject, count, seed):
    """With standardised features and a decay chosen on a tenth of the images drawn, as recipes do."""
    weights = np.logspace(-1, 4, 11)
    return linear_probe(*subject.split(count, seed), weights=weights, seed=seed, standardize=True).to_dict()


def measure_nearest_neighbor(subject, count, seed):
    return nearest_neighbors(*subject.split(count, seed)).to_dict()


def measure_few_shot(subject, shots, episodes, seed):
    """Of five classes at a time, or of all that have enough images."""
    sizes = np.unique(subject.test_labels, return_counts=True)[1]
    ways = min(MAX_WAYS, max(2, np.count_nonzero(sizes > shots)))
    found = few_shot(
        subject.test_features, subject.test_labels, ways=int(ways), shots=shots, episodes=episodes, seed=seed
    )
    return found.to_dict()


def measure_spread(subject, images, seed):
    rows = subject.sample(images, seed)
    features = subject.test_features[rows]
    return {
        "spread": embedding_spread(features),
        "effective_rank": effective_rank(features),
        "largest_rank": min(len(rows) - 1, features.shape[1]),
        "samples": len(rows),
    }


def measure_task_correlation(subject, images, seed):
    """Between the features and the embedding of every task, as a matrix, and between the tasks alone."""
    rows, tasks = subject.sample(images, seed), list(subject.model.projector.tasks)
    spaces = {task: subject.embeddings(rows, task) for task in tasks}
    spaces = {"features": subject.embeddings(rows, "backbone"), **spaces}
    outputs = list(spaces.values())
    pairs = {
        (one, other): canonical_correlation(outputs[one], outputs[other])
        for one in range(len(outputs))
        for other in range(one + 1, len(outputs))
    }
    return _correlations(pairs, len(outputs), skipped=1) | {"names": list(spaces), "samples": len(rows)}


def measure_expert_correlation(subject, images, seed):
    rows = subject.sample(images, seed)
    outputs = subject.embeddings(rows, "experts")
    return _correlations(expert_pairs(outputs), outputs.shape[1]) | {"samples": len(rows)}


def _correlations(pairs, size, skipped=0):
    """The matrix of all pairs, and mean and floor of those after the first `skipped` places."""
    matrix = np.eye(size)
    for (one, other), found in pairs.items():
        matrix[one, other] = matrix[other, one] = found.mean
    compared = [found for (one, _), found in pairs.items() if one >= skipped]
    return {
        "mean": float(np.mean([found.mean for found in compared])),
        "floor": float(np.mean([found.floor for found in compared])),
        "matrix": matrix.tolist(),
    }


def measure_routing(subject, images, seed):
    found = routing_report(
        subject.model, subject.test_images[subject.sample(images, seed)], subject.batch_size, verbose=0
    )
    return found.to_dict()


def measure_retrieval(subject, images, seed):
    """The neighbours of a few test images, of different classes, among the others of the sample."""
    rows = subject.sample(images, seed)
    first = np.unique(subject.test_labels[rows], return_index=True)[1]
    first = (first if len(first) > 1 else np.arange(len(rows)))[: min(QUERIES, len(rows) // 2)]
    queries, bank = rows[first], np.delete(rows, first)
    spaces = getattr(getattr(subject.model, "projector", None), "tasks", None) or ("backbone",)
    k = min(NEIGHBORS, len(bank))
    neighbors = {}
    for space in spaces:
        found = nearest_images(subject.embeddings(queries, space), subject.embeddings(bank, space), k)
        neighbors[space] = found._replace(indices=bank[found.indices]).to_dict()
    return {"queries": queries.tolist(), "neighbors": neighbors, "samples": len(rows)}


def measure_equivariance(subject, predictor, images, views, seed):
    found = equivariance_metrics(
        subject.model,
        subject.test_images[subject.sample(images, seed)],
        augmentation=views_of(subject.model),
        predictor=predictor,
        views=views,
        batch_size=subject.batch_size,
        seed=seed,
    )
    return found.to_dict()


def views_of(model):
    """The augmentation of a pretraining model; of a backbone, the views of STAR at its size."""
    own = getattr(model, "augmentation", None)
    return star_views(getattr(model, "backbone", model).input_shape[1]) if own is None else own


NEEDS_LABELS = ("linear_probe", "nearest_neighbor", "few_shot")
MEASURES = {
    "linear_probe": measure_linear_probe,
    "nearest_neighbor": measure_nearest_neighbor,
    "few_shot": measure_few_shot,
    "spread": measure_spread,
    "equivariance": measure_equivariance,
    "task_correlation": measure_task_correlation,
    "expert_correlation": measure_expert_correlation,
    "routing": measure_routing,
    "retrieval": measure_retrieval,
}
