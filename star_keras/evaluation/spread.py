"""How much of its space a representation fills: the numbers that show a collapse."""

import numpy as np

from star_keras.evaluation.arrays import filled_rows, unit_rows


def embedding_spread(embeddings):
    """Mean standard deviation of the columns of embeddings of length one, in units of `1 / sqrt(d)`.

    1 where directions fill the sphere evenly, 0 where all embeddings are the same.

    Args:
        embeddings: array `(samples, d)`.

    Returns:
        A float in [0, 1].

    Raises:
        ValueError: if the array is not a filled, finite matrix.

    Example:

    >>> round(embedding_spread(np.array([[2.0, 0.0], [-1.0, 0.0], [0.0, 5.0], [0.0, -1.0]])), 3)
    1.0

    Reference: Chen and He, Exploring Simple Siamese Representation Learning (2021), section 4.1.
    """
    directions = unit_rows(filled_rows("embeddings", embeddings)).astype("float64")
    return float(directions.std(axis=0).mean() * np.sqrt(directions.shape[1]))


def effective_rank(embeddings):
    """Number of directions that embeddings vary in: `exp(H(s / sum(s)))` of the centred singular values.

    Args:
        embeddings: array `(samples, d)`.

    Returns:
        A float from 1, all on a line, to `min(samples - 1, d)`; 0 where nothing varies.

    Raises:
        ValueError: if the array is not a filled, finite matrix.

    Example:

    >>> round(effective_rank(np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])), 6)
    2.0

    Reference: Roy and Vetterli, The Effective Rank (2007).
    """
    embeddings = filled_rows("embeddings", embeddings)
    precision = np.finfo(embeddings.dtype if embeddings.dtype.kind == "f" else "float64").eps
    rows = embeddings - embeddings.mean(axis=0, dtype="float64")
    values = np.linalg.svd(np.linalg.qr(rows, mode="r"), compute_uv=False)
    values = values[values > precision * np.abs(embeddings).max() * np.sqrt(embeddings.size)]
    if not len(values):
        return 0.0
    shares = values / values.sum()
    return float(np.exp(-np.sum(shares * np.log(shares))))
