"""Augmentations that move pixels: crop and resize, flip, quarter turn."""

import functools
import math
import numbers

import keras
import numpy as np
from keras import ops

from star_keras.augmentation.base import Augmentation, Sometimes
from star_keras.augmentation.canvas import per_image
from star_keras.exceptions import ShapeError

TRIES = 10
MIDPOINTS = 1500


@keras.saving.register_keras_serializable(package="star_keras")
class RandomResizedCrop(Augmentation):
    """Cuts a random box out of each image and resizes it to one size.

    A box covers the fraction `U(scale)` of the image and has the aspect ratio `exp(U(log(ratio)))`, width
    over height, in whole pixels. The first of ten such boxes that fits into the image is taken, at a
    uniform position; if none fits, the largest centred box within `ratio`. Resizing is bilinear,
    between the pixels of the box alone, and averages over a triangle where it shrinks.

    Args:
        size: height and width of the views, an int or a pair.
        scale: least and greatest fraction of the area. Defaults to `(0.2, 1.0)`.
        ratio: least and greatest aspect ratio. Defaults to `(3 / 4, 4 / 3)`.

    Parameters: `crop`, `(batch, 4)`: top, left, height and width in pixels of the image, encoded as they
    are. Images may have any size.

    Raises:
        ValueError: `size`, `scale` or `ratio` are out of range.

    Example:

    >>> import numpy as np, star_keras as sk
    >>> crop = sk.augmentation.RandomResizedCrop(16)
    >>> box = {"crop": np.array([[4, 0, 8, 8]])}
    >>> tuple(crop.apply(np.zeros((1, 20, 30, 3)), box).shape)
    (1, 16, 16, 3)

    Reference: Szegedy et al., Going deeper with convolutions, CVPR 2015, section 6.
    """

    parameter_names = ("crop",)
    columns = ("crop_top", "crop_left", "crop_height", "crop_width")
    num_draws = 2 * TRIES + 2

    def __init__(self, size, scale=(0.2, 1.0), ratio=(3 / 4, 4 / 3), **kwargs):
        super().__init__(**kwargs)
        sizes = (size, size) if isinstance(size, numbers.Integral) else tuple(size)
        if len(sizes) != 2 or not all(isinstance(side, numbers.Integral) and side > 0 for side in sizes):
            raise ValueError(f"`size` must be a positive int or a pair of them. Received: size={size}")
        if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError(
                f"`scale` must be (least, greatest), 0 < least <= greatest <= 1. Received: scale={scale}"
            )
        if len(ratio) != 2 or not 0 < ratio[0] <= ratio[1]:
            raise ValueError(
                f"`ratio` must be (least, greatest), 0 < least <= greatest. Received: ratio={ratio}"
            )
        self._sizes = tuple(map(int, sizes))
        self.size = self._sizes[0] if isinstance(size, numbers.Integral) else self._sizes
        self.scale = scale
        self.ratio = ratio

    def from_uniform(self, uniform, image_shape):
        height, width, _ = image_shape
        areas, ratios = uniform[:, :TRIES], uniform[:, TRIES : 2 * TRIES]
        heights, widths, fits = _boxes(ops, areas, ratios, height, width, self.scale, self.ratio)
        fits = ops.cast(fits, "float32")
        fit_before = ops.matmul(fits, np.triu(np.ones((TRIES, TRIES), "float32"), 1))
        first = fits * ops.relu(1 - fit_before)
        none = 1 - ops.max(fits, axis=1)
        whole_height, whole_width = _largest_box(height, width, self.ratio)
        heights = ops.sum(first * heights, axis=1) + none * whole_height
        widths = ops.sum(first * widths, axis=1) + none * whole_width
        tops = _position(uniform[:, -2], height - heights, none)
        lefts = _position(uniform[:, -1], width - widths, none)
        return {"crop": ops.stack([tops, lefts, heights, widths], axis=1)}

    def transform(self, canvas, parameters):
        height, width, _ = canvas.images_shape
        top, left, box_height, box_width = ops.split(parameters["crop"], 4, axis=1)
        rows = _weights(top, box_height, height, self._sizes[0])
        columns = _weights(left, box_width, width, self._sizes[1], transposed=True)
        canvas.resample(rows, columns)

    def raw_moments(self, image_shape):
        return _crop_moments(*image_shape[:2], tuple(self.scale), tuple(self.ratio))

    def compute_output_shape(self, images_shape):
        return (images_shape[0], *self._sizes, images_shape[3])

    def get_config(self):
        return {**super().get_config(), "size": self.size, "scale": self.scale, "ratio": self.ratio}


def _boxes(numerics, areas, ratios, height, width, scale, ratio):
    """Boxes from draws of U(0, 1), and which of them fit; `numerics` is `keras.ops` or NumPy."""
    areas = (scale[0] + (scale[1] - scale[0]) * areas) * (height * width)
    ratios = numerics.exp(math.log(ratio[0]) + math.log(ratio[1] / ratio[0]) * ratios)
    heights = numerics.round(numerics.sqrt(areas / ratios))
    widths = numerics.round(numerics.sqrt(areas * ratios))
    fits = (heights >= 1) & (heights <= height) & (widths >= 1) & (widths <= width)
    return heights, widths, fits


def _largest_box(height, width, ratio):
    """Height and width of the largest box whose aspect ratio is allowed."""
    if width / height < ratio[0]:
        return min(height, max(1, round(width / ratio[0]))), width
    if width / height > ratio[1]:
        return height, min(width, max(1, round(height * ratio[1])))
    return height, width


