"""The multilayer head between a backbone and the space of a loss."""

import keras
from keras import ops

from star_keras.guards.arguments import check_count, check_features, check_widths, freeze_parts
from star_keras.layers.batch_normalization import BatchNormalization
from star_keras.layers.initialization import torch_bias, torch_kernel


@keras.saving.register_keras_serializable(package="star_keras")
class Projector(keras.layers.Layer):
    """Maps features to the space of a loss: Dense, batch normalisation, ReLU, ..., Dense.

    With hidden widths `(h_1, ..., h_n)`,
    `outputs = W x_n + b`, where `x_i = relu(batch_norm(W_i x_{i-1}))` and `x_0 = inputs`.
    The last layer has a bias, and neither normalisation nor activation. Kernels and biases start
    from U(-b, b) with b = 1 / sqrt(fan_in), as in the published recipes.

    Args:
        units: width of the outputs.
        hidden_units: widths of the hidden layers. Defaults to `()`, one linear map.
        batch_norm: whether hidden layers are normalised (momentum 0.9, epsilon 1e-5) instead of
            having a bias. Defaults to `True`.
        **kwargs: `name`, `dtype` and `trainable`, as for any Keras layer.

    Input shape:
        `(batch, features)`.

    Output shape:
        `(batch, units)`.

    Raises:
        ValueError: if a width is not a positive whole number, or the inputs are not of rank 2.

    Example:

    >>> import numpy as np
    >>> head = Projector(128, hidden_units=(512,))
    >>> tuple(head(np.ones((4, 512), "float32")).shape)
    (4, 128)

    Reference:
        Chen et al., A Simple Framework for Contrastive Learning of Visual Representations
        (ICML 2020), section 2.1.
    """

    def __init__(self, units, hidden_units=(), batch_norm=True, **kwargs):
        super().__init__(**kwargs)
        self.units = check_count("units", units)
        self.hidden_units = check_widths("hidden_units", hidden_units)
        self.batch_norm = bool(batch_norm)
        self.dense_layers = []
        self.normalizations = []

    def build(self, input_shape):
        check_features(self, "inputs", input_shape)
        width = input_shape[-1]
        for units in self.hidden_units:
            self._add_dense(width, units, use_bias=not self.batch_norm)
            if self.batch_norm:
                normalization = BatchNormalization(momentum=0.9, epsilon=1e-5, dtype=self.dtype_policy)
                normalization.build((None, units))
                self.normalizations.append(normalization)
            width = units
        self._add_dense(width, self.units, use_bias=True)
        self.input_spec = keras.InputSpec(ndim=2, axes={-1: input_shape[-1]})
        freeze_parts(self)

    def _add_dense(self, width, units, use_bias):
        layer = keras.layers.Dense(
            units,
            use_bias=use_bias,
            kernel_initializer=torch_kernel(),
            bias_initializer=torch_bias(width),
            dtype=self.dtype_policy,
        )
        layer.build((None, width))
        self.dense_layers.append(layer)

    def call(self, inputs, training=None):
        outputs = inputs
        for index in range(len(self.hidden_units)):
            outputs = self.dense_layers[index](outputs)
            if self.batch_norm:
                outputs = self.normalizations[index](outputs, training=training)
            outputs = ops.relu(outputs)
        return self.dense_layers[-1](outputs)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.units)

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "hidden_units": self.hidden_units,
            "batch_norm": self.batch_norm,
        }
