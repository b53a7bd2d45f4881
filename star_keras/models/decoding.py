"""Sentences said by a model, one token after the other."""

import keras
from keras import ops

from star_keras import orbits
from star_keras.backend import sequential_loop
from star_keras.data.scan import END, PADDING, START
from star_keras.groups import VocabularyCycle
from star_keras.guards.arguments import is_whole
from star_keras.models.equivariant_sequence import EquivariantSequenceToSequence, mean_over_steps
from star_keras.models.sequence_to_sequence import SequenceToSequence

BROKEN = -1  # stands in all places of a sentence that nothing is known of, for the model said NaN


class GreedyDecoder(keras.Model):
    """Says, step by step, the likeliest action, for the whole orbit of a batch of commands at once.

    Use `predict`, which compiles the loop once.

    Args:
        model: an `EquivariantSequenceToSequence`, or a `SequenceToSequence`, which is decoded as it is.
        max_actions: greatest number of actions, at most the model's. Defaults to None, the model's.
        **kwargs: `name`, `trainable`.

    Input shape: integer tokens of commands `(batch, words)`.
    Output shape: int32 tokens `(batch, max_actions + 1)`: actions, the end, then padding. A sentence that
    reached no end is as long as the row; one of which the model said NaN is -1 throughout.

    Raises:
        ValueError: if `model` is neither of the two, or `max_actions` is not from 1 to the model's.

    Example:

    >>> import star_keras as sk
    >>> model = sk.models.create("rnn_seq2seq", vocabulary_size=22, units=8)
    >>> GreedyDecoder(model, max_actions=5).predict(np.array([[6, 14, 0]]), verbose=0).shape
    (1, 6)
    """

    def __init__(self, model, max_actions=None, **kwargs):
        inner = model.model if isinstance(model, EquivariantSequenceToSequence) else model
        if not isinstance(inner, SequenceToSequence):
            raise ValueError(
                "`model` must be a `SequenceToSequence` or an `EquivariantSequenceToSequence`. "
                f"Received: model={model!r}"
            )
        limit = inner.max_actions
        if max_actions is not None and not (is_whole(max_actions) and 1 <= max_actions <= limit):
            raise ValueError(
                f"`max_actions` must be from 1 to {limit}, the longest the model was made for. "
                f"Received: max_actions={max_actions}"
            )
        super().__init__(**kwargs)
        self.model = model
        self.max_actions = max_actions
        self._steps = (max_actions or limit) + 1
        self._orbit = model if model is not inner else _alone(model)

    def build(self, input_shape=None):
        if not self._orbit.built:
            self._orbit.build()

    def call(self, commands):
        orbit = self._orbit
        moved = orbit.orbit(commands)
        memory, states = orbit.model.encode(moved, training=False)
        starts = ops.full_like(moved[:, 0], START)
        learned = orbit.learned_scores(states)
        if orbit.combine == "sentence":
            return self._decode_apart(starts, states, memory, learned)
        return self._decode_together(starts, states, memory, learned, ops.zeros_like(commands[:, 0], "bool"))

    def _decode_together(self, starts, states, memory, learned, done):
        """One action at a time that all members agree on, each reading it in its own words."""
        orbit = self._orbit

        def step(position, carry):
            tokens, states, done, broken, said = carry
            logits, states = orbit.model.step(tokens, states, memory)
            members = orbit.bring_back(ops.log_softmax(logits, axis=-1))
            scores = orbit.sureness(logits) if orbit.weighting == "argmin" else learned
            average = orbits.RunningAverage(orbit.weighting, orbit.ties, "selected")
            average.add(scores, members)
            logs = average.result()
            broken = ops.logical_or(broken, _is_broken(logs))
            chosen = ops.where(done, PADDING, _likeliest(logs))
            done = ops.logical_or(done, ops.equal(chosen, END))
            return orbit.orbit(chosen), states, done, broken, self._write(said, position, chosen)

        carry = (starts, states, done, done, self._empty(done, "int32"))
        *_, broken, said = sequential_loop(self._steps, step, carry)
        return ops.where(ops.expand_dims(broken, 1), BROKEN, said)

    def _decode_apart(self, starts, states, memory, learned):
        """A sentence of each member by itself, which meet afterwards."""
        orbit = self._orbit

        def step(position, carry):
            tokens, states, said, logits = carry
            now, states = orbit.model.step(tokens, states, memory)
            tokens = _likeliest(now)
            return tokens, states, self._write(said, position, tokens), self._write(logits, position, now)

        logits = self._empty(starts, "float32", orbit.model.vocabulary_size)
        carry = (starts, states, self._empty(starts, "int32"), logits)
        _, _, tokens, logits = sequential_loop(self._steps, step, carry)
        ends = ops.cast(ops.equal(tokens, END), "int32")
        said = ops.cast(ops.equal(ops.cumsum(ends, axis=1) - ends, 0), "float32")
        said = ops.reshape(said, (orbit.group.order, -1, self._steps))
        members = orbit.bring_back(ops.log_softmax(logits, axis=-1))
        weights = self._sentence_weights(logits, said, learned)
        weights = ops.expand_dims(ops.transpose(weights), -1) * said
        mixed = ops.sum(ops.expand_dims(weights, -1) * members, axis=0)
        chosen = ops.where(ops.sum(weights, axis=0) > 0, _likeliest(mixed), END)
        ends = ops.cast(ops.equal(chosen, END), "int32")
        chosen = ops.where(ops.equal(ops.cumsum(ends, axis=1) - ends, 0), chosen, PADDING)
        return ops.where(ops.expand_dims(_is_broken(mixed), 1), BROKEN, chosen)

    def _sentence_weights(self, logits, said, learned):
        """`(batch, order)`, rows that sum to one."""
        orbit = self._orbit
        if orbit.weighting == "mean":
            return ops.ones_like(ops.transpose(said[:, :, 0])) / orbit.group.order
        scores = learned
        if orbit.weighting == "argmin":
            scores = mean_over_steps(orbit.sureness(logits), said)
        return orbits.orbit_weights(scores, orbit.weighting, orbit.ties)

    def _empty(self, like, dtype, *sides):
        """Zeros `(batch, steps, ...)`, to be written step by step."""
        return ops.zeros((ops.shape(like)[0], self._steps, *sides), dtype)

    def _write(self, buffer, position, values):
        here = ops.reshape(
            ops.equal(ops.arange(self._steps), position), (1, -1) + (1,) * (len(values.shape) - 1)
        )
        return ops.where(here, ops.expand_dims(values, 1), buffer)


def _alone(model):
    """A model as the only member of its orbit."""
    return EquivariantSequenceToSequence(model, VocabularyCycle([[PADDING]], model.vocabulary_size))


def _is_broken(logs):
    """Whether a row has NaN anywhere, `(batch,)`."""
    return ops.any(ops.isnan(logs), axis=tuple(range(1, len(logs.shape))))


def _likeliest(logs):
    return ops.cast(ops.argmax(logs, axis=-1), "int32")
