"""Augmentations that change the colour of each pixel: jitter, greyscale, solarisation."""

import keras
import numpy as np
from keras import ops

from star_keras.augmentation.base import Augmentation, Sometimes, checked_probability, mixture_moments
from star_keras.augmentation.canvas import per_image
from star_keras.exceptions import ShapeError

WHITE = 255.0
LUMA = (0.299, 0.587, 0.114)


@keras.saving.register_keras_serializable(package="star_keras")
class ColorJitter(Augmentation):
    """Changes brightness, contrast, saturation and hue of each image, in an order of its own.

    With pixels in [0, 1], brightness adds `b - 1`, contrast multiplies by `c`, saturation multiplies the S
    of HSV by `s`, all three with clipping, and hue turns the H of HSV by `h` of a circle. The factors are
    `b, c, s ~ U(1 - strength, 1 + strength)`, never below 0, and `h ~ U(-hue, hue)`.

    Args:
        brightness, contrast, saturation: strengths, at least 0. Default to 0.4.
        hue: greatest turn as a fraction of the circle, in [0, 0.5]. Defaults to 0.1.
        probability: share of the images that change. Defaults to 0.8.

    Parameters: `jitter`, `(batch, 4)`: `b, c, s, h`, which are 1, 1, 1, 0 where nothing changes; and
    `jitter_order`, `(batch, 4)`: the place, 0 to 3, at which each of the four comes. The first are encoded,
    the order is not.

    Raises:
        ValueError: a strength or the probability is out of range.
        ShapeError: the images do not have three channels.

    Example:

    >>> import numpy as np, star_keras as sk
    >>> jitter = sk.augmentation.ColorJitter()
    >>> parameters = {"jitter": np.array([[1.2, 1, 1, 0]]), "jitter_order": np.array([[0, 1, 2, 3]])}
    >>> pixel = np.array([10.0, 100.0, 250.0]).reshape((1, 1, 1, 3))
    >>> np.round(np.ravel(jitter.apply(pixel, parameters))).tolist()
    [61.0, 151.0, 255.0]

    Reference: Chen et al., A simple framework for contrastive learning of visual representations,
    ICML 2020, appendix A, with the arithmetic above.
    """

    parameter_names = ("jitter", "jitter_order")
    columns = ("brightness", "contrast", "saturation", "hue")
    num_draws = 9

    def __init__(self, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, probability=0.8, **kwargs):
        super().__init__(**kwargs)
        if min(brightness, contrast, saturation) < 0 or not 0 <= hue <= 0.5:
            raise ValueError(
                "`brightness`, `contrast` and `saturation` must be at least 0 and `hue` within [0, 0.5]. "
                f"Received: brightness={brightness}, contrast={contrast}, saturation={saturation}, hue={hue}"
            )
        self.brightness = brightness
        self.contrast = contrast
        self.saturation = saturation
        self.hue = hue
        self.probability = checked_probability(probability)

    @property
    def _ranges(self):
        """Least, greatest and neutral value of each factor."""
        strengths = (self.brightness, self.contrast, self.saturation)
        factors = [(max(0.0, 1.0 - strength), 1.0 + strength, 1.0) for strength in strengths]
        return np.array([*factors, (-self.hue, self.hue, 0.0)])

    def from_uniform(self, uniform, image_shape):
        low, high, neutral = (ops.convert_to_tensor(values, "float32") for values in self._ranges.T)
        applied = uniform[:, 8:] < self.probability
        factors = ops.where(applied, low + (high - low) * uniform[:, :4], neutral)
        return {"jitter": factors, "jitter_order": _ranks(uniform[:, 4:8])}

    def transform(self, canvas, parameters):
        _check_rgb(canvas.images_shape, "ColorJitter")
        canvas.planes = _jitter(canvas.planes, parameters["jitter"], parameters["jitter_order"])

    def encode(self, parameters):
        return self._float32(parameters)["jitter"]

    def raw_moments(self, image_shape):
        return mixture_moments(self.probability, *self._ranges.T)

    def get_config(self):
        return {
            **super().get_config(),
            "brightness": self.brightness,
            "contrast": self.contrast,
            "saturation": self.saturation,
            "hue": self.hue,
            "probability": self.probability,
        }


def _ranks(draws):
    """Place of each number among those of its row, `(batch, k)`; of equal ones the left comes first."""
    place = ops.arange(draws.shape[1])
    own, other = draws[:, :, None], draws[:, None, :]
    earlier = (other < own) | ((other == own) & (place[None] < place[:, None]))
    return ops.sum(ops.cast(earlier, "float32"), axis=2)


def _jitter(planes, factors, order):
    """Brightness, contrast, saturation and hue in the order of each image.

    Brightness and contrast are clipped lines, and one clipped line after another is a clipped line again.
    So every order is: line, saturation, line, hue, line, saturation, line, where what an image does
    not need at a place is neutral there.
    """
    brightness, contrast, saturation, hue = ops.split(factors, 4, axis=1)
    brightness_at, contrast_at, saturation_at, hue_at = ops.split(order, 4, axis=1)

    def only_at(place, factor, factor_at):
        after_saturation, after_hue = factor_at > saturation_at, factor_at > hue_at
        here = ops.cast(after_saturation, "int32") + 2 * ops.cast(after_hue, "int32") == place
        return ops.where(here, factor, 1.0)

    lines = [
        _line(
            only_at(place, brightness, brightness_at),
            only_at(place, contrast, contrast_at),
            brightness_at < contrast_at,
        )
        for place in range(4)
    ]
    saturation_first = saturation_at < hue_at
    planes = _clipped(planes, lines[0])
    planes = _saturate(planes, per_image(ops.where(saturation_first, saturation, 1.0)))
    planes = _clipped(planes, lines[1])
    planes = _turn_hue(planes, per_image(6 * hue))
    planes = _clipped(planes, lines[2])
    planes = _saturate(planes, per_image(ops.where(saturation_first, 1.0, saturation)))
    return _clipped(planes, lines[3])


