"""How much representations of the same samples, and experts, have in common."""

import itertools
import typing

import keras
import numpy as np
from keras import ops

from star_keras.evaluation.arrays import TooFewSamples, refuse_not_finite


class CanonicalCorrelation(typing.NamedTuple):
    """Canonical correlations of two sets of features, and what chance alone gives.

    Attributes:
        correlations: falling, one for each direction both sides have, float64 in [0, 1].
        mean: of all of them; 0 where a side is constant.
        floor: mean expected of independent normal features of as many samples and directions.
        samples: number of rows.
        directions: number of directions of the first and of the second side, a pair; fewer than columns
            where some are combinations of others within the rounding of their type.
    """

    correlations: np.ndarray
    mean: float
    floor: float
    samples: int
    directions: tuple

    def to_dict(self):
        """The fields as plain JSON."""
        return {
            **self._asdict(),
            "correlations": self.correlations.tolist(),
            "directions": list(self.directions),
        }


class ExpertSimilarity(typing.NamedTuple):
    """Cosines of all pairs of experts, and what they come to.

    Attributes:
        matrix: `(num_experts, num_experts)`, float64.
        mean, mean_abs, max: over pairs of different experts; 0 for a single expert.
    """

    matrix: np.ndarray
    mean: float
    mean_abs: float
    max: float

    def to_dict(self):
        """The fields as plain JSON."""
        return {**self._asdict(), "matrix": self.matrix.tolist()}


def canonical_correlation(first, second):
    """The correlations of the pairs of directions in which two representations agree most.

    `svd(Q_first.T @ Q_second)`, Q being orthonormal bases of the centred features. Invertible affine maps
    of either side change nothing. Features that are combinations of others, up to the rounding of their own
    type, or constant, add no direction: float16 has no more than some three digits, so give float32 where
    there is a choice, and read `directions`.

    Few samples agree by chance: read `mean` beside `floor`, and compare results of one number of samples.

    Args:
        first, second: `(samples, width)` arrays, rows of the same samples; the widths may differ.

    Returns:
        `CanonicalCorrelation`.

    Raises:
        ValueError: if the arrays are no matrices of as many rows, of two or more, or not finite.

    Example:

    >>> x = np.random.default_rng(0).normal(size=(500, 3))
    >>> found = canonical_correlation(x, x @ np.array([[1.0, 2, 0], [0, 1, 0], [0, 0, -3]]) + 7)
    >>> np.round(found.correlations, 6).tolist(), round(found.floor, 3)
    ([1.0, 1.0, 1.0], 0.066)

    Reference: Hotelling, Relations between Two Sets of Variates (1936); the floor: Wachter, The Limiting
        Empirical Measure of Multiple Discriminant Ratios (1980); the use: STAR (2025), section 5.
    """
    first, second = _features(first, second)
    bases = _basis(first), _basis(second)
    ranks = tuple(basis.shape[1] for basis in bases)
    if not min(ranks):
        return CanonicalCorrelation(np.zeros(0), 0.0, 0.0, len(first), ranks)
    correlations = np.clip(np.linalg.svd(bases[0].T @ bases[1], compute_uv=False), 0.0, 1.0)
    return CanonicalCorrelation(
        correlations, float(correlations.mean()), _chance(len(first) - 1, *ranks), len(first), ranks
    )


def expert_correlations(outputs):
    """Mean canonical correlation of every pair of experts.

    Args:
        outputs: `(samples, num_experts, units)`, such as `RoutedExperts.expert_outputs` gives.

    Returns:
        `(num_experts, num_experts)` float64 matrix, symmetric, ones on its diagonal.

    Raises:
        ValueError: as `canonical_correlation`, or if `outputs` has not three axes.

    Example:

    >>> outputs = np.random.default_rng(0).normal(size=(2000, 3, 2))
    >>> bool(expert_correlations(outputs)[0, 1] < 0.1)
    True
    """
    pairs = expert_pairs(outputs)
    matrix = np.eye(np.shape(outputs)[1])
    for (one, other), found in pairs.items():
        matrix[one, other] = matrix[other, one] = found.mean
    return matrix


def expert_pairs(outputs):
    """`{(one, other): CanonicalCorrelation}` of every pair of experts, `one < other`."""
    outputs = np.asarray(outputs)
    if outputs.ndim != 3:
        raise ValueError(
            f"`outputs` must have the shape (samples, num_experts, units). Received: shape {outputs.shape}"
        )
    return {
        (one, other): canonical_correlation(outputs[:, one], outputs[:, other])
        for one, other in itertools.combinations(range(outputs.shape[1]), 2)
    }


def centered_kernel_alignment(first, second, debiased=False):
    """How alike the similarities within two representations are: linear CKA.

    `||X.T Y||^2 / (||X.T X|| ||Y.T Y||)` with centred X and Y and Frobenius norms: 1 for rotations and
    scalings of each other, 0 where no feature of one correlates with any of the other, or one is constant.
    Wide features of few samples agree by chance; `debiased` leaves out the pairs of a sample with itself, so
    that independent features have the mean 0 whatever their number.

    Args:
        first, second: as of `canonical_correlation`.
        debiased: see above; needs four samples. Defaults to False.

    Returns:
        A float in [0, 1]; debiased it can fall below 0.

    Raises:
        ValueError: as `canonical_correlation`, or if there are too few samples to be debiased.

    Example:

    >>> x = np.random.default_rng(0).normal(size=(50, 3))
    >>> round(centered_kernel_alignment(x, 5 * x[:, ::-1] - 1), 6)
    1.0

    Reference: Kornblith et al., Similarity of Neural Network Representations Revisited (ICML 2019); Song et
        al., Feature Selection via Dependence Maximization (2012), for the debiased estimate.
    """
    first, second = (_centred(features) for features in _features(first, second))
    if debiased:
        return _debiased_alignment(first, second)
    own = np.linalg.norm(first.T @ first) * np.linalg.norm(second.T @ second)
    return float(np.linalg.norm(first.T @ second) ** 2 / own) if own else 0.0


