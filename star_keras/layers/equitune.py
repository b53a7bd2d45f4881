"""Any model made equivariant to a group: by the mean, the best, or a learned weighting of its orbit."""

import warnings

import keras
import numpy as np
from keras import ops

from star_keras import orbits
from star_keras.exceptions import ShapeError
from star_keras.guards.arguments import freeze_parts, plain
from star_keras.guards.pixels import LooksAtArrays
from star_keras.layers.wrapping import (
    Tap,
    Wiring,
    check_options,
    fixed_batch,
    is_shape,
    map_shapes,
    output_shapes,
    plan_chunks,
    shapes_of,
)


@keras.saving.register_keras_serializable(package="star_keras")
class EquiTune(LooksAtArrays, keras.Model):
    """Makes a model equivariant, or invariant, to a group without touching it.

    With `M` the model and `G` the group, the outputs for `x` are an average over the orbit of `x`:

        outputs = sum_g w_g g^-1 M(g x)        sum_g w_g = 1        (invariant: without g^-1)

    | `weighting` | `w_g` | known as |
    |---|---|---|
    | "mean" | 1 / order | equitune |
    | "lambda" | softmax over g of `score(features(g x)) / temperature`, a learned layer | lambda-equitune |
    | "argmin" | 1 for the g of least loss `score(M(g x))`, else 0 | equizero |

    It holds for any model, trained or not, because each weight depends on `g x` alone. A model is called with
    the whole orbit as one batch, group-major, or with chunks of it: see `max_orbit_batch`.

    Two-stage training is a matter of `trainable`: train `.score` with `.model.trainable = False`, then
    the model with `.score.trainable = False`, and give the score a frozen copy of the model as `features`,
    so that it stays the same function meanwhile.

    Args:
        model: any Keras model or layer: one input, or a dict or list of them; one output or a dict, tuple or
            list of them.
        group: how the inputs are moved, a `groups.Group`.
        output_group: how outputs are moved: a group with the composition table of `group`, or a dict of
            them by output. Defaults to None, for outputs that should not change (invariance). Feature maps
            need a choice: turn them back with a group, or say "invariant" to average them as they lie.
        weighting: "mean" (default), "lambda" or "argmin".
        score: for "lambda" a layer that returns one number for each row; for "argmin" the loss: "entropy"
            or "confidence" (minus the greatest probability) of classes along the last axis, "max_value"
            (minus the greatest output), or a function of the model's outputs that returns one number for
            each row.
        features: what the layer `score` sees. Defaults to None, the model's outputs; or the name of a
            layer of a functional model; or another model, called with the same inputs, in inference mode
            while it is not trainable.
        temperature: of the softmax of "lambda", positive. Defaults to 1.0.
        ties: "mean" (default) averages all members of least loss (to 1e-6), which keeps symmetric
            inputs exact; "first" takes the first of them.
        gradient: of "argmin". "equitune" (default): that of the mean, `sum_g g^-1 M(g x) / order`;
            "identity": that of `M(x)`; "selected": that of the chosen members alone.
        combine: what is averaged: "output" (default), as the model returns it; "log_probs" or "probs", the
            float32 (log-)probabilities of classes along the last axis.
        inputs: names of the inputs that the group moves, for models with several; others are repeated.
        max_orbit_batch: most rows of one call of the model, though never less than one member of the
            orbit. None: the whole orbit at once. "auto" (default): the whole orbit while training; in
            inference 32 rows, the fastest measured on a CPU. A graph that does not know its batch size
            takes one member at a time, unless it is allowed the whole orbit.
        num_samples: while training, visit only so many members of the orbit, drawn anew for every batch,
            none twice: for groups that are large, or stand for a continuous one. The mean of such draws is
            that of the orbit; "lambda" weighs, and "argmin" chooses, among those drawn, which is the whole
            orbit's answer only as their number grows. Defaults to None, all of them. Inference visits all.
        from_logits: whether classes come as logits (default) or, if False, as probabilities. Only "entropy",
            "confidence", "log_probs" and "probs" look.
        **kwargs: `name`, `dtype` and `trainable`.

    Input shape: that of the model. Output shape: that of the model.

    Averages and weights are computed in float32 (float64 for float64 outputs), and outputs returned in the
    model's own dtype. Batch normalisation sees the rows of one call: equivariance while training needs the
    whole orbit in one, and no dropout.

    Raises:
        ValueError: if arguments contradict one another, tables of the groups differ, outputs are feature
            maps and nothing was said about them, or are integers.
        ShapeError: if the group cannot move inputs or outputs of this shape, the model has a fixed batch size
            that does not fit, or the score does not return one number for each row.
        NonFiniteError: if a score is NaN, or a learned one infinite, eagerly; a jitted step returns NaN
            instead.

    Example:

    >>> import star_keras as sk
    >>> classifier = sk.models.create("resnet20", input_shape=(32, 32, 3))
    >>> robust = EquiTune(classifier, sk.groups.Cyclic(4))
    >>> images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype="uint8")
    >>> upright, turned = robust(images), robust(np.rot90(images, axes=(1, 2)))
    >>> bool(np.abs(upright - turned).max() < 1e-4)
    True
    >>> np.array(robust.orbit_weights(images))
    array([[0.25, 0.25, 0.25, 0.25],
           [0.25, 0.25, 0.25, 0.25]], dtype=float32)

    Reference: Basu et al., "Equi-Tuning: Group Equivariant Fine-Tuning of Pretrained Models" (AAAI 2023),
    arXiv:2210.06475; Basu et al., "Efficient Equivariant Transfer Learning from Pretrained Models"
    (NeurIPS 2023), arXiv:2305.09900, section 3.
    """

    def __init__(
        self,
        model,
        group,
        output_group=None,
        weighting="mean",
        score=None,
        features=None,
        temperature=1.0,
        ties="mean",
        gradient="equitune",
        combine="output",
        inputs=None,
        max_orbit_batch="auto",
        num_samples=None,
        from_logits=True,
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        self.model = model
        self.group = group
        self.output_group = output_group
        self.weighting = weighting
        self.score = score
        self.features = features
        self.temperature = temperature
        self.ties = ties
        self.gradient = gradient
        self.combine = combine
        self.inputs = inputs if inputs is None or isinstance(inputs, str) else list(inputs)
        self.max_orbit_batch = plain(max_orbit_batch)
        self.num_samples = plain(num_samples)
        self.from_logits = from_logits
        check_options(self)
        self._wiring = Wiring(model, group, output_group, self.inputs)
        self._tap = Tap(model, features) if isinstance(features, str) else None
        self.seed_generator = None if num_samples is None else keras.random.SeedGenerator()
        if not group.exact:
            warnings.warn(
                f"{group!r} interpolates, so the wrapper is equivariant only approximately: "
                "`equivariance_error(x)` says how far.",
                UserWarning,
                stacklevel=2,
            )

    def build(self, input_shape):
        shape = map_shapes(lambda one: one, input_shape)
        self._wiring.check_inputs(shape)
        if fixed_batch(self.model) is None:
            shape = map_shapes(lambda one: (None, *one[1:]), shape)
        if not self.model.built:
            self.model.build(shape)
        outputs = output_shapes(self.model, shape)
        self._wiring.check_outputs(outputs)
        if self.weighting == "argmin" and self.score in orbits.LOSSES and not is_shape(outputs):
            raise ValueError(
                f"`score={self.score!r}` looks at a single output. Received: a model with several; pass a "
                "function of all of them that returns one number for each row."
            )
        if self.weighting == "lambda":
            self._build_score(self._features_shape(shape, outputs))
        freeze_parts(self)

    def _features_shape(self, shape, outputs):
        if self.features is None:
            return outputs
        if self._tap is not None:
            return self._tap.features_shape()
        if not self.features.built:
            self.features.build(shape)
        own = {id(variable) for variable in self.model.variables}
        if any(id(variable) in own for variable in self.features.variables):
            raise ValueError(
                "`features` must not share weights with `model`, or a saved file could not hold both. "
                "Received: a model that does. Pass the name of a layer for live features, or a copy, by "
                "`keras.models.clone_model` and `set_weights`, for frozen ones."
            )
        return output_shapes(self.features, shape)

    def _build_score(self, shape):
        if not self.score.built:
            self.score.build(shape)
        scores = output_shapes(self.score, shape)
        if not is_shape(scores) or tuple(scores[1:]) not in ((), (1,)):
            raise ShapeError(
                "`score` must return one number for each row, of shape (rows, 1) or (rows,). Received: "
                f"outputs of shape {scores} for features of shape {shape}. End it with `Dense(1)`, after "
                "pooling or flattening maps."
            )

    def call(self, inputs, training=None):
        self._wiring.check_inputs(shapes_of(inputs))
        average = orbits.RunningAverage(self.weighting, self.ties, self.gradient)
        for elements in self._chunks(inputs, training):
            outputs, scores = self._visit(inputs, elements)
            average.add(scores, self._bring_back(outputs, elements))
        result = average.result()
        if self.combine != "output":
            return result
        return keras.tree.map_structure(lambda mean, like: ops.cast(mean, like.dtype), result, outputs)

    def compute_output_shape(self, input_shape):
        return output_shapes(self.model, input_shape)

    def compute_output_spec(self, *inputs, **options):
        # By computing, since `combine` and the model decide the type of the outputs, which a shape has not.
        return keras.Operation.compute_output_spec(self, *inputs, **options)

    def orbit_weights(self, x):
        """How much of each member of the orbit the outputs for `x` are made of.

        Args:
            x: a batch of inputs, as for a call.

        Returns:
            A float32 tensor `(batch, order)` whose rows sum to one.
        """
        x = self._prepare(x)
        if self.weighting == "mean":
            rows = ops.shape(keras.tree.flatten(x)[0])[0]
            return ops.full((rows, self.group.order), 1 / self.group.order, dtype="float32")
        scores = [self._visit(x, elements)[1] for elements in self._chunks(x, training=False)]
        weights = orbits.orbit_weights(ops.concatenate(scores), self.weighting, self.ties)
        return ops.cast(weights, "float32")

    def equivariance_error(self, x):
        """How far the outputs are from following the group, by element.

        `max |f(g x) - g f(x)| / max |f(x)|`, the greatest of several outputs. Rounding is about 1e-6 in
        float32; more means that the group is approximate, or that something in the model is random or
        depends on the rest of the batch.

        Args:
            x: a batch of inputs, as for a call.

        Returns:
            A NumPy array of `order` numbers.
        """
        x = self._prepare(x)
        outputs = self(x)
        return np.array([self._error(x, outputs, element) for element in range(self.group.order)])

    def _error(self, x, outputs, element):
        moved = self._wiring.map_moved(lambda leaf: self.group.act(element, leaf), x)
        leaves = zip(
            keras.tree.flatten(self(moved)),
            keras.tree.flatten(outputs),
            self._wiring.output_groups(outputs),
            strict=True,
        )
        errors = []
        for found, upright, group in leaves:
            expected = upright if group is None else group.act(element, upright)
            found, expected = (ops.convert_to_numpy(orbits.accurate(y)) for y in (found, expected))
            scale = np.abs(expected[np.isfinite(expected)]).max(initial=np.finfo("float32").tiny)
            same = found == expected  # minus infinity, too, which a forbidden class has
            errors.append(np.abs(np.where(same, 0, found) - np.where(same, 0, expected)).max() / scale)
        return max(errors)

    def _prepare(self, x):
        x = keras.tree.map_structure(ops.convert_to_tensor, x)
        if not self.built:
            self.build(shapes_of(x))
        self._wiring.check_inputs(shapes_of(x))
        return x

    def _chunks(self, inputs, training):
        batch = keras.tree.flatten(inputs)[0].shape[0]
        batch = batch if isinstance(batch, int) else None  # JAX has a symbol for a size it does not know
        drawing = self.num_samples is not None and training
        count = self.num_samples if drawing else self.group.order
        chunks = plan_chunks(count, batch, fixed_batch(self.model), self.max_orbit_batch, training)
        if not drawing:
            return chunks
        drawn = keras.random.shuffle(ops.arange(self.group.order), seed=self.seed_generator)
        return [[drawn[position] for position in chunk] for chunk in chunks]

    def _visit(self, inputs, elements):
        """The model's outputs for some members of the orbit, and the scores `(members, rows)` of these."""
        moved = self._wiring.map_moved(
            lambda leaf: _join([self.group.act(element, leaf) for element in elements]),
            inputs,
            otherwise=lambda leaf: _join([leaf] * len(elements)),
        )
        if self._tap is not None:
            outputs, features = self._tap(moved)
        elif isinstance(self.features, keras.Layer):
            frozen = {} if self.features.trainable else {"training": False}
            outputs, features = self.model(moved), self.features(moved, **frozen)
        else:
            outputs = features = self.model(moved)
        return outputs, self._rank(outputs, features, len(elements))

    def _rank(self, outputs, features, members):
        """Scores `(members, rows)`, the greater the better; None for the mean, which needs none."""
        if self.weighting == "mean":
            return None
        if self.weighting == "lambda":
            scores = orbits.accurate(self.score(features)) / self.temperature
        elif callable(self.score):
            scores = -orbits.accurate(self.score(outputs))
        else:
            scores = -orbits.loss(self.score, keras.tree.flatten(outputs)[0], self.from_logits)
        _check_scores(tuple(scores.shape), keras.tree.flatten(outputs)[0].shape[0])
        orbits.refuse_broken(scores, self.weighting)
        return ops.reshape(scores, (members, -1))

    def _bring_back(self, outputs, elements):
        """Members in one frame, `(members, rows, ...)`, in the form and precision they are averaged in."""
        groups = iter(self._wiring.output_groups(outputs))
        return keras.tree.map_structure(lambda leaf: self._undo(leaf, elements, next(groups)), outputs)

    def _undo(self, leaf, elements, group):
        kind = keras.backend.standardize_dtype(leaf.dtype)
        if "float" not in kind:
            raise ValueError(
                "Outputs are averaged, so they must be of a floating type. Received: an output of type "
                f"{kind}; wrap the part of the model before it."
            )
        members = ops.reshape(self._transform(leaf), (len(elements), -1, *ops.shape(leaf)[1:]))
        return members if group is None else orbits.brought_back(group, members, elements)

    def _transform(self, leaf):
        if self.combine == "probs":
            return orbits.probabilities(leaf, self.from_logits)
        if self.combine == "log_probs":
            return orbits.log_probabilities(leaf, self.from_logits)
        return orbits.accurate(leaf)

    def get_config(self):
        parts = ("model", "group", "output_group", "score", "features")
        values = (
            "weighting",
            "temperature",
            "ties",
            "gradient",
            "combine",
            "inputs",
            "max_orbit_batch",
            "num_samples",
            "from_logits",
        )
        return {
            **super().get_config(),
            **{name: keras.saving.serialize_keras_object(getattr(self, name)) for name in parts},
            **{name: getattr(self, name) for name in values},
        }

    @classmethod
    def from_config(cls, config):
        parts = ("model", "group", "output_group", "score", "features")
        return cls(**config | {name: keras.saving.deserialize_keras_object(config[name]) for name in parts})


def score_network(hidden_units):
    """A dense network that gives one number for each row: a `score` for "lambda"."""
    hidden = [keras.layers.Dense(units, "relu", dtype="float32") for units in hidden_units]
    return keras.Sequential([*hidden, keras.layers.Dense(1, dtype="float32")], name="score")


def _check_scores(shape, rows):
    one_each = None in (rows, *shape[:1]) or shape[:1] == (rows,)
    if not one_each or shape[1:] not in ((), (1,)):
        raise ShapeError(
            "`score` must return one number for each row, of shape (rows, 1) or (rows,). Received: shape "
            f"{shape} for {rows} rows"
        )


def _join(tensors):
    return tensors[0] if len(tensors) == 1 else ops.concatenate(tensors, axis=0)
