"""Linear regression with a penalty, in closed form."""

import numpy as np

from star_keras.evaluation.arrays import center_and_scale

_BLOCK_ROWS = 4096
_PENALTIES = np.logspace(-3, 4, 15)


def ridge(inputs, targets, penalty=1e-3):
    """Fits `min mean_i |y_i - w x_i - b|^2 + penalty * |w|^2` to standardised inputs.

    In scikit-learn's terms `Ridge(alpha=penalty * n)` behind a `StandardScaler`. Inputs that never vary
    do not count.

    Args:
        inputs: array `(n, d)`.
        targets: array `(n, columns)`.
        penalty: positive number, or one for each column. Defaults to 1e-3.

    Returns:
        The fitted function, from arrays `(m, d)` to float64 arrays `(m, columns)`.
    """
    return _solver(inputs, targets)(penalty)


def ridge_by_groups(inputs, targets):
    """`ridge` with the penalty, of each column, that errs least on groups held out; fitted to all.

    Rows of a group, such as the views of an image, are no samples of their own: where groups are hardly
    more than inputs, a small penalty learns them by heart. Held out is the last fifth of the groups; the
    penalties lie between 1e-3 and 1e4.

    Args:
        inputs: array `(groups, rows, d)` of at least two groups, in random order.
        targets: array `(groups, rows, columns)`.

    Returns:
        The fitted function, as of `ridge`.
    """
    kept = len(inputs) - max(1, len(inputs) // 5)
    solve = _solver(*_flat(inputs[:kept], targets[:kept]))
    rows, truth = _flat(inputs[kept:], targets[kept:])
    errors = [np.sum((solve(penalty)(rows) - truth) ** 2, axis=0) for penalty in _PENALTIES]
    return ridge(*_flat(inputs, targets), _PENALTIES[np.argmin(errors, axis=0)])


def _flat(*arrays):
    return [array.reshape(-1, array.shape[-1]) for array in arrays]


def _solver(inputs, targets):
    """What gives, for a penalty, the function that `ridge` fits."""
    center, scale = center_and_scale(inputs)
    offset = targets.mean(axis=0, dtype="float64")
    gram, products = np.zeros((len(scale),) * 2), np.zeros((len(scale), targets.shape[1]))
    for start in range(0, len(inputs), _BLOCK_ROWS):
        rows = slice(start, start + _BLOCK_ROWS)
        standard = (inputs[rows] - center) / scale
        gram += standard.T @ standard
        products += standard.T @ (targets[rows] - offset)
    values, vectors = np.linalg.eigh(gram / len(inputs))
    products = vectors.T @ products / len(inputs)

    def solve(penalty):
        weights = vectors @ (products / (values[:, None] + penalty))
        return lambda rows: (rows - center) / scale @ weights + offset

    return solve


def variance_explained(truth, answers):
    """R2 over all columns, `1 - sum(errors**2) / sum(deviations**2)`, and of each column.

    Columns that never vary are left out of the first and NaN in the second; if none varies, both are NaN.
    """
    errors = np.sum((truth - answers) ** 2, axis=0)
    deviations = np.sum((truth - truth.mean(axis=0)) ** 2, axis=0)
    varies = deviations > 1e-12 * len(truth)
    by_column = np.where(varies, 1 - errors / np.where(varies, deviations, 1), np.nan)
    pooled = 1 - errors[varies].sum() / deviations[varies].sum() if varies.any() else np.nan
    return float(pooled), by_column
