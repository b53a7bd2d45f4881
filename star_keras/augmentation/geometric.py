"""Augmentations that move pixels: crop and resize, flip, quarter turn."""

import functools
import math

import keras
import numpy as np
from keras import ops

from star_keras.augmentation.base import Augmentation, checked_probability, per_image
from star_keras.exceptions import ShapeError

TRIES = 10


@keras.saving.register_keras_serializable(package="star_keras")
class RandomResizedCrop(Augmentation):
    """Cuts a random box out of each image and resizes it to one size.

    A box covers the fraction `U(scale)` of the image and has the aspect ratio
    `exp(U(log ratio))`, width over height, in whole pixels. Of ten such boxes the first that fits is
    taken, at a uniform position; if none fits, the largest centred box within `ratio`.
    Resizing is bilinear, widened to a triangle over the source pixels where it shrinks.

    Args:
        size: height and width of the views, an int or a pair.
        scale: least and greatest fraction of the area. Defaults to `(0.2, 1.0)`.
        ratio: least and greatest aspect ratio. Defaults to `(3 / 4, 4 / 3)`.

    Parameters: `crop`, `(batch, 4)`: top, left, height, width in pixels of the image. Encoded as they are.

    Example:

    >>> import numpy as np, star_keras as sk
    >>> crop = sk.augmentation.RandomResizedCrop(16)
    >>> box = {"crop": np.array([[4, 0, 8, 8]], "float32")}
    >>> tuple(crop.apply(np.zeros((1, 20, 30, 3)), box).shape)
    (1, 16, 16, 3)

    Reference: Szegedy et al., Going deeper with convolutions, CVPR 2015, section 6.
    """

    columns = ("crop_top", "crop_left", "crop_height", "crop_width")
    parameter_names = ("crop",)
    num_draws = 2 * TRIES + 2

    def __init__(self, size, scale=(0.2, 1.0), ratio=(3 / 4, 4 / 3), **kwargs):
        super().__init__(**kwargs)
        sizes = (size, size) if isinstance(size, int) else tuple(size)
        if len(sizes) != 2 or not all(isinstance(length, int) and length > 0 for length in sizes):
            raise ValueError(f"`size` must be a positive int or a pair of them. Received: size={size}")
        if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError(f"`scale` must be (least, greatest) with 0 < least <= greatest <= 1. Received: scale={scale}")
        if len(ratio) != 2 or not 0 < ratio[0] <= ratio[1]:
            raise ValueError(f"`ratio` must be (least, greatest) with 0 < least <= greatest. Received: ratio={ratio}")
        self.size = size
        self.scale = scale
        self.ratio = ratio
        self._sizes = sizes

    def parameters(self, uniform, image_shape):
        height, width, _ = image_shape
        areas, ratios = uniform[:, :TRIES], uniform[:, TRIES : 2 * TRIES]
        heights, widths = _boxes(ops, areas, ratios, height, width, self.scale, self.ratio)
        fits = (heights >= 1) & (heights <= height) & (widths >= 1) & (widths <= width)
        fits = ops.cast(fits, "float32")
        first = fits * ops.relu(1 - ops.matmul(fits, np.triu(np.ones((TRIES, TRIES), "float32"), 1)))
        none = 1 - ops.max(fits, axis=1)
        fallback_height, fallback_width = _fallback(height, width, self.ratio)
        heights = ops.sum(first * heights, axis=1) + none * fallback_height
        widths = ops.sum(first * widths, axis=1) + none * fallback_width
        tops = _position(uniform[:, -2], height - heights, none)
        lefts = _position(uniform[:, -1], width - widths, none)
        return {"crop": ops.stack([tops, lefts, heights, widths], axis=1)}

    def transform(self, canvas, parameters):
        height, width, _ = canvas.images_shape
        top, left, box_height, box_width = ops.split(parameters["crop"], 4, axis=1)
        rows = _resize_matrix(top, box_height, height, self._sizes[0])
        columns = _resize_matrix(left, box_width, width, self._sizes[1], transposed=True)
        canvas.resample(rows, columns)

    def encode(self, parameters):
        return parameters["crop"]

    def raw_moments(self, image_shape):
        return _crop_moments(*image_shape[:2], tuple(self.scale), tuple(self.ratio))

    def compute_output_shape(self, images_shape):
        return (images_shape[0], *self._sizes, images_shape[3])

    def get_config(self):
        return {**super().get_config(), "size": self.size, "scale": self.scale, "ratio": self.ratio}


def _boxes(numerics, areas, ratios, height, width, scale, ratio):
    """Heights and widths of candidate boxes, from draws of U(0, 1); `numerics` is `keras.ops` or NumPy."""
    areas = (scale[0] + (scale[1] - scale[0]) * areas) * (height * width)
    ratios = numerics.exp(math.log(ratio[0]) + math.log(ratio[1] / ratio[0]) * ratios)
    return numerics.round(numerics.sqrt(areas / ratios)), numerics.round(numerics.sqrt(areas * ratios))


def _fallback(height, width, ratio):
    """Height and width of the largest box whose aspect ratio is allowed."""
    if width / height < ratio[0]:
        return min(height, max(1, round(width / ratio[0]))), width
    if width / height > ratio[1]:
        return height, min(width, max(1, round(height * ratio[1])))
    return height, width


def _position(uniform, room, centred):
    anywhere = ops.minimum(ops.floor(uniform * (room + 1)), room)
    return ops.where(centred > 0.5, ops.floor(room / 2), anywhere)


