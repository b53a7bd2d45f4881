"""How well do frozen features tell classes apart: a linear probe and nearest neighbours."""

import dataclasses
import warnings

import numpy as np

from star_keras.exceptions import NonFiniteError

WEIGHTS = tuple(np.logspace(-6, 5, 45))
METRICS = ("top1", "class_average")


@dataclasses.dataclass(frozen=True)
class ProbeResult:
    """What a probe measured.

    Attributes:
        accuracy: share of right answers in [0, 1], or the mean of that share over classes.
        standard_error: of the accuracy, from the number of test samples alone.
        metric: "top1" or "class_average".
        num_train, num_test: sizes.
        setting: what was chosen: the weight decay of a linear probe, the number of neighbours.
        seed: of the validation split; None where nothing was split.
    """

    accuracy: float
    standard_error: float
    metric: str
    num_train: int
    num_test: int
    setting: dict
    seed: int | None = None

    def to_dict(self):
        """The fields as plain JSON."""
        return dataclasses.asdict(self)


def extract_features(backbone, images, batch_size=256, verbose=0):
    """Features of images, one float32 row each.

    Args:
        backbone: a built model from images to features `(batch, features)`.
        images: array `(n, height, width, 3)` with values in [0, 255].
        batch_size: images at a time, at least 1; it does not change the result. Defaults to 256.
        verbose: 1 shows progress with an estimate. Defaults to 0.

    Returns:
        A float32 array `(n, features)`.

    Raises:
        NonFiniteError: if a feature is NaN or infinite.

    Example:

    >>> import star_keras as sk
    >>> backbone = sk.models.create("resnet20", input_shape=(32, 32, 3))
    >>> extract_features(backbone, np.full((3, 32, 32, 3), 128, "uint8")).shape
    (3, 64)
    """
    features = np.asarray(backbone.predict(images, batch_size=batch_size, verbose=verbose), "float32")
    broken = int(np.sum(~np.isfinite(features).all(axis=1)))
    if broken:
        raise NonFiniteError(
            f"Features must be finite. Received: NaN or infinity for {broken} of {len(features)} images. "
            "Look for NaN in the images, or for broken weights."
        )
    return features


def linear_probe(
    train_features,
    train_labels,
    test_features,
    test_labels,
    weights=WEIGHTS,
    validation=0.1,
    seed=0,
    standardize=False,
    metric="top1",
):
    """Accuracy of multinomial logistic regression on frozen features.

    Minimises `sum_i cross_entropy_i + w * (|W|^2 + |b|^2)` over the training rows. `w` is chosen on a
    part of them, going upwards and starting each from the last solution; the chosen one is fitted
    again on all of them, and the test rows are looked at once.

    Args:
        train_features, test_features: arrays `(n, features)`.
        train_labels, test_labels: integers `(n,)`.
        weights: candidates of `w`, or one number, which skips the choice. Defaults to 45 values from
            1e-6 to 1e5.
        validation: share of the training rows to choose on. Defaults to 0.1.
        seed: of that split. Defaults to 0.
        standardize: whether features are brought to mean 0 and deviation 1, as measured on the training
            rows. Defaults to False.
        metric: "top1" (default), or "class_average", the mean recall of the classes.

    Returns:
        A `ProbeResult`; `setting` holds `weight` and `converged`.

    Raises:
        ValueError: if lengths differ, there is a single class, a test label is not among the training
            labels, or an argument is out of range.
        NonFiniteError: if a feature is not finite.
        ImportError: if scikit-learn (extra `eval`) is missing.

    Example:

    >>> features = np.eye(4).repeat(25, axis=0)
    >>> labels = np.arange(4).repeat(25)
    >>> linear_probe(features, labels, features, labels, weights=0.1).accuracy
    1.0

    Reference: Chen et al., SimCLR (ICML 2020), appendix B.8; Kornblith et al. (CVPR 2019).
    """
    train_features, train_labels = _checked(train_features, train_labels, "train")
    test_features, test_labels = _checked(test_features, test_labels, "test")
    _check_match(train_features, train_labels, test_features, test_labels, metric)
    candidates = np.atleast_1d(np.asarray(weights, "float64"))
    if candidates.size == 0 or not (candidates > 0).all() or not 0 < validation < 1:
        raise ValueError(
            "`weights` must be positive and `validation` lie between 0 and 1. "
            f"Received: weights={weights}, validation={validation}"
        )
    if standardize:
        mean, deviation = train_features.mean(axis=0), train_features.std(axis=0)
        deviation[deviation < 1e-12] = 1
        train_features = (train_features - mean) / deviation
        test_features = (test_features - mean) / deviation
    weight = float(candidates[0])
    if candidates.size > 1:
        weight = _choose_weight(train_features, train_labels, np.sort(candidates), validation, seed, metric)
    model, converged = _fit(_regression(), train_features, train_labels, weight)
    predicted = model.predict(_with_constant(test_features))
    setting = {"weight": weight, "converged": converged, "standardize": standardize}
    chosen_by = seed if candidates.size > 1 else None
    return _result(test_labels, predicted, metric, len(train_labels), setting, chosen_by)


