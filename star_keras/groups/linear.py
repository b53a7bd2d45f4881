"""Groups of matrices, such as the symmetries of the state of a control task."""

import keras
import numpy as np
from keras import ops

from star_keras.groups.base import Group, negative_axis

TOLERANCE = 1e-5


@keras.saving.register_keras_serializable(package="star_keras")
class Linear(Group):
    """Matrices acting on the vectors along an axis, `(g x)_i = sum_j matrices[g, i, j] x_j`.

    Args:
        matrices: `(order, size, size)`; the first is the identity, none repeats, and the product of any
            two is one of them, to 1e-5.
        axis: of length `size`, counted from the end. Defaults to -1.

    Raises:
        ValueError: if the matrices are no group; the message names the pair. When a tensor that is moved
            is not of a floating type.
        ShapeError: when the axis of a tensor is not of length `size`.

    Example: the mirror symmetry of a cart with a pole, whose four numbers change sign.

    >>> group = Linear([np.eye(4), -np.eye(4)])
    >>> np.array(group.act(1, np.array([[1.0, 2.0, 0.5, -1.0]], "float32")))
    array([[-1. , -2. , -0.5,  1. ]], dtype=float32)

    Reference: van der Pol et al., "MDP Homomorphic Networks" (NeurIPS 2020).
    """

    def __init__(self, matrices, axis=-1):
        self.matrices = np.asarray(matrices).tolist()
        self.axis = negative_axis("Linear", axis)
        self._arrays = _check_matrices(matrices)
        super().__init__(_table_of(self._arrays), {self.axis: self._arrays.shape[1]})

    def __repr__(self):
        order, size, _ = self._arrays.shape
        return f"Linear({order} matrices of {size} x {size}, axis={self.axis})"

    def _move(self, element, x):
        kind = keras.backend.standardize_dtype(x.dtype)
        if "float" not in kind:
            raise ValueError(f"{self!r} moves floating tensors. Received: dtype {kind}; cast it first.")
        accurate = "float64" if kind == "float64" else "float32"
        rows = ops.cast(ops.moveaxis(x, self.axis, -1), accurate)
        moved = ops.matmul(rows, self._arrays[element].T.astype(accurate))
        return ops.cast(ops.moveaxis(moved, -1, self.axis), kind)

    def get_config(self):
        return {"matrices": self.matrices, "axis": self.axis}


def _check_matrices(matrices):
    arrays = np.asarray(matrices, "float64")
    if arrays.ndim != 3 or arrays.shape[1] != arrays.shape[2] or 0 in arrays.shape:
        raise ValueError(
            "`matrices` must be of shape (order, size, size), one square matrix an element. "
            f"Received: shape {arrays.shape}"
        )
    if not np.isfinite(arrays).all():
        raise ValueError(
            "`matrices` must be finite. Received: NaN or infinity in matrix "
            f"{np.argwhere(~np.isfinite(arrays))[0][0]}"
        )
    if np.abs(arrays[0] - np.eye(arrays.shape[1])).max() > TOLERANCE:
        raise ValueError(
            f"The first of `matrices` must be the identity. Received: matrix 0 = {arrays[0].tolist()}"
        )
    return arrays


def _table_of(arrays):
    """The composition table, or ValueError that names equal matrices or the pair that leaves the group."""
    table = np.empty((len(arrays), len(arrays)), "int64")
    for first, matrix in enumerate(arrays):
        equal = np.flatnonzero(_distances(arrays, matrix) < TOLERANCE)
        if len(equal) > 1:
            raise ValueError(f"Elements must be distinct. Received: equal matrices {equal[:2].tolist()}")
        for second, other in enumerate(arrays):
            distances = _distances(arrays, matrix @ other)
            table[first, second] = np.argmin(distances)
            if distances.min() > TOLERANCE:
                raise ValueError(
                    f"A group is closed. Received: matrices {first} and {second}, whose product "
                    f"{(matrix @ other).round(4).tolist()} is none of them"
                )
    return table


def _distances(arrays, matrix):
    return np.abs(arrays - matrix).max(axis=(1, 2))
