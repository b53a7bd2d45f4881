"""Many Dense layers of one shape, side by side in one batched product."""

import keras
from keras import ops

from star_keras.layers.initialization import get_bias_initializer, get_kernel_initializer, stacked


class StackedDense(keras.layers.Layer):
    """Applies `members` Dense layers at once: `outputs[m] = inputs[m] @ kernel[m] + bias[m]`.

    Args:
        members: number of layers.
        units: output width of each.
        use_bias: whether each has a bias. Defaults to `True`.
        kernel_initializer, bias_initializer: `"torch"` or a Keras initializer, drawn member by member.
        depth: number of this stack among those that share an initializer. Defaults to 0.
        **kwargs: as for any Keras layer.

    Input shape:
        `(batch, features)`, the same for all members, or `(members, batch, features)`.

    Output shape:
        `(members, batch, units)`.
    """

    def __init__(
        self,
        members,
        units,
        use_bias=True,
        kernel_initializer="torch",
        bias_initializer="torch",
        depth=0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.members = members
        self.units = units
        self.use_bias = use_bias
        self.kernel_initializer = kernel_initializer
        self.bias_initializer = bias_initializer
        self.depth = depth

    def build(self, input_shape):
        width = input_shape[-1]
        self.kernel = self.add_weight(
            name="kernel",
            shape=(self.members, width, self.units),
            initializer=stacked(get_kernel_initializer(self.kernel_initializer), self.depth),
        )
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias",
                shape=(self.members, self.units),
                initializer=stacked(get_bias_initializer(self.bias_initializer, width), self.depth),
            )

    def call(self, inputs):
        outputs = ops.matmul(inputs, self.kernel)
        return outputs + ops.expand_dims(self.bias, 1) if self.use_bias else outputs

    def compute_output_shape(self, input_shape):
        return (self.members, input_shape[-2], self.units)
