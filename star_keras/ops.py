"""Stateless tensor mathematics that two rooms or more use; float32 inside, finite gradients everywhere."""

from keras import ops


def l2_normalize(inputs, axis=-1, epsilon=1e-12):
    """Scales vectors to length one in float32: `x / sqrt(max(sum(x**2), epsilon))`.

    Args:
        inputs: tensor of any float type. Vectors whose squares overflow are normalised as well.
        axis: axis of the vectors. Defaults to the last.
        epsilon: smallest squared length; a zero vector stays zero and has a finite gradient.

    Returns:
        A float32 tensor of the shape of `inputs`.
    """
    inputs = ops.cast(inputs, "float32")
    largest = ops.max(ops.abs(inputs), axis=axis, keepdims=True)
    inputs = inputs / ops.stop_gradient(ops.maximum(largest, 1.0))
    squared = ops.sum(ops.square(inputs), axis=axis, keepdims=True)
    return inputs * ops.rsqrt(ops.maximum(squared, epsilon))
