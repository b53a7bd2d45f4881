"""Augmentations that change the colour of each pixel: jitter, greyscale, solarisation."""

import keras
from keras import ops

from star_keras.augmentation.base import Augmentation, checked_probability, mixture_moments, per_image
from star_keras.exceptions import ShapeError

WHITE = 255.0
LUMA = (0.299, 0.587, 0.114)


def _check_rgb(image_shape, name):
    if image_shape[-1] != 3:
        raise ShapeError(
            f"`{name}` needs images with the three channels red, green, blue. "
            f"Received: image_shape={tuple(image_shape)}. Repeat a grey channel three times or drop alpha."
        )


@keras.saving.register_keras_serializable(package="star_keras")
class ColorJitter(Augmentation):
    """Changes brightness, contrast, saturation and hue of each image, in an order of its own.

    With pixels in [0, 1], brightness adds `b - 1`, contrast multiplies by `c`, saturation
    multiplies the S of HSV by `s`, each with clipping, and hue turns the H of HSV by `h` of a circle;
    `b, c, s ~ U(1 - strength, 1 + strength)`, never below 0, and `h ~ U(-hue, hue)`.

    Args:
        brightness, contrast, saturation: strengths, at least 0. Default to 0.4.
        hue: greatest turn, a fraction of the circle in [0, 0.5]. Defaults to 0.1.
        probability: share of the images that change. Defaults to 0.8.

    Parameters: `jitter`, `(batch, 4)`: the factors `b, c, s` and the turn `h`, which are 1, 1, 1, 0 where
    nothing changes; `jitter_order`, `(batch, 4)`: the position, 0 to 3, at which each takes place.
    The factors are encoded, the order is not.

    Example:

    >>> import numpy as np, star_keras as sk
    >>> jitter = sk.augmentation.ColorJitter()
    >>> parameters = {"jitter": np.array([[1.2, 1, 1, 0]]), "jitter_order": np.array([[0, 1, 2, 3]])}
    >>> pixel = np.array([10.0, 100.0, 250.0]).reshape((1, 1, 1, 3))
    >>> np.round(np.ravel(jitter.apply(pixel, parameters))).tolist()
    [61.0, 151.0, 255.0]

    Reference: spec of the STAR recipe, Jeon et al., NeurIPS 2025, whose factors are those of kornia.
    """

    columns = ("brightness", "contrast", "saturation", "hue")
    parameter_names = ("jitter", "jitter_order")
    num_draws = 9

    def __init__(self, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, probability=0.8, **kwargs):
        super().__init__(**kwargs)
        if min(brightness, contrast, saturation) < 0 or not 0 <= hue <= 0.5:
            raise ValueError(
                "`brightness`, `contrast` and `saturation` must be at least 0 and `hue` within [0, 0.5]. Received: "
                f"brightness={brightness}, contrast={contrast}, saturation={saturation}, hue={hue}"
            )
        self.brightness = brightness
        self.contrast = contrast
        self.saturation = saturation
        self.hue = hue
        self.probability = checked_probability(probability)

    @property
    def _ranges(self):
        strengths = (self.brightness, self.contrast, self.saturation)
        return [(max(0.0, 1 - strength), 1 + strength, 1.0) for strength in strengths] + [(-self.hue, self.hue, 0.0)]

    def parameters(self, uniform, image_shape):
        low, high, neutral = (ops.convert_to_tensor([values], dtype="float32") for values in zip(*self._ranges, strict=True))
        factors = low + (high - low) * uniform[:, :4]
        factors = ops.where(uniform[:, 8:] < self.probability, factors, neutral)
        return {"jitter": factors, "jitter_order": _ranks(uniform[:, 4:8])}

    def transform(self, canvas, parameters):
        _check_rgb(canvas.images_shape, "ColorJitter")
        canvas.planes = _jitter(canvas.planes, parameters["jitter"], parameters["jitter_order"])

    def encode(self, parameters):
        return parameters["jitter"]

    def raw_moments(self, image_shape):
        return list(zip(*(mixture_moments(self.probability, *values) for values in self._ranges), strict=True))

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
    """Position of each column among the columns of its row, `(batch, k)`; ties go to the left."""
    columns = ops.split(draws, draws.shape[1], axis=1)
    ranks = []
    for place, column in enumerate(columns):
        before = [other <= column for other in columns[:place]] + [other < column for other in columns[place + 1 :]]
        ranks.append(sum(ops.cast(flag, "float32") for flag in before))
    return ops.concatenate(ranks, axis=1)


