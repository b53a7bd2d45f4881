"""Checks of arguments and inputs that layers, models and measures share, and freezing."""

import math
import numbers

from star_keras.backend import known_values
from star_keras.exceptions import ConfigError


def is_whole(value):
    """Whether `value` is a whole number; True and False are none."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def plain(value):
    """`value`, as an int where it is a whole number, be it one of NumPy."""
    return int(value) if is_whole(value) else value


def is_finite(value):
    """Whether `value` is a finite real number; True and False are none."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def check_choice(name, value, choices):
    """Raises ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {choices}. Received: {name}={value!r}")


def check_count(name, value):
    """Returns `value` as an int if it is a positive whole number, else raises ValueError."""
    if not is_whole(value) or value < 1:
        raise ValueError(f"`{name}` must be a positive whole number. Received: {name}={value!r}")
    return int(value)


def check_widths(name, values):
    """Returns `values` as a tuple of positive ints, else raises ValueError."""
    if not isinstance(values, (tuple, list)):
        raise ValueError(
            f"`{name}` must be a tuple or list of layer widths, such as (512, 512), or () for none. "
            f"Received: {name}={values!r}"
        )
    return tuple(check_count(name, value) for value in values)


def check_range(name, value, least, below):
    """Returns `value` if it is a number in `[least, below)`, else raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not least <= value < below:
        raise ValueError(
            f"`{name}` must be a finite number of at least {least} and below {below}. "
            f"Received: {name}={value!r}"
        )
    return value


def check_ids(name, ids, size):
    """Raises ValueError unless ids lie in `0 .. size - 1`; those of a graph that is traced are unknown."""
    values = known_values(ids)
    if values is not None and values.size and not 0 <= values.min() <= values.max() < size:
        raise ValueError(
            f"`{name}` must be token ids in 0 .. {size - 1}. Received: ids from {values.min()} to "
            f"{values.max()}"
        )


def check_features(layer, name, shape):
    """Raises ValueError unless `shape` is `(batch, features)` with a known number of features."""
    if len(shape) != 2 or shape[-1] is None:
        raise ValueError(
            f"`{type(layer).__name__}` takes {name} of shape (batch, features) with a known number of "
            f"features. Received: shape {tuple(shape)}. Pool or flatten the axes between first."
        )


def check_width(layer, name, shape, width):
    """Raises ValueError unless `shape` is `(batch, width)`, for which the layer was built."""
    if len(shape) != 2 or shape[-1] not in (width, None):
        raise ValueError(
            f"This `{type(layer).__name__}` was built for {name} of shape (batch, {width}). Received: shape "
            f"{tuple(shape)}. Pool or flatten axes between, or make another layer for another width."
        )


def narrow_policy(owner, policy):
    """The error for a dtype policy in which batch statistics cannot be kept."""
    return ConfigError(
        f"The dtype policy of {owner} must be 'float32', 'float64', 'mixed_bfloat16' or 'mixed_float16': "
        f"batch statistics need more than 16 bits. Received: {policy.name!r}. The mixed policies compute in "
        "16 bits."
    )


def freeze_parts(layer):
    """Freezes the parts of a layer that is frozen itself: those made after `trainable=False` was passed."""
    if not layer.trainable:
        layer.trainable = True  # on TensorFlow nothing happens where an attribute is set to what it is
        layer.trainable = False
