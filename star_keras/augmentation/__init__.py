"""Views and the numbers that describe them: an augmentation samples parameters, applies and encodes them."""

from star_keras.augmentation.base import Augmentation
from star_keras.augmentation.blur import GaussianBlur
from star_keras.augmentation.colour import ColorJitter, Grayscale, Solarize
from star_keras.augmentation.composition import Compose, star_views
from star_keras.augmentation.geometric import HorizontalFlip, QuarterTurn, RandomResizedCrop

__all__ = [
    "Augmentation",
    "ColorJitter",
    "Compose",
    "GaussianBlur",
    "Grayscale",
    "HorizontalFlip",
    "QuarterTurn",
    "RandomResizedCrop",
    "Solarize",
    "star_views",
]
