"""Rotations by any angle, by interpolation: approximate."""

import functools

import keras
import numpy as np
from keras import ops

from star_keras.exceptions import ShapeError
from star_keras.groups.base import Group
from star_keras.groups.grid import HEIGHT, WIDTH
from star_keras.guards.arguments import check_choice, check_count


@keras.saving.register_keras_serializable(package="star_keras")
class Rotations(Group):
    """Rotations of channels-last maps by `360 / n` degrees: approximate, for interpolation forgets.

    Element `k` turns counter-clockwise by `k * 360 / n` degrees about the centre. Every pixel is a mean of
    its neighbours in the source, weighted by distance; what was outside the map is 0. The composition
    table is exact, but two turns one after the other blur, and lose the corners, where one turn of the
    sum would not: `exact` is False, laws of the action are not verified, and an `EquiTune` on this group
    is equivariant up to that error, which its `equivariance_error` measures. Turns by 90 degrees of
    square maps are exact.

    Args:
        n: number of rotations, a positive whole number.
        interpolation: "bilinear" (default) or "nearest".

    Raises:
        ValueError: if `n` is not positive or `interpolation` is unknown.
        ShapeError: if height or width are not known.

    Example:

    >>> group = Rotations(8)
    >>> group.exact, group.compose(7, 2)
    (False, 1)
    >>> tuple(group.act(1, np.ones((2, 5, 5, 3), "float32")).shape)
    (2, 5, 5, 3)
    """

    def __init__(self, n, interpolation="bilinear"):
        check_choice("interpolation", interpolation, ("bilinear", "nearest"))
        self.n = check_count("n", n)
        self.interpolation = interpolation
        elements = np.arange(self.n)
        super().__init__((elements[:, None] + elements) % n, {HEIGHT: None, WIDTH: None}, exact=False)

    def __repr__(self):
        return f'Rotations({self.n}, "{self.interpolation}")'

    def check_shape(self, shape, elements=None):
        super().check_shape(shape, elements)
        if None in (shape[HEIGHT], shape[WIDTH]):
            raise ShapeError(f"{self!r} needs maps of known height and width. Received: shape {tuple(shape)}")

    def _move(self, element, x):
        height, width, channels = x.shape[HEIGHT], x.shape[WIDTH], x.shape[-1]
        sources, weights = _neighbours(360 * element / self.n, height, width, self.interpolation)
        kind = keras.backend.standardize_dtype(x.dtype)
        accurate = "float64" if kind == "float64" else "float32"
        leading = ops.shape(x)[:HEIGHT]
        pixels = ops.reshape(ops.cast(x, accurate), (*leading, height * width, channels))
        found = ops.take(pixels, sources.reshape(-1), axis=-2)
        found = ops.reshape(found, (*leading, *sources.shape, channels))
        turned = ops.sum(found * weights.astype(accurate)[..., None], axis=HEIGHT)
        turned = ops.reshape(turned, (*leading, height, width, channels))
        return ops.cast(turned if "float" in kind else ops.round(turned), kind)

    def get_config(self):
        return {"n": self.n, "interpolation": self.interpolation}


@functools.lru_cache(maxsize=256)
def _neighbours(degrees, height, width, interpolation):
    """Flat source indices of each pixel and their weights, both `(neighbours, height * width)`."""
    angle = np.deg2rad(degrees)
    centre_row, centre_column = (height - 1) / 2, (width - 1) / 2
    rows, columns = np.mgrid[:height, :width]
    right, up = columns - centre_column, centre_row - rows
    source_row = centre_row - (np.cos(angle) * up - np.sin(angle) * right)
    source_column = centre_column + np.cos(angle) * right + np.sin(angle) * up
    # Quarter turns end on whole pixels, up to the rounding of sine and cosine.
    position = np.round(np.stack([source_row, source_column]), 9)
    if interpolation == "nearest":
        position = np.round(position)
    corner = np.floor(position)
    beyond = position - corner
    sources, weights = [], []
    for step in ((0, 0), (0, 1), (1, 0), (1, 1)):
        row, column = (corner + np.reshape(step, (2, 1, 1))).astype("int64")
        share = np.where(np.reshape(step, (2, 1, 1)), beyond, 1 - beyond).prod(axis=0)
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        sources.append(np.where(inside, row * width + column, 0).reshape(-1))
        weights.append(np.where(inside, share, 0.0).reshape(-1))
    return np.stack(sources).astype("int32"), np.stack(weights)
