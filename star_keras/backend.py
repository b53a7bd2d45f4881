"""The only file that asks which backend runs: fused kernels, custom gradients, rows over replicas."""

import keras
import numpy as np
from keras import ops


def _replica_context():
    """The TensorFlow replica context when more than one replica runs in sync, else None."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return context if context is not None and context.num_replicas_in_sync > 1 else None


def num_replicas():
    """Number of replicas that train in sync, 1 outside a distribution strategy."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


def require_tensorflow(purpose):
    """Raises ValueError unless the backend is TensorFlow, which `purpose`, a noun in the singular, needs."""
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise ValueError(
            f"{purpose} needs the backend tensorflow. Received: the backend {backend}; set KERAS_BACKEND."
        )


def use_all_devices():
    """Lets models made from now on train on all GPUs, or without one on all CPU devices, in sync.

    Raises:
        ValueError: on another backend than TensorFlow.
    """
    require_tensorflow("Training on several devices")
    import tensorflow as tf

    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    strategy = tf.distribute.MirroredStrategy([device.name for device in devices])
    tf.distribute.experimental_set_strategy(strategy)


def replica_rows(count):
    """Where this replica's rows lie in the global batch.

    Args:
        count: number of rows on this replica, an int or a scalar tensor.

    Returns:
        `(start, total)`: index of the first own row and the number of rows over all replicas.
        `(0, count)` outside a strategy.
    """
    context = _replica_context()
    if context is None:
        return 0, count
    counts = context.all_gather(ops.reshape(ops.cast(count, "int32"), (1,)), axis=0)
    return ops.sum(counts[: context.replica_id_in_sync_group]), ops.sum(counts)


def own_rows(draw, count):
    """This replica's rows of what is drawn for all replicas at once, which all of them draw alike.

    Args:
        draw: function of the number of rows over all replicas; returns a tensor of so many rows, or a
            dict of some.
        count: number of rows on this replica, an int or a scalar tensor.
    """
    start, total = replica_rows(count)
    drawn = draw(total)
    if total is count:
        return drawn
    return keras.tree.map_structure(lambda rows: rows[start : start + count], drawn)


def gather(rows):
    """Rows of all replicas in replica order, with gradient; `rows` itself outside a strategy.

    Collectives refuse bfloat16, so floating-point numbers are gathered, and returned, in float32.
    """
    context = _replica_context()
    if context is None:
        return rows
    whole = "int" in keras.backend.standardize_dtype(rows.dtype)
    return context.all_gather(rows if whole else ops.cast(rows, "float32"), axis=0)


def custom_gradient(function):
    """A function with its own backward pass, spelt the same on every backend.

    Args:
        function: takes tensors and returns `(outputs, backward)`, where `backward(upstream)`
            returns a tuple with one gradient for each input.

    Returns:
        A function of the same tensors that returns `outputs`. Nothing inside is recorded for
        differentiation, so what `function` does not keep is freed.
    """
    backend = keras.backend.backend()

    @ops.custom_gradient
    def wrapped(*tensors):
        outputs, backward = function(*[ops.stop_gradient(tensor) for tensor in tensors])

        def gradient(*arguments, upstream=None):
            grads = backward(arguments[0] if upstream is None else upstream)
            return grads[0] if backend == "tensorflow" and len(grads) == 1 else grads

        return outputs, gradient

    return wrapped


def sequential_loop(steps, body, state):
    """`ops.fori_loop(0, steps, body, state)`, one step after the other.

    TensorFlow starts up to ten steps at once otherwise, and holds the memory of them all. A single
    step is taken without a loop.
    """
    if isinstance(steps, int) and steps == 1:
        return body(0, state)
    if keras.backend.backend() != "tensorflow":
        return ops.fori_loop(0, steps, body, state)
    import tensorflow as tf

    return tf.while_loop(
        lambda step, _: step < steps,
        lambda step, state: (step + 1, body(step, state)),
        (0, state),
        parallel_iterations=1,
    )[1]