def _jitter(planes, factors, order):
    """Brightness, contrast, saturation and hue in the order of each image.

    Brightness and contrast are clipped lines, and clipped lines after one another are one clipped line.
    So every order is: line, saturation, line, hue, line, saturation, line; what an image does
    not need at a place is neutral there.
    """
    brightness, contrast, saturation, hue = ops.split(ops.cast(factors, "float32"), 4, axis=1)
    brightness_at, contrast_at, saturation_at, hue_at = ops.split(ops.cast(order, "float32"), 4, axis=1)
    saturation_first = saturation_at < hue_at
    places = []
    for at in (brightness_at, contrast_at):
        places.append((at > ops.minimum(saturation_at, hue_at), at > ops.maximum(saturation_at, hue_at)))
    # Four places for lines: 0 first of all, 3 last of all, 1 or 2 between saturation and hue.
    slots = [ops.where(last, 3, ops.where(between, ops.where(saturation_first, 1, 2), 0)) for between, last in places]
    lines = [
        _line(
            ops.where(slots[0] == slot, brightness, 1.0),
            ops.where(slots[1] == slot, contrast, 1.0),
            brightness_at < contrast_at,
        )
        for slot in range(4)
    ]
    planes = _clipped(planes, lines[0])
    planes = _saturate(planes, per_image(ops.where(saturation_first, saturation, 1.0)))
    planes = _clipped(planes, lines[1])
    planes = _turn_hue(planes, per_image(6 * hue))
    planes = _clipped(planes, lines[2])
    planes = _saturate(planes, per_image(ops.where(saturation_first, 1.0, saturation)))
    return _clipped(planes, lines[3])


def _line(brightness, contrast, brightness_first):
    """Brightness and contrast as `clip(slope * x + offset, low, high)`; exact for x within [0, 255]."""
    added = (brightness - 1) * WHITE
    values = (
        contrast,
        ops.where(brightness_first, contrast * added, added),
        ops.where(brightness_first, 0.0, ops.clip(added, 0, WHITE)),
        ops.where(brightness_first, WHITE * ops.minimum(contrast, 1), ops.clip(added + WHITE, 0, WHITE)),
    )
    return [per_image(value) for value in values]


def _clipped(planes, line):
    slope, offset, low, high = line
    return [ops.minimum(ops.maximum(slope * plane + offset, low), high) for plane in planes]


def _extremes(planes):
    red, green, blue = planes
    greatest = ops.maximum(ops.maximum(red, green), blue)
    return greatest, greatest - ops.minimum(ops.minimum(red, green), blue)


def _saturate(planes, factor):
    """Scales the S of HSV: value V and hue stay, so each channel keeps its share of the way to V."""
    value, chroma = _extremes(planes)
    factor = ops.minimum(factor, value / ops.maximum(chroma, 1e-6))
    kept = value - value * factor
    return [plane * factor + kept for plane in planes]


def _turn_hue(planes, sextants):
    """Turns the H of HSV; hue is kept multiplied by the chroma, so grey pixels need no division."""
    red, green, blue = planes
    value, chroma = _extremes(planes)
    hue = ops.where(
        red >= value, green - blue, ops.where(green >= value, blue - red + 2 * chroma, red - green + 4 * chroma)
    )
    hue = hue + sextants * chroma
    circle = 6 * chroma
    hue = ops.where(hue < 0, hue + circle, ops.where(hue >= circle, hue - circle, hue))
    least = value - chroma
    return [
        least + ops.minimum(ops.relu(ops.abs(hue - 3 * chroma) - chroma), chroma),
        least + ops.minimum(ops.relu(2 * chroma - ops.abs(hue - 2 * chroma)), chroma),
        least + ops.minimum(ops.relu(2 * chroma - ops.abs(hue - 4 * chroma)), chroma),
    ]


