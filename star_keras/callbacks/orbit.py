"""Watch how an orbit is weighted while a model trains, and say what went wrong."""

import warnings

import keras
import numpy as np
from keras import ops

from star_keras.callbacks.every_epochs import EveryEpochs
from star_keras.exceptions import NonFiniteError
from star_keras.layers import EquiTune

UNIFORM, SINGLE = 0.99, 0.95  # normalised entropy from which weights are uniform; share of a single winner


class OrbitMonitor(EveryEpochs):
    """Looks at the weights of an `EquiTune` after each epoch and tells the failures of the method apart.

    Into the logs of each epoch go

    | log | value |
    |---|---|
    | `orbit_entropy` | `-sum_g w_g log w_g / log(order)`, the mean over rows: 1 is equitune, 0 one member |
    | `orbit_max_weight` | the greatest weight, mean over rows |
    | `orbit_winner_0`, ... | share of rows whose greatest weight is that element's; ties are shared |
    | `orbit_accuracy`, `orbit_mean_accuracy` | with labels: of the outputs, and of the plain mean |

    and at the end of training a warning for each of these: the weights of "lambda" are uniform; one element
    wins always; the weighting classifies worse than the mean does. `diagnose()` returns the same
    sentences at any time.

    Args:
        inputs: a batch of inputs of the `EquiTune`, a few hundred rows of the training set.
        labels: whole numbers, the classes of these rows. Defaults to None.
        every: number of epochs between two looks. Defaults to 1; epochs between repeat the last values.
        batch_size: rows at a time. Defaults to 256.
        layer: name of the `EquiTune`, where the trained model holds several. Defaults to None: the model
            itself, or the first one among its layers.

    Raises:
        ValueError: if the model holds no `EquiTune`, or a number is not whole and positive.
        NonFiniteError: when a weight is NaN.

    Example:

    >>> import star_keras as sk
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    >>> mirror = sk.groups.Linear([np.eye(2), -np.eye(2)])
    >>> wrapper = sk.layers.EquiTune(model, mirror, weighting="argmin", score="max_value")
    >>> wrapper.compile("sgd", "mse")
    >>> rows = np.array([[1.0, 2.0], [0.5, -1.0]], "float32")
    >>> history = wrapper.fit(rows, np.ones((2, 3)), callbacks=[OrbitMonitor(rows)], verbose=0)
    >>> history.history["orbit_entropy"]
    [0.0]

    Reference: Basu et al., "Efficient Equivariant Transfer Learning from Pretrained Models" (NeurIPS 2023);
    the collapse of its weights was reported by those who reproduced it.
    """

    def __init__(self, inputs, labels=None, every=1, batch_size=256, layer=None):
        super().__init__(every, batch_size)
        self.inputs, self.labels, self.layer = inputs, labels, layer

    def on_train_begin(self, logs=None):
        super().on_train_begin()
        self.find()

    def _look(self, epoch):
        return self.measure()

    def on_train_end(self, logs=None):
        for sentence in self.diagnose():
            warnings.warn(sentence, UserWarning, stacklevel=2)

    def find(self):
        """The `EquiTune` that is watched."""
        candidates = [self.model, *getattr(self.model, "layers", [])]
        for candidate in candidates:
            if isinstance(candidate, EquiTune) and self.layer in (None, candidate.name):
                return candidate
        raise ValueError(
            "`OrbitMonitor` needs a model that is, or has as a layer, an `EquiTune`. Received: "
            f"layer={self.layer!r} and the layers {[candidate.name for candidate in candidates]}"
        )

    def measure(self):
        """The values of the table above, a dict of floats."""
        wrapper = self.find()
        weights = np.concatenate(
            [ops.convert_to_numpy(wrapper.orbit_weights(batch)) for batch in self._batches()]
        )
        _refuse_nan(weights)
        values = {
            "orbit_entropy": _entropy(weights),
            "orbit_max_weight": float(weights.max(axis=1).mean()),
        }
        best = weights == weights.max(axis=1, keepdims=True)
        shares = (best / best.sum(axis=1, keepdims=True)).mean(axis=0)
        values |= {f"orbit_winner_{element}": float(share) for element, share in enumerate(shares)}
        if self.labels is not None:
            values["orbit_accuracy"] = self._accuracy(wrapper)
            values["orbit_mean_accuracy"] = self._accuracy(_plain_mean(wrapper))
        return values

    def diagnose(self):
        """Sentences about what is wrong, one for each finding; an empty list if nothing is."""
        values, wrapper = self._values or self.measure(), self.find()
        winners = [values[f"orbit_winner_{element}"] for element in range(wrapper.group.order)]
        several = wrapper.group.order > 1
        sentences = []
        if several and wrapper.weighting == "lambda" and values["orbit_entropy"] > UNIFORM:
            sentences.append(
                f"The weights of lambda are uniform: their entropy is {values['orbit_entropy']:.3f} of the "
                "greatest. So the wrapper is the plain mean, at a higher price. Train the score alone "
                "first, with a higher learning rate, lower `temperature`, or give it `features` in which "
                "members of an orbit differ."
            )
        if several and wrapper.weighting != "mean" and max(winners) > SINGLE:
            sentences.append(
                f"Element {int(np.argmax(winners))} of the group wins for {max(winners):.0%} of the rows. "
                "That is right for data in one pose, but then shows nothing about others: look at "
                "`orbit_winner_...` on inputs moved at random."
            )
        if values.get("orbit_accuracy", 1) < values.get("orbit_mean_accuracy", 0):
            sentences.append(
                f"The weighting {wrapper.weighting!r} classifies worse than the mean: "
                f"{values['orbit_accuracy']:.1%} against {values['orbit_mean_accuracy']:.1%} of "
                f"{len(self.labels)} rows. The score does not tell good members from bad ones: take "
                'another `score`, weighting="lambda", or weighting="mean".'
            )
        return sentences

    def _batches(self):
        count = len(keras.tree.flatten(self.inputs)[0])
        for start in range(0, count, self.batch_size):
            rows = slice(start, start + self.batch_size)
            yield keras.tree.map_structure(lambda leaf, rows=rows: leaf[rows], self.inputs)

    def _accuracy(self, wrapper):
        classes = [ops.convert_to_numpy(ops.argmax(wrapper(batch), axis=-1)) for batch in self._batches()]
        return float(np.mean(np.concatenate(classes) == np.reshape(self.labels, -1)))


def _plain_mean(wrapper):
    """A wrapper around the same model, group and outputs, with equal weights."""
    names = ("group", "output_group", "combine", "inputs", "max_orbit_batch", "from_logits")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a group that interpolates has said so already
        return EquiTune(wrapper.model, **{name: getattr(wrapper, name) for name in names})


def _entropy(weights):
    if weights.shape[1] == 1:
        return 0.0
    logs = np.log(np.where(weights > 0, weights, 1.0))
    return float(np.mean(-np.sum(weights * logs, axis=1)) / np.log(weights.shape[1])) + 0.0


def _refuse_nan(weights):
    broken = np.isnan(weights).any(axis=1)
    if broken.any():
        raise NonFiniteError(
            "The weights of an orbit must be numbers. Received: NaN for "
            f"{broken.sum()} of {broken.size} rows. Lower the learning rate, and look for overflow in the "
            "model's outputs."
        )
