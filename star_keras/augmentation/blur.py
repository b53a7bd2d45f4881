"""Gaussian blur, of a strength of its own for each image."""

import functools

import keras
import numpy as np
from keras import ops

from star_keras.augmentation.base import Augmentation, checked_probability, mixture_moments
from star_keras.exceptions import ShapeError
from star_keras.guards.arguments import is_whole


@keras.saving.register_keras_serializable(package="star_keras")
class GaussianBlur(Augmentation):
    """Blurs each image with a Gaussian of its own width, reflecting the image at its borders.

    Args:
        kernel_size: pixels under the Gaussian along each axis, odd.
        sigma: least and greatest standard deviation in pixels. Defaults to `(0.1, 2.0)`.
        probability: share of the images that are blurred. Defaults to 0.5.

    Parameters: `sigma`, `(batch, 1)`: the standard deviation, 0 where not blurred, encoded as it is.

    Raises:
        ValueError: the size of the kernel is no odd number, or `sigma` or the probability out of range.
        ShapeError: the images are not larger than half the kernel, so there is too little to reflect.

    Example:

    >>> import numpy as np, star_keras as sk
    >>> blur = sk.augmentation.GaussianBlur(3)
    >>> image = np.array([0.0, 0.0, 255.0, 0.0, 0.0]) * np.ones((1, 5, 1))
    >>> view = blur.apply(image[..., None], {"sigma": np.ones((1, 1))})
    >>> np.round(view[0, 0, :, 0]).tolist()
    [0.0, 70.0, 115.0, 70.0, 0.0]
    """

    parameter_names = columns = ("sigma",)
    num_draws = 2

    def __init__(self, kernel_size, sigma=(0.1, 2.0), probability=0.5, **kwargs):
        super().__init__(**kwargs)
        if not is_whole(kernel_size) or kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"`kernel_size` must be a positive odd int. Received: kernel_size={kernel_size}")
        if len(sigma) != 2 or not 0 < sigma[0] <= sigma[1]:
            raise ValueError(
                f"`sigma` must be (least, greatest), 0 < least <= greatest. Received: sigma={sigma}"
            )
        self.kernel_size = int(kernel_size)
        self.sigma = sigma
        self.probability = checked_probability(probability)

    def from_uniform(self, uniform, image_shape):
        self._check(image_shape)
        low, high = self.sigma
        sigma = low + (high - low) * uniform[:, :1]
        return {"sigma": ops.where(uniform[:, 1:] < self.probability, sigma, 0.0)}

    def transform(self, canvas, parameters):
        height, width, _ = canvas.images_shape
        self._check(canvas.images_shape)
        radius = self.kernel_size // 2
        distances = ops.arange(radius + 1, dtype="float32") / ops.maximum(parameters["sigma"], 1e-3)
        weights = ops.exp(-0.5 * ops.square(distances))
        weights = weights / (2 * ops.sum(weights, axis=1, keepdims=True) - 1)
        rows = ops.tensordot(weights, _reflected(height, radius), axes=1)
        columns = ops.tensordot(weights, _reflected(width, radius).transpose((0, 2, 1)), axes=1)
        canvas.resample(rows, columns)

    def raw_moments(self, image_shape):
        mean, variance = mixture_moments(self.probability, *self.sigma, 0.0)
        return [mean], [variance]

    def get_config(self):
        config = {"kernel_size": self.kernel_size, "sigma": self.sigma, "probability": self.probability}
        return {**super().get_config(), **config}

    def _check(self, image_shape):
        least = self.kernel_size // 2 + 1
        if min(image_shape[:2]) < least:
            raise ShapeError(
                f"A blur over {self.kernel_size} pixels needs images of at least {least} x {least}. "
                f"Received: image_shape={tuple(image_shape)}. Use a smaller `kernel_size`."
            )


@functools.lru_cache(maxsize=16)
def _reflected(size, radius):
    """`[d, i, j]`: how often pixel j lies at distance d from pixel i, the border being a mirror."""
    counts = np.zeros((radius + 1, size, size), "float32")
    pixels = np.arange(size)
    for offset in range(-radius, radius + 1):
        neighbours = np.abs(pixels + offset)
        neighbours = np.where(neighbours < size, neighbours, 2 * (size - 1) - neighbours)
        counts[abs(offset), pixels, neighbours] += 1
    return counts
