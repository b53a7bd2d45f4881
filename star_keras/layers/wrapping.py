"""What `EquiTune` has to know of the model it wraps: inputs, outputs, a layer inside, a fixed batch size."""

import functools

import keras

from star_keras import orbits
from star_keras.exceptions import ShapeError
from star_keras.groups import Group
from star_keras.guards.arguments import is_whole

AUTO_ROWS = 32  # more rows in one pass are no faster per row on a CPU
CHOICES = {
    "weighting": ("mean", "lambda", "argmin"),
    "ties": ("mean", "first"),
    "gradient": ("equitune", "identity", "selected"),
    "combine": ("output", "log_probs", "probs"),
}
WORDS = {"weighting": ' The papers\' equitune is "mean", lambda-equitune "lambda", equizero "argmin".'}


class Wiring:
    """Which inputs and outputs of a model a group moves, and how.

    Args:
        model: the wrapped model or layer.
        group: moves the inputs.
        output_group: moves the outputs: a group, a dict of groups by output, None or "invariant".
        names: of the inputs that are moved, or None for a single input.
    """

    def __init__(self, model, group, output_group, names):
        self.model = model
        self.group = group
        self.output_group = output_group
        self.names = [names] if isinstance(names, str) else names

    def map_moved(self, function, inputs, otherwise=lambda leaf: leaf):
        """`function` of the inputs that the group moves, `otherwise` of the others."""
        if self.names is None:
            return keras.tree.map_structure(function, inputs)
        results = {
            key: keras.tree.map_structure(function if key in self.names else otherwise, value)
            for key, value in self._by_name(inputs).items()
        }
        return results if isinstance(inputs, dict) else type(inputs)(results.values())

    def output_groups(self, outputs):
        """The group of each output in flat order, None where it does not move."""
        if isinstance(self.output_group, dict):
            named = {key: _constant(value, self.output_group.get(key)) for key, value in outputs.items()}
            groups = keras.tree.flatten(named)
        else:
            groups = keras.tree.flatten(_constant(outputs, self.output_group))
        return [group if isinstance(group, Group) else None for group in groups]

    def check_inputs(self, shapes):
        """Raises unless the group can move inputs of these shapes."""
        if self.names is None and not is_shape(shapes) and len(shapes) > 1:
            raise ValueError(
                "A model of several inputs needs `inputs`, the names of those that the group moves. "
                f"Received: inputs=None and {shapes}"
            )
        moved = {None: shapes}
        if self.names is not None:
            moved = {key: value for key, value in self._by_name(shapes).items() if key in self.names}
        for key, value in moved.items():
            map_shapes(functools.partial(self._check_input, self._own_shape(key)), value)

    def check_outputs(self, shapes):
        """Raises unless outputs of these shapes can be brought back."""
        if not isinstance(self.output_group, dict):
            map_shapes(lambda shape: self._check_output(shape, self.output_group), shapes)
            return
        unknown = sorted(set(self.output_group) - set(shapes if isinstance(shapes, dict) else ()))
        if unknown:
            raise ValueError(
                "A dict as `output_group` goes by the names of the outputs. Received: "
                f"{unknown}, which the model does not return"
            )
        for key, value in shapes.items():
            map_shapes(lambda shape, key=key: self._check_output(shape, self.output_group.get(key)), value)

    def _by_name(self, inputs):
        if isinstance(inputs, dict):
            named = dict(inputs)
        else:
            names = [tensor.name for tensor in symbolic_inputs(self.model)]
            several = isinstance(inputs, (list, tuple)) and not is_shape(inputs)
            named = dict(zip(names, inputs, strict=False)) if several and len(names) == len(inputs) else {}
        missing = [name for name in self.names if name not in named]
        if missing:
            raise ValueError(
                "`inputs` must be names of the model's inputs. Received: "
                f"inputs={list(self.names)}, where the inputs are {list(named) or 'not named'}"
            )
        return named

    def _own_shape(self, name):
        """The shape that a functional model states for an input, or for its only one; else None."""
        own = [tensor for tensor in symbolic_inputs(self.model) if name in (None, tensor.name)]
        return tuple(own[0].shape) if len(own) == 1 else None

    def _check_input(self, own, shape):
        if own is not None and self.group.moves_maps and _channels_come_first(shape, own):
            raise ShapeError(
                f"The model takes inputs of shape {own}, channels last. Received: shape {shape}. The "
                "channels come first: pass `np.moveaxis(inputs, 1, -1)`."
            )
        self.group.check_shape(shape[1:])

    def _check_output(self, shape, chosen):
        if isinstance(chosen, Group):
            chosen.check_shape(shape[1:])
        elif chosen is None and len(shape) >= 4 and self.group.moves_maps:
            raise ValueError(
                "The model returns a feature map, which moves with its input. Received: output of shape "
                f"{tuple(shape)} and output_group=None. Pass the group that brings it back, such as "
                "`output_group=group`, or end the model with a pooling layer for an invariant output, or "
                'say output_group="invariant" to average the maps as they lie.'
            )


