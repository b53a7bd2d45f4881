"""Which images a representation takes for alike."""

import typing

import numpy as np

from star_keras.evaluation.arrays import filled_rows, largest_columns, unit_rows
from star_keras.guards.arguments import check_count

_BLOCK_ENTRIES = 2**24


class Neighbors(typing.NamedTuple):
    """What `nearest_images` found.

    Attributes:
        indices: rows of the bank, `(queries, k)`, from the most similar.
        similarities: their cosines, float32 of the same shape.
    """

    indices: np.ndarray
    similarities: np.ndarray

    def to_dict(self):
        """The fields as a dict of plain Python values."""
        return {"indices": self.indices.tolist(), "similarities": self.similarities.tolist()}


def nearest_images(queries, bank=None, k=8):
    """The k most similar rows of a bank for each query, by cosine; exact, of equals those that come first.

    The rows are embeddings of images in any space, see `extract_embeddings`: two spaces that are trained
    for different tasks take other images for alike. Similarities are computed for a block of queries at a
    time, so memory does not grow with their number.

    Args:
        queries: array `(n, d)`. A row of zeros has the similarity 0 to all.
        bank: array `(m, d)`. Defaults to None: the queries themselves, none being its own neighbour.
        k: number of neighbours, at most m, or `n - 1` without a bank. Defaults to 8.

    Returns:
        `Neighbors`.

    Raises:
        ValueError: if widths differ, a value is not finite, or `k` is out of range.

    Example:

    >>> found = nearest_images(np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), k=1)
    >>> found.indices.ravel()
    array([1, 0, 1])
    """
    queries = filled_rows("queries", queries)
    others = queries if bank is None else filled_rows("bank", bank)
    if others.shape[1] != queries.shape[1]:
        raise ValueError(
            "`queries` and `bank` must be embeddings in the same space. Received: "
            f"{queries.shape[1]} and {others.shape[1]} columns"
        )
    if check_count("k", k) > len(others) - (bank is None):
        raise ValueError(
            f"`k` must lie between 1 and the {len(others) - (bank is None)} other images. Received: k={k}"
        )
    queries, others = unit_rows(queries), unit_rows(others)
    step = max(1, _BLOCK_ENTRIES // len(others))
    indices, values = [], []
    for start in range(0, len(queries), step):
        similarities = queries[start : start + step] @ others.T
        if bank is None:
            rows = np.arange(len(similarities))
            similarities[rows, start + rows] = -np.inf
        indices.append(largest_columns(similarities, k))
        values.append(np.take_along_axis(similarities, indices[-1], axis=1))
    return Neighbors(np.concatenate(indices), np.concatenate(values))
