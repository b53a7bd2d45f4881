"""Classification whose hidden layers are disentangled, or entangled, by the soft nearest neighbour loss."""

import math
import numbers

import keras
import numpy as np
from keras import ops

from star_keras import backend
from star_keras.guards.arguments import check_choice, is_finite
from star_keras.guards.pixels import LooksAtArrays
from star_keras.losses import SoftNearestNeighbor
from star_keras.ops import equal_part, over_replicas
from star_keras.training.finite_check import FiniteCheck, own_callbacks_first
from star_keras.training.router_terms import RouterTerms
from star_keras.training.taps import Taps, layers_of

TEMPERATURES = ("annealed", "trainable")
REDUCTIONS = ("min", "sum", "mean", "last")
_DECAY = 0.55


@keras.saving.register_keras_serializable(package="star_keras")
class SoftNearestNeighborRegularization(LooksAtArrays, keras.Model):
    """Trains a classifier while it shapes its hidden layers, by plain `compile` and `fit`.

    `loss = compiled loss + weight * reduce(SoftNearestNeighbor(labels, tap) for every tap)`

    A positive weight pulls the samples of a class together in the tapped layers, a negative one
    spreads them among the others. What is kept afterwards is `.model`, which is the classifier as it
    was passed, trained. It is a wrapper because a layer's penalty sees no labels.

    Beside the metrics of `compile` there are `loss`, `task_loss` (the compiled loss, such as the cross
    entropy, and the model's regularisers), and the loss of every tap at temperature 1,
    `{tap}_entanglement`, which can be compared over epochs while `loss` falls with the annealed temperature
    by itself. Do not stop, pick weights or lower learning rates by `loss`: use `val_task_loss` or
    `val_accuracy`.

    Args:
        model: the classifier: a Keras model with one output.
        taps: names of layers whose outputs are shaped, in order; of a subclassed model also the layers
            themselves.
        weight: factor of the soft nearest neighbour loss, of either sign. Exactly 0 trains the plain
            classifier. Defaults to 1.0.
        temperature: "annealed" (the default), `1 / (1 + epoch) ** 0.55` with epochs from 0, set by `fit`;
            "trainable", `1 / softplus(w)` with a weight `w`, `inverse_temperature`, that starts at
            temperature 1 and that an optimiser with weight decay draws to 1.44 unless it is told
            `exclude_from_weight_decay(var_names=["inverse_temperature"])`; or a positive number.
        distance: "cosine" (the default) or "squared".
        reduce: over taps: "min" (the default; only the least entangled tap and what lies before it get a
            gradient), "sum", "mean", or "last", the last of `taps`.
        anchors: "valid" (the default) or "batch"; see `losses.SoftNearestNeighbor`.
        optimize_temperature: whether each step starts from the temperature and improves it first; see
            `losses.soft_nearest_neighbor`. Defaults to `False`.
        router_weights: factors of terms of `losses` that are added for the model's one `RoutedExperts`
            layer, such as `{"load_balance": 0.01}`: of "load_balance", "router_z", "gate_entropy",
            "importance_variation" and "expert_overlap"; with tasks the mean over tasks counts. Gates are
            those of `route`. Each is also a metric of its name. Defaults to `None`.
        **kwargs: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: what the model takes.

    Returns:
        A dict: `"outputs"`, which the compiled loss and metrics see, and one entry for each tap; with
        `router_weights` also `"gates"`, and for "router_z" `"router_logits"`.

    Raises:
        ValueError: if a tap is no layer of the model, or an argument is out of range; while training,
            if labels are not whole numbers of shape `(n,)` or `(n, 1)`, or, in an array, one is -1.
        NonFiniteError: while training, if the loss or a weight is NaN or infinite; says where that began.

    Example:

    >>> import star_keras as sk
    >>> classifier = keras.Sequential([
    ...     keras.Input((2,)),
    ...     keras.layers.Dense(4, activation="relu", name="code"),
    ...     keras.layers.Dense(2, activation="softmax"),
    ... ])
    >>> model = SoftNearestNeighborRegularization(classifier, taps=("code",), weight=0.1)
    >>> model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    >>> x, y = np.random.default_rng(0).normal(size=(8, 2)), np.arange(8) % 2
    >>> sorted(model.fit(x, y, batch_size=4, verbose=0).history)
    ['accuracy', 'code_entanglement', 'loss', 'task_loss']

    Reference:
        Agarap and Azcarraga, Mixture of Experts with Soft Nearest Neighbor Loss (2026),
        arXiv:2603.26734; Frosst, Papernot and Hinton (ICML 2019), section 4.
    """

    def __init__(
        self,
        model,
        taps,
        weight=1.0,
        temperature="annealed",
        distance="cosine",
        reduce="min",
        anchors="valid",
        optimize_temperature=False,
        router_weights=None,
        **kwargs,
    ):
        _check_arguments(weight, temperature, reduce)
        SoftNearestNeighbor(distance=distance, anchors=anchors)  # refuses what it cannot take
        if len(getattr(model, "outputs", None) or [None]) > 1:
            raise ValueError(
                f"`model` must have one output, the classes. Received: {len(model.outputs)} outputs."
            )
        super().__init__(autocast=False, **kwargs)
        self.model = model
        self._router = RouterTerms(layers_of(model), router_weights) if router_weights else None
        taps = taps if isinstance(taps, (tuple, list)) else (taps,)
        self._taps = Taps(model, taps, inputs_of=self._router and self._router.layer)
        self.taps = self._taps.names
        self.weight = weight
        self.temperature = temperature
        self.distance = distance
        self.reduce = reduce
        self.anchors = anchors
        self.optimize_temperature = bool(optimize_temperature)
        self.router_weights = router_weights
        if temperature == "annealed":
            self.annealed_temperature = self._scalar("annealed_temperature", 1.0, trainable=False)
        if temperature == "trainable":
            start = math.log(math.e - 1)
            self.inverse_temperature = self._scalar("inverse_temperature", start, trainable=bool(weight))
        self.task_tracker = keras.metrics.Mean(name="task_loss")
        self.tap_trackers = [keras.metrics.Mean(name=f"{tap}_entanglement") for tap in self.taps]
        self.router_trackers = [keras.metrics.Mean(name=term) for term in router_weights or ()]
        if model.built:
            self.build(None)

    def _scalar(self, name, start, trainable):
        initializer = keras.initializers.Constant(start)
        return self.add_weight(
            name=name, shape=(), initializer=initializer, trainable=trainable, dtype="float32"
        )

    def build(self, input_shape):
        if isinstance(self.model, keras.Sequential) and not self.model.built:
            self.model.build(input_shape)
        self.built = True

    def call(self, inputs, training=None):
        outputs = self._taps(inputs, training)
        if self._router:
            outputs.update(self._router.outputs(outputs.pop("features")))
        return outputs

    def fit(self, x=None, y=None, batch_size=None, epochs=1, verbose="auto", callbacks=None, **kwargs):
        """As `keras.Model.fit`; an annealed temperature follows the epoch, also from `initial_epoch`."""
        held_out = kwargs.get("validation_data")
        for labels in (y, held_out[1] if isinstance(held_out, (tuple, list)) else None):
            _check_labels(labels)
        own = [FiniteCheck(self._where)]
        if self.temperature == "annealed":
            own.append(keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: self.anneal(epoch)))
        return super().fit(
            x, y, batch_size, epochs, verbose, own_callbacks_first(callbacks, own, self), **kwargs
        )

    def _where(self, broken):
        """The first part of the model, from the inputs on, whose own metric is not finite."""
        for tap in self.taps:
            if f"{tap}_entanglement" in broken:
                return f"first in what the layer {tap!r} puts out"
        if "task_loss" in broken:
            return f"after the layer {self.taps[-1]!r}: in experts, gates or the compiled loss"
        return f"in a term of the loss beside the task: {', '.join(broken)}"

    def anneal(self, epoch):
        """Sets the annealed temperature of an epoch, counted from 0: for loops without `fit`."""
        self.annealed_temperature.assign((1.0 + epoch) ** -_DECAY)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if y is None:
            raise ValueError("The neighbour loss needs labels. Received: y=None; pass `fit(images, labels)`.")
        outputs = y_pred["outputs"]
        loss = super().compute_loss(x, y, outputs, sample_weight, training)
        if "float" in keras.backend.standardize_dtype(y.dtype):  # as sparse losses of Keras do
            y = ops.cast(y, "int32")
        count = ops.shape(outputs)[0]
        self.task_tracker.update_state(loss * backend.num_replicas(), sample_weight=count)
        fixed = self._at_temperature(1.0)
        for tap, tracker in zip(self.taps, self.tap_trackers, strict=True):
            share = fixed(y, ops.stop_gradient(y_pred[tap]), sample_weight)
            tracker.update_state(over_replicas(share), sample_weight=count)
        if self.weight:
            loss = loss + self.weight * self._disentanglement(y, y_pred, sample_weight)
        return loss + self._routing(y_pred, count) if self._router else loss

    def _routing(self, y_pred, count):
        """The sum of the weighted terms of the router; of a replica its part."""
        parts = {term: equal_part(share) for term, share in self._router.shares(y_pred).items()}
        for tracker, part in zip(self.router_trackers, parts.values(), strict=True):
            tracker.update_state(part * backend.num_replicas(), sample_weight=count)
        return sum(self.router_weights[term] * part for term, part in parts.items())

    def _disentanglement(self, y, y_pred, sample_weight):
        """The taps' losses, reduced; of a replica its part of the value."""
        function = self._at_temperature(self._temperature())
        taps = self.taps[-1:] if self.reduce == "last" else self.taps
        parts = equal_part(ops.stack([function(y, y_pred[tap], sample_weight) for tap in taps]))
        if self.reduce == "min":
            return ops.sum(parts * ops.one_hot(ops.argmin(parts), len(taps), dtype="float32"))
        return ops.mean(parts) if self.reduce == "mean" else ops.sum(parts)

    def _at_temperature(self, temperature):
        improved = self.optimize_temperature and not isinstance(temperature, numbers.Real)
        return SoftNearestNeighbor(temperature, self.distance, self.anchors, optimize_temperature=improved)

    def _temperature(self):
        if self.temperature == "annealed":
            return ops.convert_to_tensor(self.annealed_temperature)
        if self.temperature == "trainable":
            return 1 / ops.softplus(ops.convert_to_tensor(self.inverse_temperature))
        return ops.convert_to_tensor(self.temperature, "float32")

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        return super().compute_metrics(x, y, y_pred["outputs"], sample_weight)

    def export(self, *args, **kwargs):
        """Not for the wrapper, whose outputs serve the loss: export `.model`, the classifier."""
        raise ValueError(
            "What is kept and exported is the classifier inside. Received: `export` of the wrapper; call "
            "`model.model.export(path)`."
        )

    def get_config(self):
        names = ("taps", "weight", "temperature", "distance", "reduce", "anchors")
        names += ("optimize_temperature", "router_weights")
        return {
            **super().get_config(),
            "model": keras.saving.serialize_keras_object(self.model),
            **{name: getattr(self, name) for name in names},
        }

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "model": keras.saving.deserialize_keras_object(config["model"])})


def _check_arguments(weight, temperature, reduce):
    if not is_finite(weight):
        raise ValueError(f"`weight` must be a finite number of either sign. Received: weight={weight!r}")
    if isinstance(temperature, str) and temperature not in TEMPERATURES:
        raise ValueError(
            f"`temperature` must be one of {TEMPERATURES} or a positive number. "
            f"Received: temperature={temperature!r}"
        )
    if not isinstance(temperature, str):
        SoftNearestNeighbor(temperature)
    check_choice("reduce", reduce, REDUCTIONS)


def _check_labels(labels):
    """Refuses an array that holds what is no label of a class; other data is seen batch by batch."""
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "if":
        return
    wrong = (labels != np.round(labels)) | (labels == -1)
    if np.any(wrong):
        raise ValueError(
            "Labels must be whole numbers other than -1, which stands for padding. Received: "
            f"{labels[wrong].ravel()[:4].tolist()} in {int(np.sum(wrong))} of {labels.size} places."
        )
