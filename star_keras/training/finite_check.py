"""Where a NaN began, said while it can still be seen."""

import keras
import numpy as np

from star_keras.exceptions import NonFiniteError
from star_keras.guards.finite import nonfinite_layer


class FiniteCheck(keras.callbacks.Callback):
    """Stops a training by NonFiniteError when numbers cease to be finite, and says where that began.

    Weights are looked at before the training and after each epoch, for a ReLU of TensorFlow makes zeros of
    NaN, and then no loss shows them.

    Args:
        place: function from the names of the metrics that are not finite to words: where that began.
    """

    def __init__(self, place):
        super().__init__()
        self._place = place
        self.async_safe = True  # the next step need not wait for the loss of this one

    def on_train_begin(self, logs=None):
        self._check_weights("before training; load or make them again")

    def on_train_batch_end(self, batch, logs=None):
        logs = logs or {}
        if not np.isfinite(float(logs.get("loss", 0.0))):
            broken = [name for name, value in logs.items() if not np.isfinite(np.sum(value))]
            raise NonFiniteError(
                f"The loss of a batch must be finite. Received: loss={float(logs['loss'])} in batch {batch}, "
                f"{self._place(broken)}. Look for NaN in the inputs, lower the learning rate or use float32."
            )

    def on_epoch_end(self, epoch, logs=None):
        self._check_weights(f"after epoch {epoch}; lower the learning rate or use float32")

    def _check_weights(self, when):
        layer = nonfinite_layer(self.model)
        if layer is not None:
            raise NonFiniteError(
                f"Weights must be finite. Received: NaN or infinity in the layer {layer.name!r} {when}."
            )


def own_callbacks_first(callbacks, own, model):
    """Callbacks of a user, as `fit` takes them, behind those of the model."""
    if not isinstance(callbacks, keras.callbacks.CallbackList):
        return [*own, *keras.tree.flatten(callbacks or [])]
    for callback in own:
        callback.set_model(model)
        callback.set_params(callbacks.params)
    callbacks.callbacks[:0] = own
    return callbacks
