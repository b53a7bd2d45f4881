"""One augmentation of each kind, and what tests of several files ask of them."""

import numpy as np
import pytest
from keras import ops
from scipy.ndimage import correlate1d

from star_keras import augmentation as aug

ONE_OF_EACH = {
    "RandomResizedCrop": lambda: aug.RandomResizedCrop(12, scale=(0.3, 0.9)),
    "HorizontalFlip": lambda: aug.HorizontalFlip(0.4),
    "ColorJitter": lambda: aug.ColorJitter(0.3, 0.2, 0.5, 0.25, probability=0.6),
    "Grayscale": lambda: aug.Grayscale(0.3),
    "GaussianBlur": lambda: aug.GaussianBlur(5, sigma=(0.3, 1.5), probability=0.7),
    "Solarize": lambda: aug.Solarize(100, probability=0.6),
    "QuarterTurn": lambda: aug.QuarterTurn(),
    "Compose": lambda: aug.Compose([aug.QuarterTurn(), aug.RandomResizedCrop(12), aug.Solarize(90)]),
    "star_views": lambda: aug.star_views(14),
}
each_kind = pytest.mark.parametrize("make", ONE_OF_EACH.values(), ids=ONE_OF_EACH)


def photographs(count, height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype="uint8")


def arrays(parameters):
    return {name: ops.convert_to_numpy(values) for name, values in parameters.items()}


def applied(augmentation, images, parameters):
    return ops.convert_to_numpy(augmentation.apply(images, parameters))


def encoded(augmentation, parameters):
    return ops.convert_to_numpy(augmentation.encode(parameters))


def blur_reference(image, sigma, kernel_size):
    weights = np.exp(-0.5 * ((np.arange(kernel_size) - kernel_size // 2) / sigma) ** 2)
    weights /= weights.sum()
    image = image.astype("float64")
    return correlate1d(correlate1d(image, weights, axis=0, mode="mirror"), weights, axis=1, mode="mirror")
