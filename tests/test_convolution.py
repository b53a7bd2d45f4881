"""The convolution that learns faster in bfloat16: the gradients of its formula, and when it steps aside."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from star_keras import backend, layers

ROUNDING = 2.0**-8  # of bfloat16


def exact(generator, *shape):
    """Numbers that bfloat16 holds."""
    return generator.integers(-8, 9, shape).astype("float64") / 8


def padded_as(inputs, size, strides, padding):
    """The inputs with the zeros that TensorFlow puts around them, the odd one below and to the right."""
    if padding == "valid":
        return inputs
    missing = [
        max((-(-side // step) - 1) * step + kernel - side, 0)
        for side, kernel, step in zip(inputs.shape[1:3], size, strides, strict=True)
    ]
    return np.pad(inputs, ((0, 0), *((zeros // 2, zeros - zeros // 2) for zeros in missing), (0, 0)))


def expected_gradients(inputs, kernel, upstream, strides, padding):
    """`dX` and `dW` by their formulas, position by position, in float64."""
    padded = padded_as(inputs, kernel.shape[:2], strides, padding)
    padded_gradient, kernel_gradient = np.zeros_like(padded), np.zeros_like(kernel)
    for i, j in np.ndindex(*kernel.shape[:2]):
        for y, x in np.ndindex(*upstream.shape[1:3]):
            here = (slice(None), strides[0] * y + i, strides[1] * x + j)
            kernel_gradient[i, j] += padded[here].T @ upstream[:, y, x]
            padded_gradient[here] += upstream[:, y, x] @ kernel[i, j].T
    top, left = ((a - b) // 2 for a, b in zip(padded.shape[1:3], inputs.shape[1:3], strict=True))
    return padded_gradient[:, top : top + inputs.shape[1], left : left + inputs.shape[2]], kernel_gradient


def gradients(layer, inputs, upstream):
    inputs = tf.cast(inputs, "bfloat16")
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        loss = tf.reduce_sum(tf.cast(layer(inputs), "float32") * tf.cast(upstream, "float32"))
    return tape.gradient(loss, [inputs, layer.kernel.value])


def test_gradient_of_a_kernel_by_hand():
    layer = layers.Conv2D(1, (2, 1), use_bias=False, dtype="mixed_bfloat16")
    column = np.array([1.0, 2.0, 4.0]).reshape(1, 3, 1, 1)
    layer.build(column.shape)
    # Two outputs, weighted 1 and 3: the upper weight met 1 and 2, the lower one 2 and 4.
    inputs_gradient, kernel_gradient = gradients(layer, column, np.array([1.0, 3.0]).reshape(1, 2, 1, 1))
    assert np.ravel(kernel_gradient).tolist() == [1 * 1 + 3 * 2, 1 * 2 + 3 * 4]
    assert inputs_gradient.shape == column.shape


@pytest.mark.parametrize("run", [gradients, tf.function(gradients)], ids=["eager", "graph"])
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (2, 1)])
@pytest.mark.parametrize("size", [(3, 3), (2, 3), (5, 5)])
@pytest.mark.parametrize("sides", [(5, 5), (8, 6)])
def test_gradients_are_those_of_the_formula(sides, size, strides, padding, run, monkeypatch):
    taken = record_calls(monkeypatch)
    generator = np.random.default_rng(0)
    layer = layers.Conv2D(7, size, strides, padding, use_bias=False, dtype="mixed_bfloat16")
    inputs = exact(generator, 3, *sides, 4)
    layer.build(inputs.shape)
    kernel = exact(generator, *size, 4, 7)
    layer.kernel.assign(kernel)
    upstream = exact(generator, *layer.compute_output_shape(inputs.shape))
    received = run(layer, inputs, upstream)
    assert taken
    for one, other in zip(
        received, expected_gradients(inputs, kernel, upstream, strides, padding), strict=True
    ):
        np.testing.assert_allclose(
            np.array(tf.cast(one, "float64")), other, rtol=0, atol=ROUNDING * np.abs(other).max()
        )


def record_calls(monkeypatch):
    """A list that grows whenever the fast gradient is taken."""
    taken, convolution = [], backend.small_convolution

    def recorded(*arguments):
        taken.append(arguments)
        return convolution(*arguments)

    monkeypatch.setattr(backend, "small_convolution", recorded)
    return taken


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        (dict(dtype="float32"), (2, 4, 4, 4)),
        (dict(dtype="mixed_float16"), (2, 4, 4, 4)),
        (dict(dilation_rate=2), (2, 4, 4, 4)),
        (dict(groups=2), (2, 4, 4, 4)),
        (dict(kernel_size=1), (2, 4, 4, 4)),
        (dict(), (2, 9, 8, 4)),
        (dict(), (2, None, 4, 4)),
    ],
    ids=["float32", "float16", "dilated", "grouped", "pointwise", "large", "open"],
)
def test_it_is_the_keras_layer_elsewhere(options, shape, monkeypatch):
    taken = record_calls(monkeypatch)
    options = dict(filters=4, kernel_size=3, padding="same", dtype="mixed_bfloat16") | options
    ours, theirs = layers.Conv2D(**options), keras.layers.Conv2D(**options)
    outputs = ours(keras.Input(shape[1:], shape[0]))
    assert not taken
    assert outputs.shape == theirs(keras.Input(shape[1:], shape[0])).shape


def test_outputs_weights_and_config_are_those_of_keras():
    options = dict(filters=3, kernel_size=3, padding="same", dtype="mixed_bfloat16", name="conv")
    ours, theirs = layers.Conv2D(**options), keras.layers.Conv2D(**options)
    images = np.random.default_rng(0).normal(size=(2, 4, 4, 5))
    ours.build(images.shape), theirs.build(images.shape)
    theirs.set_weights(ours.get_weights())
    assert [w.path for w in ours.weights] == [w.path for w in theirs.weights]
    assert np.array_equal(ours(images), theirs(images))
    assert ours.get_config() == theirs.get_config()
