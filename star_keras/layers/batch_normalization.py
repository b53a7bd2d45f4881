"""Batch normalization in one kernel, with PyTorch's unbiased running variance."""

import keras
from keras import ops

from star_keras import backend
from star_keras.guards.arguments import narrow_policy


@keras.saving.register_keras_serializable(package="star_keras")
class BatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` with a fused kernel and synchronised statistics.

    `outputs = gamma * (inputs - mean) / sqrt(variance + epsilon) + beta`

    Same arguments, weights, files and outputs as the Keras layer, with three differences:

    - on TensorFlow, with channels last, forward and backward run in one kernel each (a bfloat16
      ResNet-18 step on a CPU takes two thirds of the time);
    - the running variance is the unbiased one, as in PyTorch, which the recipes assume;
    - under a `tf.distribute` strategy of several replicas the statistics are those of the global
      batch. This is decided when the layer is called and is never stored.

    Statistics are computed in float32, in float64 where variables or inputs are.

    Args:
        unbiased: whether the running variance is divided by `n - 1` instead of `n`, `n` being the
            number of values per channel. Defaults to True; False is the Keras rule. It has no
            effect with `renorm=True` or a mask, where the Keras layer runs unchanged.
        **kwargs: the arguments of `keras.layers.BatchNormalization`.

    Input shape: any; output shape: the same.

    Raises:
        ConfigError: if the dtype policy keeps variables in less than 32 bits, as "float16" and "bfloat16" do.

    Example:

    >>> layer = BatchNormalization(momentum=0.9, epsilon=1e-5)
    >>> layer(keras.random.normal((8, 4, 4, 3)), training=True).shape[-1]
    3

    Reference: Ioffe and Szegedy, "Batch Normalization" (2015).
    """

    def __init__(self, *args, unbiased=True, **kwargs):
        super().__init__(*args, **kwargs)
        self.unbiased = unbiased
        if self.variable_dtype not in ("float32", "float64"):
            raise narrow_policy("`BatchNormalization`", self.dtype_policy)

    def call(self, inputs, training=None, mask=None):
        if mask is not None or self.renorm:
            return super().call(inputs, training=training, mask=mask)
        channels = inputs.shape[self.axis]
        scale = self.gamma if self.scale else ops.ones((channels,))
        offset = self.beta if self.center else ops.zeros((channels,))
        if training and self.trainable:
            return self._normalize_and_track(inputs, scale, offset)
        if self._fusable(inputs):
            outputs = backend.fused_batch_norm_inference(
                inputs, scale, offset, self.moving_mean, self.moving_variance, self.epsilon
            )
            if outputs is not None:
                return outputs
        return self._normalize(inputs, self.moving_mean, self.moving_variance, scale, offset)

    def _fusable(self, inputs):
        dtypes = (keras.backend.standardize_dtype(inputs.dtype), self.variable_dtype)
        return dtypes[0] != "float64" and dtypes[1] == "float32" and self.axis in (-1, len(inputs.shape) - 1)

    def _normalize_and_track(self, inputs, scale, offset):
        replicas = backend.num_replicas()
        fused = None
        if replicas == 1 and self._fusable(inputs):
            fused = backend.fused_batch_norm(inputs, scale, offset, self.epsilon)
        if fused is not None:
            outputs, mean, variance = fused
            factor = 1.0 if self.unbiased else 1.0 / self._bessel(inputs)
        else:
            wide = self._widen(inputs)
            axes = [axis for axis in range(len(inputs.shape)) if axis != self.axis % len(inputs.shape)]
            mean, variance = ops.moments(wide, axes=axes, synchronized=replicas > 1)
            outputs = self._normalize(inputs, mean, variance, scale, offset)
            factor = self._bessel(inputs) if self.unbiased else 1.0
        mean, variance = ops.cast(mean, self.variable_dtype), ops.cast(variance, self.variable_dtype)
        keep = self.momentum
        self.moving_mean.assign(self.moving_mean * keep + mean * (1.0 - keep))
        self.moving_variance.assign(self.moving_variance * keep + variance * factor * (1.0 - keep))
        return outputs

    def _bessel(self, inputs):
        """`n / (n - 1)` for the `n` values per channel of the global batch."""
        shape = ops.shape(inputs)
        _, rows = backend.replica_rows(shape[0])
        count = ops.cast(rows, self.variable_dtype)
        for axis, size in enumerate(shape):
            if axis not in (0, self.axis % len(shape)):
                count = count * ops.cast(size, self.variable_dtype)
        return count / ops.maximum(count - 1.0, 1.0)

    def _normalize(self, inputs, mean, variance, scale, offset):
        wide = self._widen(inputs)
        outputs = ops.batch_normalization(
            wide,
            mean=ops.cast(mean, wide.dtype),
            variance=ops.cast(variance, wide.dtype),
            axis=self.axis,
            offset=ops.cast(offset, wide.dtype),
            scale=ops.cast(scale, wide.dtype),
            epsilon=self.epsilon,
        )
        return ops.cast(outputs, self.compute_dtype)

    def _widen(self, inputs):
        kinds = (keras.backend.standardize_dtype(inputs.dtype), self.variable_dtype)
        return ops.cast(inputs, "float64" if "float64" in kinds else "float32")

    def get_config(self):
        return {**super().get_config(), "unbiased": self.unbiased}