class Tap:
    """A functional model that returns, beside its outputs, those of one of its layers.

    Not a layer, so that Keras does not take its weights for a second set.
    """

    def __init__(self, model, name):
        layers = {layer.name: layer for layer in getattr(model, "layers", [])}
        if not getattr(model, "inputs", None) or name not in layers:
            raise ValueError(
                "`features` must name a layer of a functional model. Received: "
                f"features={name!r} and {_describe(model, layers)}"
            )
        sequential = isinstance(model, keras.Sequential)
        inputs, outputs = (model.inputs[0], model.outputs[0]) if sequential else (model.input, model.output)
        self._model = keras.Model(inputs, [outputs, layers[name].output])

    def __call__(self, inputs):
        return self._model(inputs)

    def features_shape(self):
        return self._model.outputs[-1].shape


def plan_chunks(order, batch, fixed, most_rows, training):
    """Ranges of the elements whose members go through the model together.

    Args:
        order: number of elements.
        batch: number of rows, None where a graph does not know it.
        fixed: batch size that is built into the model, or None.
        most_rows: of one call; None for no limit, "auto" for none while training and 32 otherwise.
        training: whether the model trains.
    """
    if fixed is not None:
        step = _members_that_fill(fixed, batch, order)
    elif most_rows is None or (most_rows == "auto" and training):
        step = order
    else:
        rows = AUTO_ROWS if most_rows == "auto" else most_rows
        step = 1 if batch is None else min(order, max(1, rows // max(batch, 1)))
    return [range(start, min(start + step, order)) for start in range(0, order, step)]


def _members_that_fill(fixed, batch, order):
    if batch in (None, fixed):
        return 1
    members, rest = divmod(fixed, max(batch, 1))
    if rest or members == 0 or order % members:
        raise ShapeError(
            f"The model has a fixed batch size of {fixed}: it takes one member of the orbit at a time of a "
            f"batch of {fixed} rows, or several of a smaller one that fill it. Received: a batch of {batch} "
            f"rows, with orbits of {order}. Pass batches of {fixed}, or make the model with "
            "`keras.Input(shape)`, which leaves the batch size open."
        )
    return members


def symbolic_inputs(model):
    """The inputs that a functional model was made from; of other models, none."""
    return [one for one in getattr(model, "inputs", None) or [] if isinstance(one, keras.KerasTensor)]


def fixed_batch(model):
    """The batch size that is built into a functional model, or None."""
    sizes = {tensor.shape[0] for tensor in symbolic_inputs(model)}
    return max(sizes - {None}, default=None)


def check_options(wrapper):
    """Raises ValueError where arguments of an `EquiTune` are wrong or contradict one another."""
    for name, choices in CHOICES.items():
        if getattr(wrapper, name) not in choices:
            raise ValueError(
                f"`{name}` must be one of {choices}. Received: {name}={getattr(wrapper, name)!r}."
                + WORDS.get(name, "")
            )
    if not isinstance(wrapper.model, keras.Layer):
        raise ValueError(f"`model` must be a Keras model or layer. Received: model={wrapper.model!r}")
    if not isinstance(wrapper.group, Group):
        raise ValueError(f"`group` must be a group of `star_keras.groups`. Received: group={wrapper.group!r}")
    _check_output_group(wrapper.group, wrapper.output_group)
    _check_score(wrapper)
    if not wrapper.temperature > 0:
        raise ValueError(f"`temperature` must be positive. Received: temperature={wrapper.temperature}")
    rows = wrapper.max_orbit_batch
    if not (rows is None or rows == "auto" or (is_whole(rows) and rows > 0)):
        raise ValueError(
            '`max_orbit_batch` must be a positive number of rows, "auto", or None for the whole orbit at '
            f"once. Received: max_orbit_batch={rows!r}"
        )
    _check_num_samples(wrapper)
    reads_classes = wrapper.combine != "output" or wrapper.score in ("entropy", "confidence")
    if wrapper.from_logits and reads_classes and ends_in_softmax(wrapper.model):
        raise ValueError(
            "The model ends in a softmax, and a softmax of probabilities is nearly uniform. Received: "
            f"from_logits=True, combine={wrapper.combine!r}, score={wrapper.score!r}. Pass "
            "from_logits=False, or a model that ends in logits."
        )


def _check_num_samples(wrapper):
    count, order = wrapper.num_samples, wrapper.group.order
    if count is None:
        return
    if not is_whole(count) or not 1 <= count <= order:
        raise ValueError(
            f"`num_samples` must be a whole number of members of the orbit, from 1 to {order}, or None for "
            f"all. Received: num_samples={count!r}"
        )
    if wrapper.weighting == "argmin" and wrapper.gradient == "identity":
        raise ValueError(
            "`num_samples` draws members that need not have the identity among them. Received: "
            'gradient="identity"; use "equitune" or "selected".'
        )


def _check_output_group(group, output_group):
    named = output_group if isinstance(output_group, dict) else {None: output_group}
    for chosen in named.values():
        if chosen is None or (isinstance(chosen, str) and chosen == "invariant"):
            continue
        if not isinstance(chosen, Group):
            raise ValueError(
                '`output_group` must be a group, a dict of groups by output, None or "invariant". '
                f"Received: output_group={chosen!r}"
            )
        if chosen.order != group.order:
            raise ValueError(
                "`output_group` must have the order of `group`. Received: "
                f"{group!r} of order {group.order} and {chosen!r} of order {chosen.order}"
            )
        for first, second in zip(*(chosen.table != group.table).nonzero(), strict=True):
            raise ValueError(
                "`output_group` must have the composition table of `group`, element by element. Received: "
                f"compose({first}, {second}) is {group.table[first, second]} in {group!r} and "
                f"{chosen.table[first, second]} in {chosen!r}"
            )


def _check_score(wrapper):
    score, features = wrapper.score, wrapper.features
    if wrapper.weighting == "mean" and score is not None:
        raise ValueError(
            'The mean needs no score: leave it out, or say weighting="lambda" or "argmin". '
            f"Received: weighting='mean', score={score!r}"
        )
    if wrapper.weighting == "lambda" and not isinstance(score, keras.Layer):
        raise ValueError(
            'weighting="lambda" needs a layer as `score`, which returns one number for each row, such as '
            f"`keras.layers.Dense(1)` or a Sequential that ends in it. Received: score={score!r}"
        )
    named = isinstance(score, str) and score in orbits.LOSSES
    if wrapper.weighting == "argmin" and not (named or callable(score)):
        raise ValueError(
            f'weighting="argmin" needs a loss as `score`: one of {tuple(orbits.LOSSES)} or a function of the '
            f"model's outputs. Received: score={score!r}"
        )
    if features is not None and wrapper.weighting != "lambda":
        raise ValueError(
            f'`features` are read by weighting="lambda" alone. Received: weighting={wrapper.weighting!r}'
        )
    if not (features is None or isinstance(features, (str, keras.Layer))):
        raise ValueError(
            "`features` must be the name of a layer, a model, or None for the model's outputs. "
            f"Received: features={features!r}"
        )


def ends_in_softmax(model):
    """Whether the last layer of a functional or sequential model is, or applies, a softmax."""
    layers = getattr(model, "layers", None) or [model]
    last = layers[-1]
    return isinstance(last, keras.layers.Softmax) or (
        getattr(last, "activation", None) is keras.activations.softmax
    )


def is_shape(value):
    """Whether a structure of shapes is a single shape; JAX has symbols for sizes it does not know."""
    if not isinstance(value, (list, tuple)):
        return False
    return not any(isinstance(side, (list, tuple, dict)) or hasattr(side, "shape") for side in value)


def map_shapes(function, shapes):
    """`function` of every shape of a structure."""
    if is_shape(shapes):
        return function(tuple(shapes))
    if isinstance(shapes, dict):
        return {key: map_shapes(function, value) for key, value in shapes.items()}
    return [map_shapes(function, value) for value in shapes]


def shapes_of(structure):
    """The shapes of the tensors of a structure."""
    if isinstance(structure, dict):
        return {key: shapes_of(value) for key, value in structure.items()}
    if isinstance(structure, (list, tuple)):
        return [shapes_of(value) for value in structure]
    return tuple(structure.shape)


def output_shapes(layer, shapes):
    """The shapes of the outputs for inputs of these shapes, without computing them."""
    try:
        return layer.compute_output_shape(shapes)
    except NotImplementedError:
        symbols = map_shapes(lambda shape: keras.KerasTensor(shape, layer.compute_dtype), shapes)
        return shapes_of(layer.compute_output_spec(symbols))


def _channels_come_first(shape, own):
    """Whether a model whose inputs are `own`, channels last, is given the same with channels first."""
    known = len(shape) == len(own) == 4 and None not in (shape[-1], own[-1])
    return known and shape[1] == own[-1] != shape[-1]


def _constant(structure, value):
    return keras.tree.map_structure(lambda _: value, structure)


def _describe(model, layers):
    if not getattr(model, "inputs", None):
        return f"a {type(model).__name__}, which is not functional; pass a model of the features instead"
    return f"a model of the layers {list(layers)}"