@keras.saving.register_keras_serializable(package="star_keras")
class Grayscale(Augmentation):
    """Replaces all channels by `0.299 R + 0.587 G + 0.114 B` with a given probability.

    Args:
        probability: Defaults to 0.2.

    Parameters: `grayscale`, `(batch, 1)`: 1 where grey, else 0. Encoded as it is.

    Example:

    >>> import numpy as np, star_keras as sk
    >>> pixel = np.array([100.0, 0.0, 0.0]).reshape((1, 1, 1, 3))
    >>> np.round(np.ravel(sk.augmentation.Grayscale().apply(pixel, {"grayscale": np.ones((1, 1))})), 1).tolist()
    [29.9, 29.9, 29.9]
    """

    columns = ("grayscale",)
    parameter_names = ("grayscale",)
    num_draws = 1

    def __init__(self, probability=0.2, **kwargs):
        super().__init__(**kwargs)
        self.probability = checked_probability(probability)

    def parameters(self, uniform, image_shape):
        return {"grayscale": ops.cast(uniform < self.probability, "float32")}

    def transform(self, canvas, parameters):
        _check_rgb(canvas.images_shape, "Grayscale")
        applied = per_image(parameters["grayscale"])
        planes = canvas.planes
        grey = sum(weight * plane for weight, plane in zip(LUMA, planes, strict=True))
        canvas.planes = [ops.where(applied > 0.5, grey, plane) for plane in planes]

    def encode(self, parameters):
        return parameters["grayscale"]

    def raw_moments(self, image_shape):
        return [self.probability], [self.probability * (1 - self.probability)]

    def get_config(self):
        return {**super().get_config(), "probability": self.probability}


@keras.saving.register_keras_serializable(package="star_keras")
class Solarize(Augmentation):
    """Inverts bright values, `x -> 255 - x` where `x >= threshold`, with a given probability.

    Args:
        threshold: in [0, 255]. Defaults to 128.
        probability: Defaults to 0.2.

    Parameters: `solarize`, `(batch, 1)`: 1 where applied, else 0. Encoded as it is.

    Example:

    >>> import numpy as np, star_keras as sk
    >>> pixel = np.array([0.0, 100.0, 200.0]).reshape((1, 1, 1, 3))
    >>> np.ravel(sk.augmentation.Solarize().apply(pixel, {"solarize": np.ones((1, 1))})).tolist()
    [0.0, 100.0, 55.0]

    Reference: Grill et al., Bootstrap your own latent, NeurIPS 2020, appendix B.
    """

    columns = ("solarize",)
    parameter_names = ("solarize",)
    num_draws = 1

    def __init__(self, threshold=128.0, probability=0.2, **kwargs):
        super().__init__(**kwargs)
        if not 0 <= threshold <= WHITE:
            raise ValueError(f"`threshold` must lie in [0, 255]. Received: threshold={threshold}")
        self.threshold = threshold
        self.probability = checked_probability(probability)

    def parameters(self, uniform, image_shape):
        return {"solarize": ops.cast(uniform < self.probability, "float32")}

    def transform(self, canvas, parameters):
        # An image left alone has a threshold that no value reaches.
        threshold = per_image(ops.where(parameters["solarize"] > 0.5, self.threshold, float("inf")))
        canvas.planes = [ops.where(plane >= threshold, WHITE - plane, plane) for plane in canvas.planes]

    def encode(self, parameters):
        return parameters["solarize"]

    def raw_moments(self, image_shape):
        return [self.probability], [self.probability * (1 - self.probability)]

    def get_config(self):
        return {**super().get_config(), "threshold": self.threshold, "probability": self.probability}