def _line(brightness, contrast, brightness_first):
    """Brightness and contrast as `clip(slope * x + offset, low, high)`, exact for x in [0, 255]."""
    added = WHITE * (brightness - 1)
    offset = ops.where(brightness_first, contrast * added, added)
    low = ops.where(brightness_first, 0.0, ops.clip(added, 0, WHITE))
    high = WHITE * ops.clip(ops.where(brightness_first, contrast, brightness), 0, 1)
    return [per_image(value) for value in (contrast, offset, low, high)]


def _clipped(planes, line):
    slope, offset, low, high = line
    return ops.minimum(ops.maximum(slope * planes + offset, low), high)


def _saturate(planes, factor):
    """Scales the S of HSV: V and H stay, so each channel keeps its share of the way up to V."""
    value = ops.max(planes, axis=0)
    chroma = value - ops.min(planes, axis=0)
    factor = ops.minimum(factor, value / ops.maximum(chroma, 1e-6))
    return planes * factor + (value - value * factor)


def _turn_hue(planes, sextants):
    """Turns the H of HSV, kept here multiplied by the chroma, so that grey needs no division."""
    red, green, blue = planes[0], planes[1], planes[2]
    value, least = ops.max(planes, axis=0), ops.min(planes, axis=0)
    chroma = value - least
    twice, four, circle = 2 * chroma, 4 * chroma, 6 * chroma
    green_or_blue = ops.where(green >= value, blue - red + twice, red - green + four)
    hue = ops.where(red >= value, green - blue, green_or_blue) + sextants * chroma
    hue = ops.where(hue < 0, hue + circle, ops.where(hue >= circle, hue - circle, hue))
    shares = ops.abs(hue - 3 * chroma) - chroma, twice - ops.abs(hue - twice), twice - ops.abs(hue - four)
    return ops.stack([least + ops.minimum(ops.relu(share), chroma) for share in shares])


@keras.saving.register_keras_serializable(package="star_keras")
class Grayscale(Sometimes):
    """Replaces all three channels by `0.299 R + 0.587 G + 0.114 B`.

    Args:
        probability: share of the images that become grey. Defaults to 0.2.

    Parameters: `grayscale`, `(batch, 1)`: 1 where grey, else 0, encoded as it is.

    Raises:
        ValueError: the probability does not lie in [0, 1].
        ShapeError: the images do not have three channels.

    Example:

    >>> import numpy as np, star_keras as sk
    >>> grayscale = sk.augmentation.Grayscale()
    >>> pixel = np.array([100.0, 0.0, 0.0]).reshape((1, 1, 1, 3))
    >>> np.round(np.ravel(grayscale.apply(pixel, {"grayscale": np.ones((1, 1))}))).tolist()
    [30.0, 30.0, 30.0]
    """

    parameter_names = columns = ("grayscale",)

    def __init__(self, probability=0.2, **kwargs):
        super().__init__(probability, **kwargs)

    def transform(self, canvas, parameters):
        _check_rgb(canvas.images_shape, "Grayscale")
        planes, applied = canvas.planes, per_image(parameters["grayscale"])
        grey = sum(weight * planes[channel] for channel, weight in enumerate(LUMA))
        canvas.planes = planes * (1 - applied) + grey * applied


@keras.saving.register_keras_serializable(package="star_keras")
class Solarize(Sometimes):
    """Inverts bright values: `x -> 255 - x` where `x >= threshold`.

    Args:
        threshold: in [0, 255]. Defaults to 128.
        probability: share of the images that are solarised. Defaults to 0.2.

    Parameters: `solarize`, `(batch, 1)`: 1 where solarised, else 0, encoded as it is.

    Raises:
        ValueError: the threshold does not lie in [0, 255], or the probability in [0, 1].

    Example:

    >>> import numpy as np, star_keras as sk
    >>> solarize = sk.augmentation.Solarize()
    >>> pixel = np.array([0.0, 100.0, 200.0]).reshape((1, 1, 1, 3))
    >>> np.ravel(solarize.apply(pixel, {"solarize": np.ones((1, 1))})).tolist()
    [0.0, 100.0, 55.0]

    Reference: Grill et al., Bootstrap your own latent, NeurIPS 2020, appendix B.
    """

    parameter_names = columns = ("solarize",)

    def __init__(self, threshold=128, probability=0.2, **kwargs):
        super().__init__(probability, **kwargs)
        if not 0 <= threshold <= WHITE:
            raise ValueError(f"`threshold` must lie in [0, 255]. Received: threshold={threshold}")
        self.threshold = threshold

    def transform(self, canvas, parameters):
        planes, applied = canvas.planes, per_image(parameters["solarize"]) > 0.5
        canvas.planes = ops.where(applied & (planes >= self.threshold), WHITE - planes, planes)

    def get_config(self):
        return {**super().get_config(), "threshold": self.threshold}


def _check_rgb(image_shape, name):
    if image_shape[-1] != 3:
        raise ShapeError(
            f"`{name}` needs images with the three channels red, green, blue. "
            f"Received: image_shape={tuple(image_shape)}. Repeat a grey channel three times, or drop alpha."
        )
