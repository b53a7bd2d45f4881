"""Where a NaN began, said while it can still be seen."""

import keras
import numpy as np

from star_keras.exceptions import NonFiniteError
from star_keras.layers.finite import nonfinite_layer


class FiniteCheck(keras.callbacks.Callback):
    """Stops a training by NonFiniteError when numbers cease to be finite, and says where that began.

    The metrics of the taps and of the task tell which part of the model the first bad batch passed
    unharmed. Weights are looked at before the training and after each epoch, for a ReLU of TensorFlow
    makes zeros of NaN, and then no loss shows them.

    Args:
        taps: names of the tapped layers, from the inputs on.
    """

    def __init__(self, taps):
        super().__init__()
        self._taps = tuple(taps)

    def on_train_begin(self, logs=None):
        self._check_weights("before training; load or make them again")

    def on_train_batch_end(self, batch, logs=None):
        logs = logs or {}
        if not np.isfinite(float(logs.get("loss", 0.0))):
            raise NonFiniteError(
                f"The loss of a batch must be finite. Received: loss={float(logs['loss'])} in batch {batch}, "
                f"{self._place(logs)}. Look for NaN in the inputs, lower the learning rate or use float32."
            )

    def on_epoch_end(self, epoch, logs=None):
        self._check_weights(f"after epoch {epoch}; lower the learning rate or use float32")

    def _check_weights(self, when):
        layer = nonfinite_layer(self.model.model)
        if layer is not None:
            raise NonFiniteError(
                f"Weights must be finite. Received: NaN or infinity in the layer {layer.name!r} {when}."
            )

    def _place(self, logs):
        """The first part of the model, from the inputs on, whose own value is not finite."""
        bad = [name for name, value in logs.items() if not np.isfinite(np.sum(value))]
        for tap in self._taps:
            if f"{tap}_entanglement" in bad:
                return f"first in what the layer {tap!r} puts out"
        if "task_loss" in bad:
            return f"after the layer {self._taps[-1]!r}: in experts, gates or the compiled loss"
        return f"in a term of the loss beside the task: {', '.join(bad)}"
