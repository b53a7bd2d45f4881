"""The soft nearest neighbour loss in float64 with whole matrices, and batches it has to survive."""

import numpy as np

TEMPERATURES = (0.05, 0.5, 1.0, 50.0)
DISTANCES = ("cosine", "squared")


def naive(labels, embeddings, temperature, distance, mask=None, weights=None):
    """Rows, and gradients of their weighted sum (by default of their mean over anchors).

    Returns:
        `(rows, gradient of the embeddings, derivative by the temperature)`.
    """
    x = embeddings.reshape(len(embeddings), -1).astype("float64")
    labels, n = np.asarray(labels).reshape(-1), len(x)
    shown = np.ones(n, bool) if mask is None else np.asarray(mask)
    others = shown[:, None] & shown & ~np.eye(n, dtype=bool)
    partners = others & (labels[:, None] == labels)
    if distance == "cosine":
        # What is shorter counts as zero: its direction is rounding.
        smallest = 6.2e-5 if embeddings.dtype == np.float16 else 1e-30
        zero = np.abs(x).max(1, keepdims=True) <= smallest
        inverse = np.where(zero, 0, 1 / np.where(zero, 1, np.linalg.norm(x, axis=1, keepdims=True)))
        unit = x * inverse
        d = 1 - unit @ unit.T
    else:
        d = np.square(x[:, None] - x).sum(-1)
    (all_others, p), (all_partners, q) = (_log_sum_exp(-d / temperature, m) for m in (others, partners))
    valid = partners.any(1)
    rows = np.where(valid, all_others - all_partners, 0)
    if weights is None:
        weights = np.full(n, 1 / max(valid.sum(), 1))
    slope = (q - p) * (valid * weights)[:, None]  # of d / temperature
    of_d = slope / temperature
    if distance == "cosine":
        of_unit = -(of_d + of_d.T) @ unit
        gradient = inverse * (of_unit - unit * np.sum(unit * of_unit, axis=1, keepdims=True))
    else:
        both = of_d + of_d.T
        gradient = 2 * (both.sum(1)[:, None] * x - both @ x)
    return rows, gradient.reshape(embeddings.shape), -np.sum(slope * d) / temperature**2


def _log_sum_exp(logits, shown):
    """Log-sums of exp over what is shown, and its softmax; zeros where nothing is."""
    logits = np.where(shown, logits, -np.inf)
    top = logits.max(1, keepdims=True)
    top = np.where(np.isfinite(top), top, 0)
    exponentials = np.exp(logits - top)
    sums = exponentials.sum(1, keepdims=True)
    sums = np.where(sums > 0, sums, 1)
    return (np.log(sums) + top)[:, 0], exponentials / sums


def _cases():
    def rng(seed):
        return np.random.default_rng(seed)

    def normal(n, *shape, seed=0):
        return rng(seed).normal(size=(n, *shape)).astype("float32")

    def classes(n, number=4, seed=1):
        return rng(seed).integers(0, number, n)

    plain = normal(20, 6)
    zeros = plain.copy()
    zeros[[2, 7, 8]] = 0
    ties = normal(20, 6)
    ties[5:10] = ties[0]
    ties[12] = ties[13]
    lone = classes(20)
    lone[[0, 3, 9]] = 100, 101, 102
    wide = rng(2).uniform(-3e4, 3e4, (20, 6)).astype("float16")
    subnormal = (plain * 2e-6).astype("float16")
    subnormal[::3] = plain[::3]
    yield "random", classes(20), plain
    yield "wider", classes(41), normal(41, 3, seed=3)
    yield "lone classes", lone, plain
    yield "all labels unique", np.arange(20), plain
    yield "one class", np.zeros(20, int), plain
    yield "batch of one", np.zeros(1, int), normal(1, 4)
    yield "two partners", np.zeros(2, int), normal(2, 4)
    yield "two strangers", np.arange(2), normal(2, 4)
    yield "odd labels", np.array([-7, 10**6, 0, -(10**6)])[classes(20)], plain
    yield "labels beyond float32", 2**24 + classes(20), plain
    yield "coincident points", classes(20), ties
    yield "all points equal", classes(20), np.tile(plain[:1], (20, 1))
    yield "long", classes(20), plain * np.float32(1e4)
    yield "short", classes(20), plain * np.float32(1e-20)
    yield "zero rows", classes(20), zeros
    yield "offset", classes(20), plain + np.float32(1e3)
    yield "wide float16", classes(20), wide
    yield "subnormal float16", classes(20), subnormal
    yield "maps", classes(12), normal(12, 3, 2, 4)
    yield "numbers", classes(12), normal(12)


CASES = {name: (labels.astype("int32"), embeddings) for name, labels, embeddings in _cases()}


def assert_like_naive(actual, expected, embeddings, temperature, distance):
    """To 1e-5 of the largest value, or of what a single anchor can contribute; float16 to its digits."""
    half = embeddings.dtype == np.float16
    x = embeddings.reshape(len(embeddings), -1).astype("float64")
    lengths = np.linalg.norm(x, axis=1)
    if distance == "cosine":
        steepest = 1 / max(np.median(lengths), 1e-30)
    else:
        steepest = 2 * max(np.linalg.norm(x - x.mean(0), axis=1).max(), 1e-6 * lengths.max())
    contributions = 1.0, steepest / temperature / len(x), 1 / temperature
    for index, (result, reference) in enumerate(zip(actual, expected, strict=True)):
        largest = max(np.abs(reference).max(), contributions[index])
        relative, rounding = (1e-3, 3e-8) if half and index == 1 else (1e-5, 0)
        result, tolerance = np.asarray(result, "float64"), relative * largest + rounding
        np.testing.assert_allclose(result, reference, rtol=0, atol=tolerance, err_msg=str(index))
