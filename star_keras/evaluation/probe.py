"""Two classifiers on frozen features: logistic regression and nearest neighbours."""

import dataclasses

import numpy as np

from star_keras.evaluation.arrays import (
    TooFewSamples,
    center_and_scale,
    filled_rows,
    largest_columns,
    unit_rows,
    whole_labels,
)
from star_keras.evaluation.logistic import Logistic, predict
from star_keras.guards.arguments import check_count, check_range

_METRICS = ("top1", "class_average")
_CHUNK = 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Accuracy:
    """What every classifier on frozen features reports."""

    accuracy: float
    standard_error: float
    floor: float
    metric: str
    num_train: int
    num_test: int
    num_classes: int

    def to_dict(self):
        """The fields as a dict of plain Python values."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NearestNeighborResult(_Accuracy):
    """What `nearest_neighbors` measured.

    Attributes:
        accuracy: in [0, 1], by `metric`.
        standard_error: of the accuracy, from the number of test images alone.
        floor: accuracy of always answering the most frequent training class.
        metric: `"top1"` or `"class_average"`.
        num_train: number of training images.
        num_test: number of test images.
        num_classes: number of classes.
        k: number of neighbours.
    """

    k: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearProbeResult(_Accuracy):
    """What `linear_probe` measured.

    Attributes:
        accuracy, standard_error, floor, metric, num_test, num_classes: as in `NearestNeighborResult`.
        num_train: number of training images, those of the validation part included.
        weight: the penalty of the classifier.
        validation_accuracies: accuracy on the validation part of every candidate, a dict by weight;
            None where there was one weight.
        standardize: whether the features were standardised.
        num_validation: number of images the weight was chosen on.
        seed: of the choice of the validation part; None where nothing was drawn.
    """

    weight: float
    validation_accuracies: dict | None
    standardize: bool
    num_validation: int
    seed: int | None


def linear_probe(
    train_features,
    train_labels,
    test_features,
    test_labels,
    weights=None,
    metric="top1",
    standardize=False,
    validation_fraction=0.1,
    validation_data=None,
    seed=0,
):
    """Accuracy of a linear classifier on frozen features: multinomial logistic regression.

    The classifier minimises `sum_i CE(y_i, W x_i + b) + weight * (|W|^2 + |b|^2)`: the sum, not the mean,
    and the bias is penalised too; in scikit-learn's terms `C = 1 / (2 * weight)`. The optimum is unique and
    reached, to about 1e-8 of the objective; where the paper has L-BFGS, Newton steps go from the largest
    weight down, which arrive in fewer passes. The weight is chosen by the accuracy on a validation part, the
    smallest of equals; then the classifier is fitted to training and validation part together.

    Args:
        train_features: array `(n, d)`.
        train_labels: integers `(n,)` or `(n, 1)`, of at least two classes.
        test_features: array `(m, d)`.
        test_labels: integers `(m,)` or `(m, 1)` of classes that the training labels have.
        weights: candidate penalties, or one number: no search, the cheap probe. Defaults to the paper's
            `np.logspace(-6, 5, 45)`.
        metric: `"top1"`, or `"class_average"`: mean recall of the classes, for unbalanced sets.
        standardize: bring each feature to mean 0 and deviation 1 over the training set; one that never
            varies there does not count. Defaults to False, as in the paper.
        validation_fraction: part of the training set to choose the weight on, drawn by `seed`. Defaults
            to 0.1.
        validation_data: `(features, labels)` of an official validation set, used instead.
        seed: integer. Defaults to 0.

    Returns:
        A `LinearProbeResult`.

    Raises:
        ValueError: if features and labels do not fit together, a feature is not finite, or a test label
            does not occur in training.

    Example:

    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(3, size=200)
    >>> features = np.eye(3)[labels] + rng.normal(0, 0.1, (200, 3))
    >>> linear_probe(features[:150], labels[:150], features[150:], labels[150:], weights=0.1).accuracy
    1.0

    Reference: Jeon and others, Soft Task-Aware Routing of Experts (NeurIPS 2025), evaluation protocol.
    """
    _check_metric(metric)
    weights = _distinct_weights(np.logspace(-6, 5, 45) if weights is None else weights)
    train, labels, classes = _training_data(train_features, train_labels)
    test, truth = _data_of_classes(test_features, test_labels, "test", train, classes)
    validation = np.arange(0)
    if validation_data is not None:
        features, known = _data_of_classes(*validation_data, "validation", train, classes)
        validation = np.arange(len(train), len(train) + len(features))
        train, labels = np.concatenate([train, features]), np.concatenate([labels, known])
    elif len(weights) > 1:
        validation = _drawn_rows(len(train), validation_fraction, seed)
    if standardize:
        center, scale = center_and_scale(train)
        train, test = (train - center) / scale, (test - center) / scale
    accuracies, start, weight = None, None, weights[0]
    if len(weights) > 1:
        accuracies, weight, start = _choose_weight(train, labels, validation, weights, classes, metric)
    solution = Logistic(train, labels, len(classes)).solve(weight, start)
    return LinearProbeResult(
        **_scores(predict(test, solution), truth, labels, metric),
        weight=float(weight),
        validation_accuracies=accuracies,
        standardize=standardize,
        num_validation=len(validation),
        seed=seed if len(weights) > 1 and validation_data is None else None,
    )


def nearest_neighbors(train_features, train_labels, test_features, test_labels, k=1, metric="top1"):
    """Accuracy of the vote of the k nearest training features, by cosine similarity; exact.

    Among classes with equally many votes the one with the nearest neighbour wins; of equally near
    neighbours those vote that come first.

    Args:
        train_features: array `(n, d)`.
        train_labels: integers `(n,)` or `(n, 1)`, of at least two classes.
        test_features: array `(m, d)`.
        test_labels: integers `(m,)` or `(m, 1)` of classes that the training labels have.
        k: number of neighbours, at most n. Defaults to 1.
        metric: `"top1"`, or `"class_average"`: mean recall of the classes. Defaults to `"top1"`.

    Returns:
        A `NearestNeighborResult`.

    Raises:
        ValueError: if features and labels do not fit together, a feature is not finite, or a test label
            does not occur in training.

    Example:

    >>> features, labels = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([3, 7])
    >>> nearest_neighbors(features, labels, np.array([[2.0, 0.1]]), np.array([3])).accuracy
    1.0
    """
    _check_metric(metric)
    train, labels, classes = _training_data(train_features, train_labels)
    test, truth = _data_of_classes(test_features, test_labels, "test", train, classes)
    if check_count("k", k) > len(train):
        raise ValueError(f"`k` must lie between 1 and the {len(train)} training images. Received: k={k}")
    train, test = unit_rows(train), unit_rows(test)
    predictions = [
        _vote(test[start : start + _CHUNK] @ train.T, labels, len(classes), k)
        for start in range(0, len(test), _CHUNK)
    ]
    return NearestNeighborResult(**_scores(np.concatenate(predictions), truth, labels, metric), k=k)


def _check_metric(metric):
    if metric not in _METRICS:
        raise ValueError(f"`metric` must be one of {_METRICS}. Received: metric={metric!r}")


def _distinct_weights(weights):
    found = np.asarray(weights)
    if found.ndim > 1 or not np.issubdtype(found.dtype, np.number) or not found.size:
        raise ValueError(f"`weights` must be a number or a list of numbers. Received: weights={weights!r}")
    found = np.unique(found.astype("float64"))
    if not np.all(np.isfinite(found)) or found[0] <= 0:
        raise ValueError(f"`weights` must be positive and finite. Received: weights={found}")
    return found


def _training_data(features, labels):
    features, labels = _data(features, labels, "train")
    classes, indices = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise TooFewSamples(
            f"`train_labels` must have at least two classes. Received: only {classes.tolist()}"
        )
    return features, indices, classes


def _data_of_classes(features, labels, name, train, classes):
    features, labels = _data(features, labels, name)
    if features.shape[1] != train.shape[1]:
        raise ValueError(
            f"`{name}_features` must have the {train.shape[1]} columns of the training features. "
            f"Received: shape {features.shape}"
        )
    unknown = np.setdiff1d(labels, classes)
    if len(unknown):
        raise TooFewSamples(
            f"`{name}_labels` must be classes that occur in `train_labels`. Received: "
            f"{unknown[:5].tolist()}, {len(unknown)} unknown of {len(np.unique(labels))} classes"
        )
    return features, np.searchsorted(classes, labels)


def _data(features, labels, name):
    features = filled_rows(f"{name}_features", features)
    return features, whole_labels(f"{name}_labels", labels, len(features))


def _drawn_rows(count, fraction, seed):
    size = round(check_range("validation_fraction", fraction, 0, 1) * count)
    if not 0 < size < count:
        raise TooFewSamples(
            "`validation_fraction` must leave at least one image on both sides. "
            f"Received: validation_fraction={fraction} of {count} images"
        )
    return np.random.default_rng(seed).permutation(count)[:size]


def _choose_weight(features, labels, validation, weights, classes, metric):
    fitted = np.setdiff1d(np.arange(len(features)), validation)
    model, solution, solutions, accuracies = (
        Logistic(features[fitted], labels[fitted], len(classes)),
        None,
        {},
        {},
    )
    for weight in weights[::-1].tolist():
        solution = solutions[weight] = model.solve(weight, solution)
        accuracies[weight] = _score(predict(features[validation], solution), labels[validation], metric)[0]
    best = max(sorted(accuracies), key=accuracies.get)
    return dict(sorted(accuracies.items())), best, solutions[best]


def _vote(similarities, labels, num_classes, k):
    if k == 1:
        return labels[similarities.argmax(axis=1)]
    voters = labels[largest_columns(similarities, k)]
    votes = np.zeros((len(voters), num_classes), "int64")
    np.add.at(votes, (np.arange(len(voters))[:, None], voters), 1)
    winning = np.take_along_axis(votes, voters, axis=1) == votes.max(axis=1, keepdims=True)
    return voters[np.arange(len(voters)), winning.argmax(axis=1)]


def _scores(predictions, truth, train_labels, metric):
    accuracy, standard_error = _score(predictions, truth, metric)
    most_frequent = np.bincount(train_labels).argmax()
    return {
        "accuracy": accuracy,
        "standard_error": standard_error,
        "floor": _score(np.full_like(truth, most_frequent), truth, metric)[0],
        "metric": metric,
        "num_train": len(train_labels),
        "num_test": len(truth),
        "num_classes": int(train_labels.max()) + 1,
    }


def _score(predictions, truth, metric):
    """Accuracy and its standard error: over all images, or averaged over the classes that occur."""
    groups = np.zeros_like(truth) if metric == "top1" else np.unique(truth, return_inverse=True)[1]
    sizes = np.bincount(groups)
    recalls = np.bincount(groups, weights=predictions == truth) / sizes
    variances = recalls * (1 - recalls) / sizes
    return float(recalls.mean()), float(np.sqrt(variances.sum()) / len(sizes))
