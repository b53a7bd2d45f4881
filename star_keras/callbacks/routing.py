"""Watch how experts are used while they are trained."""

import keras
import numpy as np
from keras import ops

from star_keras import metrics
from star_keras.exceptions import NonFiniteError
from star_keras.layers import RoutedExperts


class RoutingMonitor(keras.callbacks.Callback):
    """Writes the routing of fixed samples and the similarity of the experts into the logs.

    Finds the `RoutedExperts` layer of the model that is trained, of the classifier inside
    `SoftNearestNeighborRegularization`, or the projector of `STARPretraining`. Logged are
    `routing_entropy`, `utilization_entropy`, `routing_information`, `dead_experts`, with labels
    `class_routing_entropy` and `expert_class_entropy` (see `metrics`), `expert_similarity` (mean cosine of
    weights) and `expert_output_similarity`; with tasks the names of the metrics of gates start with that
    of the task. Place it before callbacks that are to store the logs.

    Args:
        images: inputs of the model, looked at after every epoch.
        labels: their classes, `(n,)` whole numbers from 0. Defaults to `None`.
        every: number of epochs between two looks; epochs between repeat the last values. Defaults to 1.
        batch_size: images at a time. Defaults to 256.

    Raises:
        ValueError: at the start of the training, if the model has no `RoutedExperts` layer, or several.
        NonFiniteError: if gates are not finite; names the layer.

    Example:

    >>> import star_keras as sk
    >>> model = keras.Sequential([keras.Input((4,)), sk.layers.RoutedExperts(2, num_experts=3)])
    >>> model.compile("sgd", "mse")
    >>> x = np.random.default_rng(0).normal(size=(8, 4))
    >>> history = model.fit(x, np.zeros((8, 2)), callbacks=[RoutingMonitor(x)], verbose=0).history
    >>> history["dead_experts"]
    [0.0]
    """

    def __init__(self, images, labels=None, every=1, batch_size=256):
        super().__init__()
        if every < 1:
            raise ValueError(f"`every` must be a positive number of epochs. Received: every={every}")
        self.images = images
        self.labels = None if labels is None else np.asarray(labels).reshape(-1)
        self.every, self.batch_size = every, batch_size

    def on_train_begin(self, logs=None):
        self._features, self._layer = _find_experts(self.model)
        self._values = None

    def on_epoch_end(self, epoch, logs=None):
        if logs is None:
            return
        last = epoch + 1 == self.params.get("epochs")
        if self._values is None or last or (epoch + 1) % self.every == 0:
            self._values = self._look()
        logs.update(self._values)

    def _look(self):
        features = self._features.predict(self.images, self.batch_size, verbose=0)
        batches = np.array_split(features, range(self.batch_size, len(features), self.batch_size))
        gates = _join([self._layer.route(batch) for batch in batches])
        outputs = _join([self._layer.expert_outputs(batch, training=False) for batch in batches])
        values = {}
        for task, rows in gates.items() if isinstance(gates, dict) else [("", gates)]:
            if not np.isfinite(rows).all():
                raise NonFiniteError(
                    f"Gates must be finite. Received: NaN or infinity from {self._layer.name!r}. Lower the "
                    "learning rate, or look for NaN in its inputs and weights."
                )
            values |= self._measure(rows, f"{task}_" if task else "")
        if self._layer.experts is None:
            values["expert_similarity"] = metrics.expert_similarity(self._layer).mean
        values["expert_output_similarity"] = metrics.expert_similarity(np.swapaxes(outputs, 0, 1)).mean
        return values

    def _measure(self, gates, prefix):
        experts = gates.shape[1]
        kinds = metrics.RoutingEntropy, metrics.UtilizationEntropy, metrics.RoutingInformation
        watched = [kind(experts) for kind in (*kinds, metrics.DeadExperts)]
        for metric in watched:
            metric.update_state(gates)
        if self.labels is not None:
            classes = int(self.labels.max()) + 1
            for kind in (metrics.ClassRoutingEntropy, metrics.ExpertClassEntropy):
                watched.append(kind(classes, experts))
                watched[-1].update_state(self.labels, gates)
        return {f"{prefix}{metric.name}": float(metric.result()) for metric in watched}


def _find_experts(model):
    """`(model of the layer's inputs, layer)` of the only `RoutedExperts` in a model, however wrapped."""
    if isinstance(getattr(model, "projector", None), RoutedExperts):
        return model.backbone, model.projector
    model = getattr(model, "model", model)
    found = [layer for layer in model.layers if isinstance(layer, RoutedExperts)]
    if len(found) != 1:
        raise ValueError(
            "RoutingMonitor watches the one `RoutedExperts` layer of a functional model or the projector of "
            f"`STARPretraining`. Received: {len(found)} such layers in {model.name!r}"
        )
    return keras.Model(model.inputs, found[0].input), found[0]


def _join(batches):
    """Structures of tensors, one for each batch, as one structure of arrays."""
    return keras.tree.map_structure(
        lambda *rows: np.concatenate([ops.convert_to_numpy(row).astype("float32") for row in rows]), *batches
    )
