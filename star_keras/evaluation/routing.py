"""Which expert works for which task."""

import dataclasses

import numpy as np
from keras import ops

from star_keras.evaluation.arrays import filled_rows
from star_keras.evaluation.features import check_image_size, extract_features
from star_keras.exceptions import NonFiniteError
from star_keras.guards.arguments import check_count
from star_keras.guards.pixels import image_array

SHARED, UNUSED = 0.5, 0.1


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class RoutingReport:
    """What `routing_report` measured.

    Attributes:
        gates: mean gate of every expert, `{task: (experts,) array}`; the task of a layer without names is
            `"embedding"`.
        ratios: smallest over largest of an expert's mean gates, `(experts,)`: 1 is shared, 0 belongs to
            one task.
        roles: for each expert "shared" (a ratio from 0.5), the task it mostly works for, or "unused" (all
            gates below a tenth of an equal share).
        order: the experts by role, a tuple of indices: from those of the first task over shared ones to
            those of the last.
        entropies: mean entropy of the gates of one image, `{task: nats}`; log(experts) is even routing.
        samples: number of images.
    """

    gates: dict
    ratios: np.ndarray
    roles: tuple
    order: tuple
    entropies: dict
    samples: int

    def to_dict(self):
        """The fields as a dict of plain Python values."""
        return {
            **dataclasses.asdict(self),
            "gates": {task: gates.tolist() for task, gates in self.gates.items()},
            "ratios": self.ratios.tolist(),
        }

    @classmethod
    def from_dict(cls, fields):
        """The report that `to_dict` gave; entries that are not of it, such as a seed, are passed over."""
        known = {field.name: fields[field.name] for field in dataclasses.fields(cls)}
        gates = {task: np.asarray(values) for task, values in known["gates"].items()}
        lists = {name: tuple(known[name]) for name in ("roles", "order")}
        return cls(**known | lists | {"gates": gates, "ratios": np.asarray(known["ratios"])})


def routing_report(model, inputs, batch_size=256, verbose="auto"):
    """Mean gates of every expert for each task, and the roles that follow from them.

    Args:
        model: a `STARPretraining` whose projector is a `RoutedExperts`, or such a layer.
        inputs: images for the model, of the size its backbone takes; features for the layer.
        batch_size: rows at a time; the report does not depend on it. Defaults to 256.
        verbose: as in `keras.Model.predict`. Defaults to `"auto"`.

    Returns:
        A `RoutingReport`.

    Raises:
        ValueError: if the model routes nothing, or there is no input.
        ShapeError: if images are of another size than the backbone takes.
        NonFiniteError: if a feature or a gate is NaN or infinite.

    Example:

    >>> import star_keras as sk
    >>> layer = sk.layers.RoutedExperts(4, 3, tasks=("invariant", "equivariant"), routing="shared")
    >>> report = routing_report(layer, np.ones((2, 5)))
    >>> report.order, [report.roles[expert] for expert in report.order]
    ((0, 2, 1), ['invariant', 'shared', 'equivariant'])

    Reference: Jeon and others, Soft Task-Aware Routing of Experts (NeurIPS 2025), figure 4.
    """
    layer = getattr(model, "projector", model)
    if not hasattr(layer, "route"):
        raise ValueError(
            "`model` must be a `RoutedExperts` layer, or a model whose projector is one. "
            f"Received: {type(layer).__name__}"
        )
    if layer is model:
        features = filled_rows("inputs", inputs)
    else:
        inputs = image_array(inputs)
        check_image_size(model.backbone, inputs.shape)
        features = extract_features(model.backbone, inputs, batch_size, verbose)
    gates = _gates(layer, features.astype("float32"), batch_size)
    means = {task: rows.mean(axis=0) for task, rows in gates.items()}
    ratios, roles, order = _roles(list(means), np.stack(list(means.values())))
    return RoutingReport(
        gates=means,
        ratios=ratios,
        roles=roles,
        order=order,
        entropies={task: _mean_entropy(rows) for task, rows in gates.items()},
        samples=len(features),
    )


def _gates(layer, features, batch_size):
    """Gates of all rows, `{task: float64 (rows, experts)}`."""
    batches = []
    for start in range(0, len(features), check_count("batch_size", batch_size)):
        gates = layer.route(features[start : start + batch_size])
        batches.append(gates if isinstance(gates, dict) else {"embedding": gates})
    found = {
        task: np.concatenate([ops.convert_to_numpy(batch[task]) for batch in batches]).astype("float64")
        for task in batches[0]
    }
    if not all(np.isfinite(rows).all() for rows in found.values()):
        raise NonFiniteError(
            f"Gates must be finite. Received: NaN or infinity from {layer.name!r}; look at the weights of "
            "its routers."
        )
    return found


def _roles(tasks, means):
    """Ratio and role of each expert, and their order, from mean gates `(tasks, experts)`."""
    largest, totals = means.max(axis=0), means.sum(axis=0)
    ratios = np.where(largest > 0, means.min(axis=0) / np.where(largest > 0, largest, 1), 1.0)
    roles = np.where(ratios >= SHARED, "shared", np.array(tasks)[means.argmax(axis=0)])
    roles = np.where(largest < UNUSED / means.shape[1], "unused", roles)
    places = np.arange(len(tasks)) @ means / np.where(totals > 0, totals, 1)
    order = np.lexsort((-totals, places))
    return ratios, tuple(roles.tolist()), tuple(order.tolist())


def _mean_entropy(gates):
    return float(-np.sum(gates * np.log(np.maximum(gates, 1e-30)), axis=1).mean()) + 0.0
