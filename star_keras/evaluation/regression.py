"""Linear regression with a penalty, in closed form."""

import numpy as np

_BLOCK_ROWS = 4096


def ridge(inputs, targets, penalty=1e-3):
    """Fits `min mean_i |y_i - w x_i - b|^2 + penalty * |w|^2` to standardised inputs.

    In scikit-learn's terms `Ridge(alpha=penalty * n)` behind a `StandardScaler`. Inputs that never vary
    do not count.

    Args:
        inputs: array `(n, d)`.
        targets: array `(n, columns)`.
        penalty: positive number. Defaults to 1e-3.

    Returns:
        The fitted function, from arrays `(m, d)` to float64 arrays `(m, columns)`.
    """
    center, scale = inputs.mean(axis=0, dtype="float64"), inputs.std(axis=0, dtype="float64")
    scale = np.where(scale > 1e-6 * np.abs(inputs).max(axis=0), scale, np.inf)
    offset = targets.mean(axis=0, dtype="float64")
    gram, products = np.zeros((len(scale),) * 2), np.zeros((len(scale), targets.shape[1]))
    for start in range(0, len(inputs), _BLOCK_ROWS):
        rows = slice(start, start + _BLOCK_ROWS)
        standard = (inputs[rows] - center) / scale
        gram += standard.T @ standard
        products += standard.T @ (targets[rows] - offset)
    gram = gram / len(inputs) + penalty * np.eye(len(gram))
    weights = np.linalg.solve(gram, products / len(inputs))
    return lambda rows: (rows - center) / scale @ weights + offset


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
