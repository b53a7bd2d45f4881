"""Find the layer whose weights have become NaN or infinite."""

import keras
import numpy as np
from keras import ops


def nonfinite_layer(layer):
    """The first layer, in order of use, with a weight that is NaN or infinite; None where there is none.

    Models are looked into, however deep they lie; layers made of layers are named as a whole. A
    subclassed model gives its layers in the order in which it got them.

    Args:
        layer: a Keras model or layer. What is not built yet has no weights.

    Returns:
        A layer, or the model itself for a weight that belongs to none of its layers; or None.

    Example:

    >>> end = keras.layers.Dense(1, name="end")
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3), end])
    >>> nonfinite_layer(model) is None
    True
    >>> _ = end.bias.assign([float("nan")])
    >>> nonfinite_layer(model).name
    'end'
    """
    if all(np.isfinite(ops.convert_to_numpy(weight)).all() for weight in layer.weights):
        return None
    parts = layer.layers if isinstance(layer, keras.Model) else ()
    found = (nonfinite_layer(part) for part in parts)
    return next((part for part in found if part is not None), layer)
