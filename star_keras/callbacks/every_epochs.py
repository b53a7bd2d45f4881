"""What callbacks that look at the model every few epochs have in common."""

import keras

from star_keras.guards.arguments import check_count

RESUMED_LOGS = "resumed_logs"


class EveryEpochs(keras.callbacks.Callback):
    """Puts what `_look(epoch)` returns, a dict, into the logs of every epoch.

    It looks after the first epoch, the last and every n-th; epochs between repeat the last values. Those of
    a run that goes on, `Resume` leaves in the parameters that `fit` gives all its callbacks.
    """

    def __init__(self, every, batch_size):
        super().__init__()
        self.every, self.batch_size = check_count("every", every), check_count("batch_size", batch_size)
        self._values = None

    def on_train_begin(self, logs=None):
        self._values = None

    def on_epoch_end(self, epoch, logs=None):
        if logs is None:
            return
        last = epoch + 1 == self.params.get("epochs")
        resumed = self.params.get(RESUMED_LOGS) if self._values is None else None
        if last or (epoch + 1) % self.every == 0 or (self._values is None and not resumed):
            self._values = self._look(epoch)
            logs.update(self._values)
        else:
            logs.update(self._values or {name: resumed[name] for name in resumed.keys() - logs.keys()})
