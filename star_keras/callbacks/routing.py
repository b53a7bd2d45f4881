"""Watch how experts are used while they are trained."""

import keras
import numpy as np
from keras import ops

from star_keras import evaluation, metrics
from star_keras.callbacks.every_epochs import EveryEpochs
from star_keras.exceptions import NonFiniteError
from star_keras.guards.finite import nonfinite_layer
from star_keras.layers import RoutedExperts


class RoutingMonitor(EveryEpochs):
    """Writes the routing of fixed samples and the similarity of the experts into the logs.

    Finds the `RoutedExperts` layer of the model that is trained, of the classifier inside
    `SoftNearestNeighborRegularization`, or the projector of `STARPretraining`. Logged are
    `routing_entropy`, `utilization_entropy`, `routing_information`, `dead_experts`, with labels
    `class_routing_entropy` and `expert_class_entropy` (see `metrics`), `expert_similarity` (mean cosine of
    weights; not of a layer with own `experts`) and `expert_output_similarity`; with tasks the names of the
    metrics of gates start with that of the task. Place it before callbacks that are to store the logs.

    Args:
        images: inputs of the model, looked at after every epoch.
        labels: their classes, `(n,)` or `(n, 1)` whole numbers from 0. Defaults to `None`.
        every: number of epochs between two looks; epochs between repeat the last values. Defaults to 1.
        batch_size: images at a time. Defaults to 256.

    Raises:
        ValueError: if there is not one label for each image, or a number is not whole and positive; at the
            start of the training, if the model has no `RoutedExperts` layer, or several, or does not show
            the way from its inputs to that layer, as subclassed models do not.
        NonFiniteError: at a look, if weights are not finite; names the first such layer, and of a
            `RoutedExperts` the experts. Also if features, gates or outputs of experts are not finite.

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
        super().__init__(every, batch_size)
        self.images = images
        self.labels = None if labels is None else _one_for_each(images, np.asarray(labels))

    def on_train_begin(self, logs=None):
        super().on_train_begin()
        self._features, self._layer = _find_experts(self.model, self.images)

    def _look(self, epoch):
        _check_weights(self.model)
        name = self._layer.name
        features = self._features.predict(self.images, self.batch_size, verbose=0)
        broken = np.count_nonzero(~np.isfinite(features).all(axis=1))
        _check(not broken, f"the features that reach {name!r}, in {broken} of {len(features)} rows")
        batches = np.array_split(features, range(self.batch_size, len(features), self.batch_size))
        gates = _join([self._layer.route(batch) for batch in batches])
        outputs = _join([self._layer.expert_outputs(batch, training=False) for batch in batches])
        broken = np.flatnonzero(~np.isfinite(outputs).all(axis=(0, 2))).tolist()
        _check(not broken, f"the outputs of the experts {broken} of {name!r}")
        values = {}
        for task, rows in gates.items() if isinstance(gates, dict) else [("", gates)]:
            _check(np.isfinite(rows).all(), f"the gates of {name!r}")
            values |= self._measure(rows, f"{task}_" if task else "")
        if self._layer.experts is None:
            values["expert_similarity"] = evaluation.expert_similarity(self._layer).mean
        values["expert_output_similarity"] = evaluation.expert_similarity(np.swapaxes(outputs, 0, 1)).mean
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


def _find_experts(model, images):
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
    if isinstance(model, keras.Sequential) and not model.built:
        model.build((None, *np.shape(images)[1:]))
    try:
        return keras.Model(model.inputs, found[0].input), found[0]
    except (AttributeError, ValueError):
        raise ValueError(
            "RoutingMonitor follows a functional or sequential model from its inputs to its `RoutedExperts`. "
            f"Received: a `{type(model).__name__}` named {model.name!r}, which shows no such way. Make it "
            "from `keras.Input`, with one call of the layer."
        ) from None


def _one_for_each(images, labels):
    """Labels in one axis, if there is one for each image."""
    lengths = {len(part) for part in keras.tree.flatten(images) if len(getattr(part, "shape", ()))}
    alike = labels.ndim and labels.shape[1:] in ((), (1,)) and not lengths - {labels.size}
    if not alike or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            "`labels` must be whole numbers of shape (n,) or (n, 1), one for each image. Received: `labels` "
            f"of shape {labels.shape} and type {labels.dtype} for "
            f"{' or '.join(map(str, sorted(lengths))) or 'some'} images. Take the argmax of one-hot labels."
        )
    return labels.reshape(-1)


def _check(finite, place):
    if not finite:
        raise NonFiniteError(
            f"Routing must be finite. Received: NaN or infinity in {place}, though all weights are finite. "
            "Look for NaN in the inputs, lower the learning rate, or compute in float32."
        )


def _check_weights(model):
    layer = nonfinite_layer(model)
    if layer is None:
        return
    part = ""
    if isinstance(layer, RoutedExperts):
        experts = _broken_experts(layer)
        part = f", in its experts {experts}" if experts else ", in its routers"
    raise NonFiniteError(
        f"Weights must be finite. Received: NaN or infinity in weights of the layer {layer.name!r}{part}. "
        "Lower the learning rate, or go back to weights from before."
    )


def _broken_experts(layer):
    """Numbers of the experts with a weight that is NaN or infinite."""
    if layer.experts is not None:
        return [index for index, expert in enumerate(layer.experts) if nonfinite_layer(expert) is not None]
    weights = [weight for part in layer.expert_layers + layer.normalizations for weight in part.weights]
    rows = [ops.convert_to_numpy(weight).reshape(layer.num_experts, -1) for weight in weights]
    return np.flatnonzero(~np.isfinite(np.concatenate(rows, axis=1)).all(axis=1)).tolist()


def _join(batches):
    """Structures of tensors, one for each batch, as one structure of arrays."""
    return keras.tree.map_structure(
        lambda *rows: np.concatenate([ops.convert_to_numpy(row).astype("float32") for row in rows]), *batches
    )