def expert_similarity(experts):
    """How alike experts are, as cosines of their weights or of their outputs.

    Experts are known only up to the order of their hidden units, so the same function may have
    weights with a cosine near 0; and random experts of `d` weights have cosines of about
    `0.8 / sqrt(d)`. Compare with the start of the training, and look at the outputs as well.

    Args:
        experts: a `RoutedExperts` layer, whose kernels are compared, all layers joined, without biases;
            or an array `(num_experts, ...)`, such as its outputs with the first two axes exchanged.

    Returns:
        `ExpertSimilarity`.

    Raises:
        ValueError: if a number is not finite, or experts of one's own have kernels of several shapes.

    Example:

    >>> similarity = expert_similarity(np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]]))
    >>> similarity.max, round(similarity.mean, 4)
    (1.0, 0.3333)

    Reference: Agarap and Azcarraga (2026), arXiv:2603.26734, figure 4.
    """
    vectors = _kernels(experts) if isinstance(experts, keras.layers.Layer) else np.asarray(experts)
    vectors = vectors.reshape(len(vectors), -1).astype("float64")
    refuse_not_finite("experts", vectors)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = vectors / np.where(lengths > 0, lengths, 1)
    matrix = vectors @ vectors.T
    pairs = matrix[np.triu_indices(len(matrix), 1)] if len(matrix) > 1 else np.zeros(1)
    return ExpertSimilarity(matrix, float(pairs.mean()), float(np.abs(pairs).mean()), float(pairs.max()))


def _features(first, second):
    """Both as arrays of floats, in their own precision."""
    first, second = (
        array if array.dtype.kind == "f" else array.astype("float64")
        for array in map(np.asarray, (first, second))
    )
    if first.ndim != 2 or second.ndim != 2 or len(first) != len(second):
        raise ValueError(
            "`first` and `second` must be (samples, width) matrices of the same samples. "
            f"Received: shapes {first.shape} and {second.shape}"
        )
    if len(first) < 2:
        raise TooFewSamples(f"A correlation needs at least two samples. Received: {len(first)}")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("Features must be finite. Received: NaN or infinity; look into the backbone.")
    return first, second


def _centred(features):
    """Features of mean 0 in float64; what rounding leaves of a constant one is no feature."""
    exact = features.astype("float64")
    centred = exact - exact.mean(axis=0)
    rounding = max(1e-12, 4 * np.finfo(features.dtype).eps)
    constant = np.abs(centred).max(axis=0) <= rounding * np.abs(exact).max(axis=0)
    return np.where(constant, 0.0, centred)


def _debiased_alignment(first, second):
    if len(first) < 4:
        raise TooFewSamples(f"A debiased alignment needs at least four samples. Received: {len(first)} rows")

    def dependence(one, other):
        """Song's estimate for centred features, up to a factor of the number of samples."""
        count, own, others = len(one), np.sum(one**2, axis=1), np.sum(other**2, axis=1)
        pairs = np.linalg.norm(one.T @ other) ** 2 - own @ others * count / (count - 2)
        return pairs + own.sum() * others.sum() / ((count - 1) * (count - 2))

    scale = dependence(first, first) * dependence(second, second)
    return float(dependence(first, second) / np.sqrt(scale)) if scale > 0 else 0.0


def _kernels(layer):
    """One vector of all kernels for each expert."""
    if layer.experts is None:
        kernels = [ops.convert_to_numpy(stack.kernel) for stack in layer.expert_layers]
        return np.concatenate([kernel.reshape(layer.num_experts, -1) for kernel in kernels], axis=1)
    own = [[w for w in expert.trainable_weights if len(w.shape) > 1] for expert in layer.experts]
    sizes = {tuple(tuple(weight.shape) for weight in weights) for weights in own}
    if len(sizes) > 1 or () in sizes:
        raise ValueError(
            "Weights can be compared of experts of one architecture with kernels only. Received: kernels of "
            f"shapes {sorted(sizes)}. Compare what `expert_outputs` gives instead."
        )
    return np.stack([np.concatenate([ops.convert_to_numpy(w).ravel() for w in weights]) for weights in own])


def _basis(features):
    """Orthonormal columns that span the centred features, each scaled alike first."""
    exact = features.dtype.itemsize > 4
    precision = 1e-10 if exact else np.finfo(features.dtype).eps * np.sqrt(len(features))
    centred = _centred(features)
    lengths = np.linalg.norm(centred, axis=0)
    left, values, _ = np.linalg.svd(centred / np.where(lengths > 0, lengths, 1), full_matrices=False)
    return left[:, values > precision * max(values.max(), 1e-300)] if values.size else left


def _chance(degrees, first_rank, second_rank, steps=4096):
    """Mean correlation of independent features, from the limit law of their squares."""
    a, b = first_rank / degrees, second_rank / degrees
    low, high = ((np.sqrt(a * (1 - b)) + sign * np.sqrt(b * (1 - a))) ** 2 for sign in (-1, 1))
    certain = max(0.0, a + b - 1) / min(a, b)
    middle, radius = (high + low) / 2, (high - low) / 2
    angles = (np.arange(steps) + 0.5) * np.pi / steps
    squares = np.clip(middle + radius * np.cos(angles), 1e-15, 1 - 1e-15)
    density = (radius * np.sin(angles)) ** 2 / (2 * np.pi * min(a, b) * squares * (1 - squares))
    return float(certain + np.sum(np.sqrt(squares) * density) * np.pi / steps)
