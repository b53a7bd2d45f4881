"""Convolution whose kernel learns faster in bfloat16 on a CPU."""

import math

import keras

from star_keras import backend

# Positions of the outputs, up to which the rearranged gradient was the faster one at every width and batch.
SMALL_MAP = 64


@keras.saving.register_keras_serializable(package="star_keras")
class Conv2D(keras.layers.Conv2D):
    """`keras.layers.Conv2D` with a faster gradient of the kernel in bfloat16 on a CPU.

    `dW[i, j, c, o] = sum_{n, y, x} X[n, s y + i, s x + j, c] dY[n, y, x, o]`

    is itself a convolution, of `X` with `dY`, in which images take the place of channels. TensorFlow's own
    kernel for it is slow where maps are small and channels many, as in the last stages of a ResNet-18.
    Same arguments, weights, files and outputs as the Keras layer, which runs unchanged in other dtypes, on
    other backends and devices, for outputs of more than 64 positions, and with groups, dilation or channels
    first.

    Args:
        **kwargs: the arguments of `keras.layers.Conv2D`.

    Input shape: `(batch, height, width, channels)`; output shape: `(batch, new_height, new_width, filters)`.

    Example:

    >>> layer = Conv2D(8, 3, padding="same", dtype="mixed_bfloat16")
    >>> tuple(layer(np.zeros((2, 4, 4, 3))).shape)
    (2, 4, 4, 8)
    """

    def convolution_op(self, inputs, kernel):
        if self._is_slow(inputs):
            outputs = backend.small_convolution(inputs, kernel, self.strides, self.padding.upper())
            if outputs is not None:
                return outputs
        return super().convolution_op(inputs, kernel)

    def _is_slow(self, inputs):
        if keras.backend.standardize_dtype(inputs.dtype) != "bfloat16" or self.kernel_size == (1, 1):
            return False
        if self.data_format != "channels_last" or self.groups != 1 or self.dilation_rate != (1, 1):
            return False
        sides = self.compute_output_shape(inputs.shape)[1:3]
        return None not in sides and math.prod(sides) <= SMALL_MAP
