"""Augmentations one after the other, and the views of the STAR recipe."""

import numbers

import keras
import numpy as np
from keras import ops

from star_keras.augmentation.base import Augmentation
from star_keras.augmentation.blur import GaussianBlur
from star_keras.augmentation.colour import ColorJitter, Grayscale
from star_keras.augmentation.geometric import HorizontalFlip, RandomResizedCrop


@keras.saving.register_keras_serializable(package="star_keras")
class Compose(Augmentation):
    """Applies augmentations one after the other, as one pass over the batch.

    Neighbours that resample, such as crop, flip and blur, are merged into one matrix an axis; the result is
    that of applying one after the other, up to rounding.

    Args:
        augmentations: list of `Augmentation`, at least one.

    Parameters: those of all augmentations, encoded side by side. Where two share the name of a parameter or
    of a column, the later gets a number, as in `solarize_2`.

    Raises:
        ValueError: there is no augmentation, or something else among them.

    Example:

    >>> import star_keras as sk
    >>> views = sk.augmentation.Compose([sk.augmentation.HorizontalFlip(), sk.augmentation.Grayscale()])
    >>> views.columns
    ('flip', 'grayscale')
    """

    def __init__(self, augmentations, **kwargs):
        super().__init__(**kwargs)
        augmentations = list(augmentations)
        if not augmentations or not all(isinstance(one, Augmentation) for one in augmentations):
            raise ValueError(
                "`augmentations` must be a list of star_keras.augmentation.Augmentation, at least one. "
                f"Received: augmentations={augmentations}"
            )
        self.augmentations = augmentations
        self._names = _distinct([one.parameter_names for one in augmentations])

    @property
    def parameter_names(self):
        return tuple(name for group in self._names for name in group)

    @property
    def columns(self):
        names = _distinct([one.columns for one in self.augmentations])
        return tuple(name for group in names for name in group)

    @property
    def num_draws(self):
        return sum(one.num_draws for one in self.augmentations)

    def from_uniform(self, uniform, image_shape):
        parameters, start, shape = {}, 0, (None, *image_shape)
        for one, names in zip(self.augmentations, self._names, strict=True):
            own = one.from_uniform(uniform[:, start : start + one.num_draws], shape[1:])
            parameters.update({name: own[key] for name, key in zip(names, one.parameter_names, strict=True)})
            start, shape = start + one.num_draws, one.compute_output_shape(shape)
        return parameters

    def transform(self, canvas, parameters):
        for one, own in self._each(parameters):
            one.transform(canvas, own)

    def encode(self, parameters):
        parameters = self._float32(parameters)
        return ops.concatenate([one.encode(own) for one, own in self._each(parameters)], axis=1)

    def raw_moments(self, image_shape):
        moments, shape = [], (None, *image_shape)
        for one in self.augmentations:
            moments.append(one.raw_moments(shape[1:]))
            shape = one.compute_output_shape(shape)
        return [np.concatenate(values) for values in zip(*moments, strict=True)]

    def _each(self, parameters):
        for one, names in zip(self.augmentations, self._names, strict=True):
            yield one, {key: parameters[name] for name, key in zip(names, one.parameter_names, strict=True)}

    def compute_output_shape(self, images_shape):
        for one in self.augmentations:
            images_shape = one.compute_output_shape(images_shape)
        return tuple(images_shape)

    def get_config(self):
        augmentations = [keras.saving.serialize_keras_object(one) for one in self.augmentations]
        return {**super().get_config(), "augmentations": augmentations}

    @classmethod
    def from_config(cls, config):
        augmentations = [keras.saving.deserialize_keras_object(one) for one in config["augmentations"]]
        return cls(**{**config, "augmentations": augmentations})


def _distinct(groups):
    """The names of each group, numbered where an earlier group has them already."""
    taken, distinct = set(), []
    for names in groups:
        distinct.append([])
        for name in names:
            free, number = name, 1
            while free in taken:
                number += 1
                free = f"{name}_{number}"
            taken.add(free)
            distinct[-1].append(free)
    return distinct


def star_views(size):
    """The views of the STAR recipe, encoded as its eleven numbers.

    A random crop of 20 to 100 per cent of the area resized to `size`, a flip for one image in two, jitter
    of strengths 0.4, 0.4, 0.4, 0.1 for four in five, grey for one in five, and for one in two a Gaussian
    blur of 0.1 to 2 pixels under a kernel of about a tenth of the size.

    Args:
        size: height and width of the views, an int of at least 2.

    Returns:
        A `Compose` with the columns crop top, left, height and width, flip, brightness, contrast,
        saturation, hue, grey and sigma.

    Raises:
        ValueError: the size is no whole number of at least 2.

    Example:

    >>> import star_keras as sk
    >>> mean, std = sk.augmentation.star_views(96).moments((96, 96, 3))
    >>> [round(float(value), 1) for value in mean]
    [13.2, 13.2, 69.6, 69.6, 0.5, 1.0, 1.0, 1.0, 0.0, 0.2, 0.5]

    Reference: Jeon et al., Soft task-aware routing of experts for equivariant representation learning,
    NeurIPS 2025.
    """
    if not isinstance(size, numbers.Integral) or size < 2:
        raise ValueError(f"`size` must be an int of at least 2. Received: size={size}")
    kernel_size = max(3, 2 * round((size / 10 - 1) / 2) + 1)
    crop, blur = RandomResizedCrop(size), GaussianBlur(kernel_size)
    return Compose([crop, HorizontalFlip(), ColorJitter(), Grayscale(), blur])