def _position(uniform, room, centred):
    anywhere = ops.minimum(ops.floor(uniform * (room + 1)), room)
    return ops.where(centred > 0.5, ops.floor(room / 2), anywhere)


def _weights(start, length, old, new, transposed=False):
    """Weights `(batch, new, old)` that read `new` samples out of the box `[start, start + length)`."""
    pixels = ops.arange(old, dtype="float32")
    positions = start - 0.5 + (ops.arange(new, dtype="float32") + 0.5) * (length / new)
    if old <= new:
        positions = ops.clip(positions, start, start + length - 1)
    axis, other = (1, 2) if transposed else (2, 1)
    positions, pixels = ops.expand_dims(positions, axis), ops.expand_dims(pixels, other - 1)
    if old <= new:
        return ops.relu(1 - ops.abs(positions - pixels))
    start, length = per_image(start), per_image(length)
    inside = ops.cast((pixels > start - 0.5) & (pixels < start + length - 0.5), "float32")
    weights = inside * ops.relu(1 - ops.abs(positions - pixels) / ops.maximum(length / new, 1.0))
    return weights / ops.sum(weights, axis=axis, keepdims=True)


@functools.lru_cache(maxsize=64)
def _crop_moments(height, width, scale, ratio):
    """Moments of top, left, height and width, integrated over area and ratio by the midpoint rule."""
    draws = (np.arange(MIDPOINTS) + 0.5) / MIDPOINTS
    heights, widths, fits = _boxes(np, draws[:, None], draws[None], height, width, scale, ratio)
    missed = (1 - fits.mean()) ** TRIES
    means, squares = [], []
    for side, sides, largest in zip(
        (height, width), (heights[fits], widths[fits]), _largest_box(height, width, ratio), strict=True
    ):
        room, centre = side - sides, (side - largest) // 2
        chosen = np.array([room / 2, sides]), np.array([room * (2 * room + 1) / 6, sides**2])
        fallback = np.array([centre, largest]), np.array([centre**2, largest**2])
        for moments, drawn, fixed in zip((means, squares), chosen, fallback, strict=True):
            moments.append(fixed if missed == 1 else (1 - missed) * drawn.mean(axis=1) + missed * fixed)
    means, squares = np.array(means).T.ravel(), np.array(squares).T.ravel()
    return means, np.maximum(squares - means**2, 0)


@keras.saving.register_keras_serializable(package="star_keras")
class HorizontalFlip(Sometimes):
    """Mirrors left and right.

    Args:
        probability: share of the images that are mirrored. Defaults to 0.5.

    Parameters: `flip`, `(batch, 1)`: 1 where mirrored, else 0, encoded as it is.

    Raises:
        ValueError: the probability does not lie in [0, 1].

    Example:

    >>> import numpy as np, star_keras as sk
    >>> flip = sk.augmentation.HorizontalFlip()
    >>> row = np.arange(3.0).reshape((1, 1, 3, 1))
    >>> np.ravel(flip.apply(row, {"flip": np.ones((1, 1))})).tolist()
    [2.0, 1.0, 0.0]
    """

    parameter_names = columns = ("flip",)

    def __init__(self, probability=0.5, **kwargs):
        super().__init__(probability, **kwargs)

    def transform(self, canvas, parameters):
        canvas.mirror(parameters["flip"])


@keras.saving.register_keras_serializable(package="star_keras")
class QuarterTurn(Augmentation):
    """Turns square images by 0, 90, 180 or 270 degrees counter-clockwise, each equally likely.

    Parameters: `quarters`, `(batch, 1)`: 0, 1, 2 or 3. Encoded as cosine and sine of the angle, in which a
    quarter turn to the right is as close to none as one to the left.

    Raises:
        ShapeError: the images are not square.

    Example:

    >>> import numpy as np, star_keras as sk
    >>> turn = sk.augmentation.QuarterTurn()
    >>> image = np.array([[1.0, 2.0], [3.0, 4.0]]).reshape((1, 2, 2, 1))
    >>> np.ravel(turn.apply(image, {"quarters": np.ones((1, 1))})).tolist()
    [2.0, 4.0, 1.0, 3.0]
    """

    parameter_names = ("quarters",)
    columns = ("turn_cos", "turn_sin")
    num_draws = 1

    def from_uniform(self, uniform, image_shape):
        _check_square(image_shape)
        return {"quarters": ops.minimum(ops.floor(4 * uniform), 3)}

    def transform(self, canvas, parameters):
        _check_square(canvas.images_shape)
        quarters = per_image(parameters["quarters"])
        planes = canvas.planes
        quarter_turn = ops.flip(ops.transpose(planes, (0, 1, 3, 2)), axis=2)
        planes = ops.where(ops.mod(quarters, 2) > 0.5, quarter_turn, planes)
        canvas.planes = ops.where(quarters > 1.5, ops.flip(planes, axis=(2, 3)), planes)

    def encode(self, parameters):
        angle = self._float32(parameters)["quarters"] * (math.pi / 2)
        return ops.round(ops.concatenate([ops.cos(angle), ops.sin(angle)], axis=1))

    def raw_moments(self, image_shape):
        _check_square(image_shape)
        return [0, 0], [0.5, 0.5]


def _check_square(image_shape):
    if image_shape[0] != image_shape[1]:
        raise ShapeError(
            "`QuarterTurn` needs images as high as they are wide. "
            f"Received: image_shape={tuple(image_shape)}. Crop or resize them first."
        )
