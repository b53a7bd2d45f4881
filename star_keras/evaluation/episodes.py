"""Few-shot classification: many small problems on frozen features."""

import dataclasses

import numpy as np

from star_keras.evaluation.arrays import TooFewSamples, filled_rows, whole_labels
from star_keras.guards.arguments import check_count

_BLOCK_ENTRIES = 2**23
_MAX_STEPS = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class FewShotResult:
    """What `few_shot` measured.

    Attributes:
        accuracy: mean over the episodes, in [0, 1].
        interval: half the width of its 95 % interval, `1.96 * std / sqrt(episodes)`.
        floor: accuracy of guessing, `1 / ways`.
        ways, shots, queries, episodes, seed: as given.
        num_classes: number of classes with more than `shots` images, which episodes are drawn from.
        num_images: number of their images.
    """

    accuracy: float
    interval: float
    floor: float
    ways: int
    shots: int
    queries: int
    episodes: int
    num_classes: int
    num_images: int
    seed: int

    def to_dict(self):
        """The fields as a dict of plain Python values."""
        return dataclasses.asdict(self)


def few_shot(features, labels, ways=5, shots=1, queries=16, episodes=2000, seed=0):
    """Accuracy of classifiers that are fitted to `shots` images of each of `ways` classes.

    Each episode draws classes, then images of each: some to fit, the others to classify. Fitted is one
    logistic regression for each class against the rest,
    `min |w|^2 / 2 + sum_i log(1 + exp(-y_i w [x_i, 1]))` with `y_i` 1 or -1, the bias penalised too; the
    greatest answer wins. It is what `LogisticRegression(solver="liblinear")` of scikit-learn approaches,
    solved to its optimum. Features are taken as they are.

    Classes with no more than `shots` images are left out; a class with less than `shots + queries` has its
    queries drawn with replacement from the images that are not fitted. The same seed and labels give the
    same episodes, whatever the features: so methods can be compared.

    Args:
        features: array `(n, d)`.
        labels: integers `(n,)` or `(n, 1)`.
        ways: number of classes of an episode, at least 2. Defaults to 5.
        shots: number of images of each class that are fitted. Defaults to 1.
        queries: number of images of each class that are classified. Defaults to 16.
        episodes: number of problems. Defaults to 2000.
        seed: integer. Defaults to 0.

    Returns:
        A `FewShotResult`.

    Raises:
        ValueError: if features and labels do not fit together, a feature is not finite, or fewer than `ways`
            classes have more than `shots` images.

    Example:

    >>> labels = np.arange(100) % 5
    >>> result = few_shot(3 * np.eye(5)[labels], labels, episodes=10)
    >>> result.accuracy, result.floor
    (1.0, 0.2)

    Reference: Jeon and others, Soft Task-Aware Routing of Experts (NeurIPS 2025), evaluation protocol.
    """
    for name, count in {"ways": ways, "shots": shots, "queries": queries, "episodes": episodes}.items():
        check_count(name, count)
    if ways < 2:
        raise ValueError(f"`ways` must be a whole number of at least 2. Received: ways={ways}")
    features = filled_rows("features", features)
    members = _members(features, labels, ways, shots)
    rows = _draw(members, ways, shots, queries, episodes, np.random.default_rng(seed))
    size = min(ways * shots, features.shape[1] + 1)
    entries = size * (size + ways * shots) + (shots + queries) * features.shape[1]
    block = max(1, _BLOCK_ENTRIES // (ways * entries))
    accuracies = np.concatenate(
        [_accuracies(features[rows[start : start + block]], shots) for start in range(0, episodes, block)]
    )
    return FewShotResult(
        accuracy=float(accuracies.mean()),
        interval=float(1.96 * accuracies.std() / np.sqrt(episodes)),
        floor=1 / ways,
        ways=ways,
        shots=shots,
        queries=queries,
        episodes=episodes,
        num_classes=len(members),
        num_images=sum(map(len, members)),
        seed=seed,
    )


def _members(features, labels, ways, shots):
    """Rows of each class that has more than `shots`, in the order of the labels."""
    labels = whole_labels("labels", labels, len(features))
    found = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    large = [rows for rows in found if len(rows) > shots]
    if len(large) < ways:
        raise TooFewSamples(
            f"An episode needs ways={ways} classes with more than shots={shots} images. Received: "
            f"{len(large)} such classes of {len(found)}; ask for fewer ways or shots."
        )
    return large


def _draw(members, ways, shots, queries, episodes, rng):
    """Rows of the images of all episodes, `(episodes, ways, shots + queries)`."""
    rows = np.empty((episodes, ways, shots + queries), "int64")
    for episode in rows:
        for chosen, index in zip(episode, rng.choice(len(members), ways, replace=False), strict=True):
            images = members[index]
            if len(images) >= shots + queries:
                chosen[:] = rng.choice(images, shots + queries, replace=False)
            else:
                images = rng.permutation(images)
                chosen[:shots], chosen[shots:] = images[:shots], rng.choice(images[shots:], queries)
    return rows


def _accuracies(features, shots):
    """Accuracy of each episode of `(episodes, ways, shots + queries, d)`."""
    ways = features.shape[1]
    support, queries = _coordinates(features[:, :, :shots], features[:, :, shots:])
    coefficients = fit_one_against_rest(support, np.arange(ways).repeat(shots))
    answers = queries @ coefficients
    truth = np.arange(ways).repeat(features.shape[2] - shots)
    return np.mean(answers.argmax(axis=2) == truth, axis=1)


def _coordinates(support, queries):
    """Rows with a one appended; within the space of the support where that is smaller: same optimum."""
    support, queries = (
        _with_ones(part.reshape(len(part), -1, part.shape[-1])) for part in (support, queries)
    )
    if support.shape[1] >= support.shape[2]:
        return support, queries
    basis = np.linalg.qr(support.transpose(0, 2, 1))[0]
    return support @ basis, queries @ basis


def _with_ones(rows):
    return np.concatenate([rows, np.ones((*rows.shape[:2], 1))], axis=2, dtype="float64")


def fit_one_against_rest(inputs, labels):
    """Logistic regressions of each class against the rest, by Newton steps for all problems at once.

    Args:
        inputs: float64 array `(problems, n, d)`.
        labels: integers `(n,)` from 0, the same for all problems.

    Returns:
        Coefficients `(problems, d, classes)`.
    """
    signs = np.where(labels[:, None] == np.unique(labels), 1.0, -1.0)
    solution = np.zeros((len(inputs), inputs.shape[2], signs.shape[1]))
    value, gradient, curvature = _evaluate(inputs, signs, solution)
    for _ in range(_MAX_STEPS):
        step = _newton_step(inputs, gradient, curvature)
        promised = -np.sum(gradient * step, axis=1, keepdims=True)
        rate = np.ones_like(promised)
        while True:
            candidate = _evaluate(inputs, signs, solution + rate * step)
            worse = candidate[0] > value - 1e-4 * rate * promised + 1e-12 * value
            if not worse.any():
                break
            rate[worse] /= 2
        solution = solution + rate * step
        value, gradient, curvature = candidate
        if promised.max() < 1e-10:
            break
    return solution


def _evaluate(inputs, signs, solution):
    """Objective `(problems, 1, classes)`, its gradient, and the curvature of each sample."""
    margins = signs * (inputs @ solution)
    losses = np.logaddexp(0, -margins).sum(axis=1, keepdims=True)
    value = losses + np.sum(solution**2, axis=1, keepdims=True) / 2
    doubts = np.exp(-np.logaddexp(0, margins))
    gradient = solution - inputs.transpose(0, 2, 1) @ (signs * doubts)
    return value, gradient, doubts * (1 - doubts)


def _newton_step(inputs, gradient, curvature):
    weighted = inputs[:, None] * curvature.transpose(0, 2, 1)[..., None]
    hessian = np.eye(inputs.shape[2]) + weighted.transpose(0, 1, 3, 2) @ inputs[:, None]
    step = np.linalg.solve(hessian, -gradient.transpose(0, 2, 1)[..., None])
    return step[..., 0].transpose(0, 2, 1)