def known_values(tensor, fetch=False):
    """The numbers of an array or an eager tensor, or None while a graph is traced.

    Numbers on an accelerator of PyTorch, whose every training step is eager and would wait for them,
    are None, too, unless told to `fetch` them.
    """
    on_host = getattr(getattr(tensor, "device", None), "type", "cpu") == "cpu"
    if not (on_host or fetch):
        return None
    try:
        return ops.convert_to_numpy(tensor) if fetch else np.asarray(tensor)
    except (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError):
        return None


def steps_per_execution(steps):
    """How many steps of `fit` are compiled into one call where so many are wanted: on PyTorch, one."""
    return 1 if keras.backend.backend() == "torch" else steps


def fused_batch_norm(inputs, scale, offset, epsilon):
    """Normalises a batch over all axes but the last in one kernel.

    Args:
        inputs: `(batch, ..., channels)`.
        scale, offset: float32 vectors of length `channels`.
        epsilon: added to the variance.

    Returns:
        `(outputs, mean, variance)` with the unbiased variance, statistics in float32; None where
        the backend has no such kernel.
    """
    empty = np.zeros(0, "float32")
    return _fused_batch_norm(inputs, scale, offset, empty, empty, epsilon, training=True)


def fused_batch_norm_inference(inputs, scale, offset, mean, variance, epsilon):
    """Normalises with given statistics in one kernel; None where the backend has no such kernel."""
    results = _fused_batch_norm(inputs, scale, offset, mean, variance, epsilon, training=False)
    return results and results[0]


def _fused_batch_norm(inputs, scale, offset, mean, variance, epsilon, training):
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    # The kernel wants four dimensions; the collapsed middle keeps channels last.
    flat = tf.reshape(inputs, (-1, 1, 1, inputs.shape[-1])) if len(inputs.shape) != 4 else inputs
    outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=flat, scale=scale, offset=offset, mean=mean, variance=variance, epsilon=epsilon,
        exponential_avg_factor=1.0, data_format="NHWC", is_training=training,
    )  # fmt: skip
    if flat is not inputs:
        outputs = tf.reshape(outputs, tf.shape(inputs))
        outputs.set_shape(inputs.shape)
    return outputs, mean, variance


def small_convolution(inputs, kernel, strides, padding):
    """A convolution whose kernel's gradient is computed as a convolution over the images of the batch.

    Args:
        inputs: `(batch, height, width, channels)`.
        kernel: `(kernel height, kernel width, channels, filters)`.
        strides: two ints.
        padding: "SAME" or "VALID".

    Returns:
        The outputs; None where the backend or the device has a better way.
    """
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        return None

    @tf.custom_gradient
    def convolve(inputs, kernel):
        def gradient(upstream):
            (top, left), (bottom, right) = _margins(inputs.shape, kernel.shape, strides, padding)
            padded = tf.pad(inputs, ((0, 0), (top, bottom), (left, right), (0, 0)))
            kernel_gradient = tf.nn.conv2d(
                tf.transpose(padded, (3, 1, 2, 0)),
                tf.transpose(upstream, (1, 2, 0, 3)),
                strides=1,
                padding="VALID",
                dilations=strides,
            )[:, : kernel.shape[0], : kernel.shape[1]]
            input_gradient = tf.nn.conv2d_transpose(upstream, kernel, tf.shape(inputs), strides, padding)
            return input_gradient, tf.transpose(kernel_gradient, (1, 2, 0, 3))

        return tf.nn.conv2d(inputs, kernel, strides, padding), gradient

    return convolve(inputs, tf.cast(kernel, inputs.dtype))


def _margins(shape, kernel_shape, strides, padding):
    """`((top, left), (bottom, right))`: zeros that a convolution pads its inputs with."""
    if padding == "VALID":
        return (0, 0), (0, 0)
    missing = [
        max((-(-side // step) - 1) * step + size - side, 0)
        for side, size, step in zip(shape[1:3], kernel_shape[:2], strides, strict=True)
    ]
    return [zeros // 2 for zeros in missing], [zeros - zeros // 2 for zeros in missing]