def nearest_neighbors(train_features, train_labels, test_features, test_labels, k=1, metric="top1"):
    """Accuracy of the majority among the k nearest training rows by cosine.

    Args:
        train_features, test_features: arrays `(n, features)`.
        train_labels, test_labels: integers `(n,)`.
        k: number of neighbours, from 1 to the number of training rows. Defaults to 1. Of classes with
            equally many neighbours the one with the more similar ones wins.
        metric: "top1" (default) or "class_average".

    Returns:
        A `ProbeResult`; `setting` holds `k`.

    Raises:
        ValueError: as for `linear_probe`, or if `k` is out of range.
        NonFiniteError: if a feature is not finite.

    Example:

    >>> features = np.eye(4).repeat(25, axis=0)
    >>> labels = np.arange(4).repeat(25)
    >>> nearest_neighbors(features, labels, features, labels).accuracy
    1.0
    """
    train_features, train_labels = _checked(train_features, train_labels, "train")
    test_features, test_labels = _checked(test_features, test_labels, "test")
    _check_match(train_features, train_labels, test_features, test_labels, metric)
    if not 1 <= k <= len(train_labels):
        raise ValueError(f"`k` must lie between 1 and the {len(train_labels)} training rows. Received: k={k}")
    classes, positions = np.unique(train_labels, return_inverse=True)
    bank, queries = _unit(train_features), _unit(test_features)
    predicted = np.empty(len(queries), classes.dtype)
    for start in range(0, len(queries), 1024):
        similarity = queries[start : start + 1024] @ bank.T
        nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
        votes = np.zeros((len(nearest), len(classes)))
        # A vote counts one, and a little more the more similar its neighbour is, which settles ties.
        strength = 1 + 1e-6 * np.take_along_axis(similarity, nearest, axis=1)
        np.add.at(votes, (np.arange(len(nearest))[:, None], positions[nearest]), strength)
        predicted[start : start + 1024] = classes[votes.argmax(axis=1)]
    return _result(test_labels, predicted, metric, len(train_labels), {"k": k})


def _checked(features, labels, name):
    features, labels = np.asarray(features, "float64"), np.asarray(labels)
    if features.ndim != 2 or labels.shape != (len(features),) or not len(labels):
        raise ValueError(
            f"`{name}_features` must have shape (n, features) and `{name}_labels` shape (n,), n > 0. "
            f"Received: shapes {features.shape} and {labels.shape}"
        )
    if labels.dtype.kind not in "iu":
        raise ValueError(f"`{name}_labels` must be integers. Received: {labels.dtype}")
    if not np.isfinite(features).all():
        count = int(np.sum(~np.isfinite(features).all(axis=1)))
        raise NonFiniteError(f"`{name}_features` must be finite. Received: NaN or infinity in {count} rows")
    return features, labels


def _check_match(train_features, train_labels, test_features, test_labels, metric):
    if train_features.shape[1] != test_features.shape[1]:
        raise ValueError(
            "Features must have the same width for training and test. "
            f"Received: {train_features.shape[1]} and {test_features.shape[1]}"
        )
    known = np.unique(train_labels)
    if len(known) < 2:
        raise ValueError(f"`train_labels` must hold two classes or more. Received: only {known.tolist()}")
    unknown = np.setdiff1d(test_labels, known)
    if len(unknown):
        raise ValueError(
            f"Every test label must occur among the training labels. Received: {unknown.tolist()[:5]}, "
            "which training rows never have."
        )
    if metric not in METRICS:
        raise ValueError(f"`metric` must be one of {METRICS}. Received: metric={metric!r}")


def _regression():
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise ImportError("`linear_probe` needs scikit-learn: pip install 'star-keras[eval]'") from error
    return LogisticRegression(fit_intercept=False, warm_start=True, tol=1e-4, max_iter=1000)


def _fit(model, features, labels, weight):
    """Fits one regression; says whether the solver came to an end."""
    from sklearn.exceptions import ConvergenceWarning

    model.set_params(C=1 / (2 * weight))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(_with_constant(features), labels)
    return model, not caught


def _choose_weight(features, labels, candidates, validation, seed, metric):
    order = np.random.default_rng(seed).permutation(len(labels))
    count = max(1, round(validation * len(labels)))
    held_out, kept = order[:count], order[count:]
    if len(np.unique(labels[kept])) < 2:
        raise ValueError(
            "The training rows left after the validation split must hold two classes or more. "
            f"Received: {len(kept)} rows of one class; pass one weight instead of several."
        )
    model, scores = _regression(), []
    for weight in candidates:
        model, _ = _fit(model, features[kept], labels[kept], weight)
        predicted = model.predict(_with_constant(features[held_out]))
        scores.append(_accuracy(labels[held_out], predicted, metric))
    return float(candidates[int(np.argmax(scores))])


def _with_constant(features):
    """A last column of ones, so that the bias is decayed like every other weight."""
    return np.concatenate([features, np.ones((len(features), 1))], axis=1)


def _unit(features):
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def _accuracy(labels, predicted, metric):
    right = labels == predicted
    if metric == "top1":
        return float(right.mean())
    return float(np.mean([right[labels == label].mean() for label in np.unique(labels)]))


def _result(labels, predicted, metric, num_train, setting, seed=None):
    accuracy = _accuracy(labels, predicted, metric)
    error = float(np.sqrt(accuracy * (1 - accuracy) / len(labels)))
    return ProbeResult(accuracy, error, metric, num_train, len(labels), setting, seed)
