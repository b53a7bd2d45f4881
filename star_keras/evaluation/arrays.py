"""What all measures ask of their arrays."""

import numpy as np


class TooFewSamples(ValueError):
    """Fewer samples, or of fewer classes, than a measure needs: a report leaves it out and says why."""


def filled_rows(name, rows):
    """`rows` as a finite array `(n, columns)` of at least one row.

    Raises:
        ValueError: if they are not; the message calls them by `name`.
    """
    rows = np.asarray(rows)
    if rows.ndim != 2 or not rows.size:
        raise ValueError(
            f"`{name}` must be an array (samples, columns) with at least 1 row. Received: shape {rows.shape}"
        )
    refuse_not_finite(name, rows)
    return rows


def whole_labels(name, labels, count):
    """Labels `(count,)` or `(count, 1)` as an int64 array `(count,)`.

    Raises:
        ValueError: if they are not whole numbers, or not as many; the message calls them by `name`.
    """
    labels = np.asarray(labels)
    if labels.shape not in ((count,), (count, 1)) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"`{name}` must be {count} whole numbers of shape (n,) or (n, 1), one for each row. "
            f"Received: shape {labels.shape}, type {labels.dtype}"
        )
    return labels.reshape(-1).astype("int64")


def refuse_not_finite(name, rows):
    """Raises a ValueError that counts the entries of the first axis with NaN or infinity."""
    if not np.issubdtype(rows.dtype, np.number):
        raise ValueError(f"`{name}` must be numbers. Received: type {rows.dtype}")
    broken = np.count_nonzero(~np.isfinite(rows).all(axis=tuple(range(1, rows.ndim))))
    if broken:
        raise ValueError(
            f"`{name}` must be finite. Received: NaN or infinity in {broken} of {len(rows)} rows; look at "
            "the weights they were computed with."
        )


def center_and_scale(rows):
    """Mean and deviation of each column, in float64; the deviation of what never varies is infinite."""
    center, scale = rows.mean(axis=0, dtype="float64"), rows.std(axis=0, dtype="float64")
    return center, np.where(scale > 1e-6 * np.abs(rows).max(axis=0), scale, np.inf)


def largest_columns(rows, k):
    """Indices `(n, k)` of the k largest of each row, from the largest on; of equals those that come first."""
    least = -np.partition(-rows, k - 1, axis=1)[:, k - 1 : k]
    chosen = rows >= least
    for row in np.flatnonzero(np.count_nonzero(chosen, axis=1) > k):
        equal = np.flatnonzero(rows[row] == least[row])
        chosen[row, equal[k - np.count_nonzero(chosen[row]) :]] = False
    chosen = np.nonzero(chosen)[1].reshape(-1, k)
    order = np.argsort(-np.take_along_axis(rows, chosen, axis=1), axis=1, kind="stable")
    return np.take_along_axis(chosen, order, axis=1)


def unit_rows(rows):
    """Vectors along the last axis in float32 and of length one; zero stays zero."""
    rows = np.asarray(rows)
    rows = rows.astype(np.result_type(rows, "float32"), copy=False)
    # Squares of very large or small numbers leave the range; a power of two changes no digit.
    _, exponents = np.frexp(np.abs(rows).max(axis=-1, keepdims=True))
    rows = np.ldexp(rows, -exponents).astype("float32")
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1)