def _resize_matrix(start, length, old, new, transposed=False):
    """Weights that read `new` samples out of the box `[start, start + length)` of `old` pixels."""
    step = length / new
    centres = start + (np.arange(new, dtype="float32") + 0.5) * step
    pixels = np.arange(old, dtype="float32") + 0.5
    if transposed:
        axis, centres, pixels = 1, centres[:, None, :], pixels[None, :, None]
    else:
        axis, centres, pixels = 2, centres[:, :, None], pixels[None, None, :]
    start, length, step = per_image(start), per_image(length), per_image(step)
    if old <= new:
        centres = ops.clip(centres, start + 0.5, start + length - 0.5)
        return ops.relu(1 - ops.abs(centres - pixels))
    weights = ops.relu(1 - ops.abs(centres - pixels) / ops.maximum(step, 1.0))
    weights = weights * ops.cast((pixels > start) & (pixels < start + length), "float32")
    return weights / ops.sum(weights, axis=axis, keepdims=True)


@functools.lru_cache(maxsize=64)
def _crop_moments(height, width, scale, ratio, steps=1500):
    draws = (np.arange(steps) + 0.5) / steps
    heights, widths = _boxes(np, draws[:, None], draws[None, :], height, width, scale, ratio)
    fits = (heights >= 1) & (heights <= height) & (widths >= 1) & (widths <= width)
    missed = (1 - fits.mean()) ** TRIES
    means, squares = [], []
    for sides, side, box in zip(
        (heights[fits], widths[fits]), (height, width), _fallback(height, width, ratio), strict=True
    ):
        room = side - sides
        centre = (side - box) // 2
        chosen = ((room / 2, room * (2 * room + 1) / 6, centre), (sides, sides**2, box))
        for first, second, other in chosen:
            means.append((1 - missed) * first.mean() + missed * other if fits.any() else other)
            squares.append((1 - missed) * second.mean() + missed * other**2 if fits.any() else other**2)
    means, squares = np.array(means)[[0, 2, 1, 3]], np.array(squares)[[0, 2, 1, 3]]
    return means, np.maximum(squares - means**2, 0)


@keras.saving.register_keras_serializable(package="star_keras")
class HorizontalFlip(Augmentation):
    """Mirrors left and right with a given probability.

    Args:
        probability: Defaults to 0.5.

    Parameters: `flip`, `(batch, 1)`: 1 where mirrored, else 0. Encoded as it is.

    Example:

    >>> import numpy as np, star_keras as sk
    >>> row = np.arange(3.0).reshape((1, 1, 3, 1))
    >>> np.ravel(sk.augmentation.HorizontalFlip().apply(row, {"flip": np.ones((1, 1))})).tolist()
    [2.0, 1.0, 0.0]
    """

    columns = ("flip",)
    parameter_names = ("flip",)
    num_draws = 1

    def __init__(self, probability=0.5, **kwargs):
        super().__init__(**kwargs)
        self.probability = checked_probability(probability)

    def parameters(self, uniform, image_shape):
        return {"flip": ops.cast(uniform < self.probability, "float32")}

    def transform(self, canvas, parameters):
        canvas.mirror(parameters["flip"])

    def encode(self, parameters):
        return parameters["flip"]

    def raw_moments(self, image_shape):
        return [self.probability], [self.probability * (1 - self.probability)]

    def get_config(self):
        return {**super().get_config(), "probability": self.probability}


@keras.saving.register_keras_serializable(package="star_keras")
class QuarterTurn(Augmentation):
    """Turns square images by 0, 90, 180 or 270 degrees counter-clockwise, each equally likely.

    Parameters: `quarters`, `(batch, 1)`: 0, 1, 2 or 3. Encoded as cosine and sine of the angle, so that
    all four lie equally far from the mean and a turn by 270 degrees is as close to none as one by 90.

    Raises:
        ShapeError: the images are not square.

    Example:

    >>> import numpy as np, star_keras as sk
    >>> image = np.array([[1.0, 2.0], [3.0, 4.0]]).reshape((1, 2, 2, 1))
    >>> np.ravel(sk.augmentation.QuarterTurn().apply(image, {"quarters": np.ones((1, 1))})).tolist()
    [2.0, 4.0, 1.0, 3.0]
    """

    columns = ("turn_cos", "turn_sin")
    parameter_names = ("quarters",)
    num_draws = 1

    def parameters(self, uniform, image_shape):
        _check_square(image_shape)
        return {"quarters": ops.minimum(ops.floor(4 * uniform), 3)}

    def transform(self, canvas, parameters):
        _check_square(canvas.images_shape)
        quarters = per_image(parameters["quarters"])
        odd, half = ops.mod(quarters, 2) > 0.5, quarters > 1.5
        canvas.planes = [_turned(plane, odd, half) for plane in canvas.planes]

    def encode(self, parameters):
        angle = parameters["quarters"] * (math.pi / 2)
        return ops.round(ops.concatenate([ops.cos(angle), ops.sin(angle)], axis=1))

    def raw_moments(self, image_shape):
        return [0, 0], [0.5, 0.5]


def _turned(plane, odd, half):
    plane = ops.where(odd, ops.flip(ops.transpose(plane, (0, 2, 1)), axis=1), plane)
    return ops.where(half, ops.flip(plane, axis=(1, 2)), plane)


def _check_square(image_shape):
    if image_shape[0] != image_shape[1]:
        raise ShapeError(
            "`QuarterTurn` needs images as high as they are wide. "
            f"Received: image_shape={tuple(image_shape)}. Crop or resize them first."
        )
