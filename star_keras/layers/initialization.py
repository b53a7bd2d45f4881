"""Initial laws: the uniform one of PyTorch, which the papers' recipes assume, and stacks drawn one by one."""

import keras
import numpy as np
from keras import ops


def torch_kernel():
    """Kernels from U(-b, b) with b = 1 / sqrt(fan_in)."""
    return keras.initializers.VarianceScaling(scale=1 / 3, mode="fan_in", distribution="uniform")


def torch_bias(fan_in):
    """Biases from U(-b, b) with b = 1 / sqrt(fan_in), `fan_in` being that of their kernel."""
    bound = fan_in**-0.5
    return keras.initializers.RandomUniform(-bound, bound)


def get_kernel_initializer(identifier):
    """The initializer meant by `"torch"`, or by anything that `keras.initializers.get` takes."""
    return torch_kernel() if identifier == "torch" else keras.initializers.get(identifier)


def get_bias_initializer(identifier, fan_in):
    """The initializer meant by `"torch"` at this fan-in, or by anything `keras.initializers.get` takes."""
    return torch_bias(fan_in) if identifier == "torch" else keras.initializers.get(identifier)


def read_initializer(name, identifier):
    """The argument called `name`, checked: a name stays a name, a Keras record becomes an initializer."""
    try:
        initializer = get_kernel_initializer(identifier)
    except ValueError:
        initializer = None
    if initializer is None:
        raise ValueError(
            f"`{name}` must be 'torch', the name of a Keras initializer such as 'glorot_uniform', or an "
            f"initializer. Received: {name}={identifier!r}"
        )
    return identifier if isinstance(identifier, str) else initializer


def serialize_initializer(identifier):
    """What `get_config` keeps of an initializer: a name as it is, an object as its Keras record."""
    if isinstance(identifier, keras.initializers.Initializer):
        return keras.saving.serialize_keras_object(identifier)
    return identifier


def stacked(initializer, depth=0):
    """Draws a stack of weights member by member, each as the weight of one ordinary layer.

    Drawn in one piece, a stack `(members, inputs, outputs)` would get the wrong fans, and a Keras
    initializer gives the same numbers at each call, so that all members would start, and stay, equal.

    Args:
        initializer: a Keras initializer. An integer seed is the seed of the whole: each member and
            each `depth` draws from its own seed derived from it.
        depth: number of the stack among those that share `initializer`. Defaults to 0.

    Returns:
        A function of `(shape, dtype)`, as `add_weight` takes it.
    """

    def draw(shape, dtype=None):
        members = [_member(initializer, depth, index)(shape[1:], dtype=dtype) for index in range(shape[0])]
        return ops.stack(members, axis=0)

    return draw


def _member(initializer, depth, index):
    """The initializer of one member: its own seed where the given one draws from a fixed seed."""
    config = initializer.get_config() if hasattr(initializer, "get_config") else {}
    seed = config.get("seed", "none")
    if seed is None:
        return type(initializer).from_config(config)
    if isinstance(seed, int):
        derived = np.random.SeedSequence([seed % 2**64, depth, index]).generate_state(1)[0]
        return type(initializer).from_config({**config, "seed": int(derived >> 1)})
    return initializer
