"""Groups of matrices, such as the symmetries of the state of a control task."""

import keras
import numpy as np
from keras import ops

from star_keras.groups.base import Group, negative_axis

TOLERANCE = 1e-5


@keras.saving.register_keras_serializable(package="star_keras")
class Linear(Group):
    """Matrices acting on the vectors along an axis, `(g x)_i = sum_j matrices[g, i, j] x_j`.

    Around a center, it is the difference from it that they act on: `g x = center + matrices[g] (x - center)`.

    Args:
        matrices: `(order, size, size)`; the first is the identity, none repeats, and the product of any
            two is one of them, to 1e-5.
        axis: of length `size`, counted from the end. Defaults to -1.
        center: `size` numbers, the point that no element moves. Defaults to None, the origin.

    Raises:
        ValueError: if the matrices are no group; the message names the pair. If the center is not `size`
            finite numbers. When a tensor that is moved is not of a floating type.
        ShapeError: when the axis of a tensor is not of length `size`.

    Example: the mirror symmetry of a cart with a pole, whose four numbers change sign.

    >>> group = Linear([np.eye(4), -np.eye(4)])
    >>> np.array(group.act(1, np.array([[1.0, 2.0, 0.5, -1.0]], "float32")))
    array([[-1. , -2. , -0.5,  1. ]], dtype=float32)

    Reference: van der Pol et al., "MDP Homomorphic Networks" (NeurIPS 2020).
    """

    def __init__(self, matrices, axis=-1, center=None):
        self.matrices = np.asarray(matrices).tolist()
        self.axis = negative_axis("Linear", axis)
        self._arrays = _check_matrices(matrices)
        self.center = None if center is None else np.asarray(center).tolist()
        self._shifts = _shifts(self._arrays, center)
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
        if self._shifts is not None:
            moved = moved + self._shifts[element].astype(accurate)
        return ops.cast(ops.moveaxis(moved, -1, self.axis), kind)

    def get_config(self):
        return {"matrices": self.matrices, "axis": self.axis, "center": self.center}


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


def _shifts(arrays, center):
    """What is added to each product for the center to stay where it is, or None."""
    if center is None:
        return None
    point = np.asarray(center, "float64")
    if point.shape != arrays.shape[1:2] or not np.isfinite(point).all():
        raise ValueError(
            f"`center` must be {arrays.shape[1]} finite numbers, one a side of the matrices. "
            f"Received: center={center}"
        )
    return point - arrays @ point


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
