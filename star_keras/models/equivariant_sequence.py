"""An encoder-decoder that answers a command and the same command with other words alike."""

import keras
from keras import ops

from star_keras import orbits
from star_keras.data.scan import END, PADDING
from star_keras.exceptions import ConfigError
from star_keras.groups import Permutation, VocabularyCycle
from star_keras.layers.equitune import score_network
from star_keras.models import checks, registry
from star_keras.models.sequence_to_sequence import CELLS, SequenceToSequence
from star_keras.models.trainability import freeze_built_parts, set_trainability, trainability

ARGUMENTS = {
    "weighting": checks.choice("mean", "lambda", "argmin"),
    "combine": checks.choice("step", "sentence"),
    "hidden_units": checks.sequence(checks.integer(1, 4096), 0, 4),
    "ties": checks.choice("mean", "first"),
    "gradient": checks.choice("equitune", "identity", "selected"),
    "proxy": checks.choice("confidence", "entropy", "max_value"),
}
OPTIONS = {
    "model": registry.nested_in(*(f"{cell}_seq2seq" for cell in CELLS)),
    "rings": checks.sequence(checks.sequence(checks.integer(0, 65_535), 1, 1024), 1, 1024),
    **ARGUMENTS,
}


@keras.saving.register_keras_serializable(package="star_keras")
class EquivariantSequenceToSequence(keras.Model):
    """Makes an encoder-decoder equivariant to exchanges of words: equitune, equizero or lambda-equitune.

    With `p(. | x, y)` what the model says of the next action after the command `x` and the actions `y`, and
    a group that moves words of commands and of actions together, the next action is chosen by

        sum_g w_g g^-1 log p(. | g x, g y)        sum_g w_g = 1

    | `weighting` | `w_g` | known as |
    |---|---|---|
    | "mean" | 1 / order | equitune |
    | "argmin" | 1 for the g that is surest, as `proxy` has it, else 0 | equizero |
    | "lambda" | softmax over g of a learned score of the encoder's state for `g x` | lambda-equitune |

    `combine` says when members of the orbit meet:

    - "step": after every action. All have said the same so far, each in its own words, and "argmin" may
      choose another one for every action.
    - "sentence": each decodes to its end by itself. "argmin" takes the sentence whose actions were surest
      on average over its own length; the others average at every step those that still speak.

    For "argmin" choose "sentence", as the paper's code does: by step it follows whoever is surest of one
    action, and a member that is lost can be that.

    Called, the model returns what is averaged for known actions, to be trained by `fit` with a
    cross-entropy from logits; `applications.scan.Translator` says new ones.

    Args:
        model: a `SequenceToSequence`.
        group: a `groups.VocabularyCycle`, or another permutation of the model's tokens that leaves
            padding, start and end alone.
        weighting: "mean" (default), "argmin" or "lambda".
        combine: "step" (default) or "sentence".
        hidden_units: of the learned score of "lambda". Defaults to `(32,)`.
        ties: of "argmin": "mean" (default) averages members that are equally sure, "first" takes the first.
        gradient: of "argmin": "equitune" (default), "identity" or "selected", as in `layers.EquiTune`.
        proxy: of "argmin", what makes a member sure of an action: "confidence" (default), the
            log-probability of the best one; "entropy", as little of it as can be; "max_value", the greatest
            logit.
        **kwargs: `name`, `dtype`, `trainable`.

    Attributes:
        model, group, score: the parts; `score` is None unless the weighting is "lambda". Set `trainable`
            on them to train one after the other.

    Input shape: that of the model. Output shape: `(batch, steps, vocabulary_size)`, float32.

    Raises:
        ValueError: if the group has another number of tokens than the model, moves padding, start or end,
            or is no permutation.
        ConfigError: if an option is unknown.
        NonFiniteError: if members cannot be ranked for NaN, eagerly; a jitted step returns NaN instead.

    Example:

    >>> import star_keras as sk
    >>> words = sk.data.SCAN_VOCABULARY
    >>> model = sk.models.create("gru_seq2seq", vocabulary_size=words.size, units=8)
    >>> rings = [words.tokens(["jump", "run"]), words.tokens(["I_JUMP", "I_RUN"])]
    >>> group = sk.groups.VocabularyCycle(rings, words.size)
    >>> equivariant = EquivariantSequenceToSequence(model, group)
    >>> commands = words.encode_commands(["jump twice", "run twice"], length=2)
    >>> actions = words.encode_actions(["I_JUMP I_JUMP", "I_RUN I_RUN"], length=2)
    >>> jumping, running = equivariant({"commands": commands, "actions": actions})
    >>> bool(np.abs(group.act(1, jumping) - running).max() < 1e-5)
    True

    Reference: Basu et al., "Efficient Equivariant Transfer Learning from Pretrained Models" (NeurIPS 2023),
    arXiv:2305.09900, section 5 (compositional generalization in languages).
    """

    def __init__(
        self,
        model,
        group,
        weighting="mean",
        combine="step",
        hidden_units=(32,),
        ties="mean",
        gradient="equitune",
        proxy="confidence",
        trainable=True,
        **kwargs,
    ):
        options = {
            "weighting": weighting,
            "combine": combine,
            "hidden_units": hidden_units,
            "ties": ties,
            "gradient": gradient,
            "proxy": proxy,
        }
        checks.validate(options, ARGUMENTS)
        _check_parts(model, group)
        super().__init__(autocast=False, **{"dtype": model.dtype_policy, **kwargs})
        self.model = model
        self.group = group
        self.weighting = weighting
        self.combine = combine
        self.hidden_units = tuple(hidden_units)
        self.ties = ties
        self.gradient = gradient
        self.proxy = proxy
        self._ids = group.ids
        self.score = score_network(hidden_units) if weighting == "lambda" else None
        set_trainability(self, trainable)

    def build(self, input_shape=None):
        if not self.model.built:
            self.model.build()
        if self.score is not None:
            self.score.build((None, self.model.units))
        freeze_built_parts(self)

    def call(self, inputs, training=None):
        commands, actions = (self.orbit(inputs[name]) for name in ("commands", "actions"))
        memory, states = self.model.encode(commands, training)
        logits = self.model.decode(actions, states, memory, training)
        members = self.bring_back(ops.log_softmax(logits, axis=-1))
        # After the end nothing is said any more: what is put in there has no output that counts.
        tokens = inputs["actions"]
        said = ops.logical_and(ops.not_equal(tokens, PADDING), ops.not_equal(tokens, END))
        return self._average(members, self._scores(logits, ops.cast(said, "float32"), states))

    def orbit(self, tokens):
        """Tokens `(batch, ...)` moved by every element, `(order * batch, ...)`, element after element."""
        moved = self._ids.orbit(ops.cast(tokens, "int32"))
        return ops.reshape(moved, (-1, *ops.shape(tokens)[1:]))

    def bring_back(self, outputs):
        """What was said of each member of the orbit in the words of the first, `(order, batch, ...)`."""
        outputs = ops.reshape(outputs, (self.group.order, -1, *ops.shape(outputs)[1:]))
        return orbits.brought_back(self.group, outputs)

    def sureness(self, logits):
        """How sure members are of each action: `(order, batch, ...)` for `(order * batch, ..., tokens)`."""
        if self.proxy == "confidence":
            sure = ops.max(ops.log_softmax(logits, axis=-1), axis=-1)
        else:
            sure = -orbits.LOSSES[self.proxy](logits, from_logits=True)
        # A jitted maximum may overlook NaN.
        sure = ops.where(ops.any(ops.isnan(logits), axis=-1), float("nan"), sure)
        return ops.reshape(sure, (self.group.order, -1, *ops.shape(sure)[1:]))

    def learned_scores(self, states):
        """Scores `(order, batch)` of the first states of the decoder; None without a learned score."""
        if self.score is None:
            return None
        return ops.reshape(self.score(ops.cast(states[0], "float32")), (self.group.order, -1))

    def fixed_inputs(self, count):
        """Inputs that are the same everywhere, by which a saved model is verified."""
        return self.model.fixed_inputs(count)

    def _scores(self, logits, said, states):
        """Scores of members, the greater the better: `(order, batch)`, or one for each step as well."""
        scores = self.sureness(logits) if self.weighting == "argmin" else self.learned_scores(states)
        if scores is not None:
            orbits.refuse_broken(scores, self.weighting)
        if self.weighting == "argmin" and self.combine == "sentence":
            return mean_over_steps(scores, said)
        return scores

    def _average(self, members, scores):
        average = orbits.RunningAverage(self.weighting, self.ties, self.gradient)
        if scores is not None and len(scores.shape) == 3:
            order, _, steps, tokens = ops.shape(members)
            average.add(ops.reshape(scores, (order, -1)), ops.reshape(members, (order, -1, tokens)))
            return ops.reshape(average.result(), (-1, steps, tokens))
        average.add(scores, members)
        return average.result()

    def compute_output_shape(self, input_shape):
        return self.model.compute_output_shape(input_shape)

    def get_config(self):
        return {
            "model": keras.saving.serialize_keras_object(self.model),
            "group": keras.saving.serialize_keras_object(self.group),
            **{name: getattr(self, name) for name in ARGUMENTS},
            "name": self.name,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "trainable": trainability(self),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        parts = {
            name: keras.saving.deserialize_keras_object(config[name], custom_objects=custom_objects)
            for name in ("model", "group")
        }
        return cls(**{**config, **parts})


def mean_over_steps(values, said):
    """The mean of `values` over the steps, on the last axis, that were `said`."""
    return ops.sum(values * said, axis=-1) / ops.maximum(ops.sum(said, axis=-1), 1.0)


def _check_parts(model, group):
    if not isinstance(model, SequenceToSequence):
        raise ValueError(f"`model` must be a `SequenceToSequence`. Received: model={model!r}")
    if not isinstance(group, Permutation) or group.axis != -1:
        raise ValueError(
            "`group` must exchange tokens on the last axis, such as `groups.VocabularyCycle`. "
            f"Received: group={group!r}"
        )
    if group.rows.shape[1] != model.vocabulary_size:
        raise ValueError(f"`group` must have the model's {model.vocabulary_size} tokens. Received: {group!r}")
    moved = [token for token in range(3) if (group.rows[:, token] != token).any()]
    if moved:
        raise ValueError(
            "`group` must leave padding, start and end (tokens 0, 1 and 2) alone. Received: "
            f"{group!r}, which moves {moved}"
        )


def build(model, rings, dtype=None, name=None, **options):
    """A built `EquivariantSequenceToSequence` with a `VocabularyCycle`, from plain data."""
    model = registry.create_nested(model, dtype=dtype)
    if options.get("weighting") == "lambda":
        checks.bound_weights((1, (model.units, *options.get("hidden_units", ()), 1)))
    try:
        group = VocabularyCycle(rings, model.vocabulary_size)
        equivariant = EquivariantSequenceToSequence(model, group, name=name, **options)
    except ValueError as error:
        raise ConfigError(f"`rings` must exchange words of the model: {error}") from None
    equivariant.build()
    return equivariant


def describe(model):
    """The configuration with which `build` makes the model again, or None for another kind."""
    if not isinstance(model, EquivariantSequenceToSequence) or type(model.group) is not VocabularyCycle:
        return None
    return {
        "model": registry.describe_nested(model.model),
        "rings": model.group.rings,
        **{key: checks.plain(getattr(model, key)) for key in ARGUMENTS},
    }
