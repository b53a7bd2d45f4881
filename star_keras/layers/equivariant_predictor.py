"""The predictor of a view's embedding from the image's embedding and what the augmentation did."""

import keras
import numpy as np
from keras import ops

from star_keras.guards.arguments import (
    check_count,
    check_features,
    check_width,
    check_widths,
    freeze_parts,
    is_finite,
)
from star_keras.layers.initialization import torch_bias, torch_kernel
from star_keras.layers.projector import Projector


@keras.saving.register_keras_serializable(package="star_keras")
class EquivariantPredictor(keras.layers.Layer):
    """Predicts the embedding of an augmented view from that of the image and the augmentation.

    `outputs = z + phi([z, psi((a - offset) / scale)])`, where `z` is the embedding of the image
    before augmentation, `a` the encoded augmentation, `psi` one linear map and `phi` a `Projector`
    as wide as `z` at its end. Nothing forces the identity augmentation to give `z` back.

    The columns of `a` are raw numbers such as pixels, which half precision would round (93.27 becomes
    93.5 in bfloat16): they are standardised in float32 whatever the dtype policy, before anything else.

    Args:
        hidden_units: widths of the hidden layers of `phi`. Defaults to `(512, 512)`.
        embedding_units: width of `psi`, the projection of the augmentation. Defaults to 128.
        residual: whether `z` is added to the output of `phi`. Defaults to `True`.
        offset: numbers taken from the columns of `a`, their means as a rule. Defaults to `None`, zeros.
        scale: positive numbers the columns are then divided by, their standard deviations as a rule.
            Defaults to `None`, ones.
        **kwargs: `name`, `dtype` and `trainable`, as for any Keras layer.

    Input shape:
        `embedding` of shape `(batch, units)` and `augmentation` of shape `(batch, columns)`.
        Give the augmentation in float32.

    Output shape:
        `(batch, units)`.

    Raises:
        ValueError: if a width is not a positive whole number, if offset or scale hold anything but
            finite numbers (positive ones for scale), or if their length is not that of the augmentation.

    Example:

    >>> import numpy as np
    >>> predictor = EquivariantPredictor((64,), 16, offset=[48.0, 0.5], scale=[11.5, 0.5])
    >>> tuple(predictor(np.ones((4, 32), "float32"), np.array([[93.27, 1.0]] * 4, "float32")).shape)
    (4, 32)

    Reference:
        Jeon et al., Soft Task-Aware Routing of Experts for Equivariant Representation Learning
        (NeurIPS 2025), the predictor of the equivariant task.
    """

    def __init__(
        self, hidden_units=(512, 512), embedding_units=128, residual=True, offset=None, scale=None, **kwargs
    ):
        super().__init__(autocast=False, **kwargs)
        self.hidden_units = check_widths("hidden_units", hidden_units)
        self.embedding_units = check_count("embedding_units", embedding_units)
        self.residual = bool(residual)
        self.offset = _check_numbers("offset", offset)
        self.scale = _check_numbers("scale", scale, positive=True)

    def build(self, embedding_shape, augmentation_shape):
        check_features(self, "an embedding", embedding_shape)
        check_features(self, "an augmentation", augmentation_shape)
        units, columns = embedding_shape[-1], augmentation_shape[-1]
        for name in ("offset", "scale"):
            values = getattr(self, name)
            if values is not None and len(values) != columns:
                raise ValueError(
                    f"`{name}` must hold one number for each of the {columns} columns of the encoded "
                    f"augmentation. Received: {name}={values}, of length {len(values)}"
                )
        self.psi = keras.layers.Dense(
            self.embedding_units,
            kernel_initializer=torch_kernel(),
            bias_initializer=torch_bias(columns),
            dtype=self.dtype_policy,
        )
        self.psi.build((None, columns))
        self.phi = Projector(units, self.hidden_units, dtype=self.dtype_policy)
        self.phi.build((None, units + self.embedding_units))
        self.input_spec = keras.InputSpec(ndim=2, axes={-1: units})
        freeze_parts(self)

    def standardize(self, augmentation):
        """`(augmentation - offset) / scale` in float32, whatever the dtype policy."""
        augmentation = ops.cast(augmentation, "float32")
        if self.offset is not None:
            augmentation = augmentation - np.array(self.offset, "float32")
        if self.scale is not None:
            augmentation = augmentation / np.array(self.scale, "float32")
        return augmentation

    def call(self, embedding, augmentation, training=None):
        check_width(self, "an augmentation", augmentation.shape, self.psi.input_spec.axes[-1])
        embedding = ops.cast(embedding, self.compute_dtype)
        condition = self.psi(self.standardize(augmentation))
        shift = self.phi(ops.concatenate([embedding, condition], axis=-1), training=training)
        return embedding + shift if self.residual else shift

    def compute_output_shape(self, embedding_shape, augmentation_shape):
        return tuple(embedding_shape)

    def get_config(self):
        return {
            **super().get_config(),
            "hidden_units": self.hidden_units,
            "embedding_units": self.embedding_units,
            "residual": self.residual,
            "offset": self.offset,
            "scale": self.scale,
        }


def _check_numbers(name, values, positive=False):
    """`values` as a list of floats, or None."""
    if values is None:
        return None
    values = np.asarray(values).tolist()
    if not isinstance(values, list) or not all(_is_number(value, positive) for value in values):
        kind = "positive finite numbers" if positive else "finite numbers"
        raise ValueError(
            f"`{name}` must be a list of {kind}, one for each column of the encoded augmentation. "
            f"Received: {name}={values}"
        )
    return [float(value) for value in values]


def _is_number(value, positive):
    return is_finite(value) and (value > 0 or not positive)
