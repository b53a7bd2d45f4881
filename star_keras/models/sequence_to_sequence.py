"""Recurrent encoder-decoders with attention, from tokens to tokens."""

import keras
import numpy as np
from keras import layers, ops

from star_keras.data.scan import PADDING
from star_keras.exceptions import ShapeError
from star_keras.guards.arguments import check_ids
from star_keras.models import checks
from star_keras.models.trainability import freeze_built_parts, set_trainability, trainability

CELLS = {"gru": layers.GRU, "lstm": layers.LSTM, "rnn": layers.SimpleRNN}
GATES = {"gru": 3, "lstm": 4, "rnn": 1}
OPTIONS = {
    "vocabulary_size": checks.integer(4, 65_536),
    "units": checks.integer(1, 4096),
    "dropout": checks.number(0, 0.9),
    "max_command": checks.integer(1, 1024),
    "max_actions": checks.integer(1, 1024),
}


@keras.saving.register_keras_serializable(package="star_keras")
class SequenceToSequence(keras.Model):
    """An encoder of commands and a decoder of actions, both recurrent, with attention between them.

    The encoder reads the command in both directions into a memory `m_s` and a first state. The decoder
    reads the actions so far; its state `h_t` attends to the memory, and both give the next action:

        a_t = softmax_s(h_t . m_s)        outputs_t = W tanh(V [h_t, sum_s a_ts m_s])

    Attention comes after the recurrence, so all steps of a known sentence are computed at once, and the
    logits are those that `step` gives one by one.

    Args:
        cell: "gru", "lstm" or "rnn".
        vocabulary_size: number of tokens; see `data.Vocabulary`. Token 0 is padding.
        units: width of embeddings, states and memory. Defaults to 64.
        dropout: of the embeddings, while training. Defaults to 0.1.
        max_command: greatest number of words of a command. Defaults to 9, the longest of SCAN.
        max_actions: greatest number of actions, without start and end. Defaults to 48, the longest of SCAN.
        **kwargs: `name`, `dtype`, `trainable`.

    Input shape: a dict of integers: `commands` `(batch, words)`, padded at the end, and `actions`
    `(batch, steps)`, that begin with the token of the start.
    Output shape: logits `(batch, steps, vocabulary_size)`, float32: at each step those of the next action.

    Raises:
        ConfigError: if an argument is of the wrong type or out of bounds, or all come to more than 2**28
            weights.
        ShapeError: if a sentence is longer than `max_command` words or `max_actions + 1` steps.
        ValueError: if tokens lie outside the vocabulary; seen where they have values, as they do eagerly.

    Example:

    >>> model = SequenceToSequence("gru", vocabulary_size=22, units=8)
    >>> inputs = {"commands": np.array([[6, 14, 0]]), "actions": np.array([[1, 16, 16]])}
    >>> tuple(model(inputs).shape)
    (1, 3, 22)

    Reference: Lake and Baroni, "Generalization without Systematicity" (ICML 2018); attention of Luong et
    al. (EMNLP 2015), "general" score.
    """

    def __init__(
        self,
        cell,
        vocabulary_size,
        units=64,
        dropout=0.1,
        max_command=9,
        max_actions=48,
        dtype=None,
        trainable=True,
        **kwargs,
    ):
        arguments = {
            "vocabulary_size": vocabulary_size,
            "units": units,
            "dropout": dropout,
            "max_command": max_command,
            "max_actions": max_actions,
        }
        checks.choice(*CELLS)("cell", cell)
        checks.validate(arguments, OPTIONS)
        states = 2 if cell == "lstm" else 1
        checks.bound_weights(
            (2, (vocabulary_size, units)), (6 * GATES[cell], (units, units)), (2 + states, (2 * units, units))
        )
        policy = checks.float_policy(dtype)
        super().__init__(dtype=policy, **kwargs)
        self.cell = cell
        self.arguments = arguments
        self.vocabulary_size = vocabulary_size
        self.units = units
        self.max_command, self.max_actions = max_command, max_actions

        def recurrent(name, **options):
            return CELLS[cell](
                units, return_sequences=True, return_state=True, dtype=policy, name=name, **options
            )

        self.embedding = layers.Embedding(vocabulary_size, units, dtype=policy, name="embedding")
        self.embedding_dropout = layers.Dropout(dropout, dtype=policy, name="embedding_dropout")
        self.forward_encoder = recurrent("forward_encoder")
        self.backward_encoder = recurrent("backward_encoder", go_backwards=True)
        self.memory = layers.Dense(units, use_bias=False, dtype=policy, name="memory")
        self.bridges = [
            layers.Dense(units, "tanh", dtype=policy, name=f"bridge_{number}") for number in range(states)
        ]
        self.decoder = recurrent("decoder")
        self.mixture = layers.Dense(units, "tanh", dtype=policy, name="mixture")
        self.logits = layers.Dense(vocabulary_size, dtype="float32", name="logits")
        set_trainability(self, trainable)

    def build(self, input_shape=None):
        sequence, both = (None, None, self.units), (None, None, 2 * self.units)
        self.embedding.build((None, None))
        self.embedding_dropout.build(sequence)
        for layer in (self.forward_encoder, self.backward_encoder, self.decoder, self.logits):
            layer.build(sequence)
        for layer in (self.memory, self.mixture):
            layer.build(both)
        for bridge in self.bridges:
            bridge.build((None, 2 * self.units))
        freeze_built_parts(self)

    def call(self, inputs, training=None):
        memory, states = self.encode(inputs["commands"], training)
        return self.decode(inputs["actions"], states, memory, training)

    def encode(self, commands, training=None):
        """What the decoder needs to know of commands.

        Args:
            commands: integer tokens `(batch, words)`.
            training: whether embeddings are dropped out.

        Returns:
            `(memory, states)`: a dict of `values` `(batch, words, units)` and the logarithm of the mask,
            `bias`; and a tuple of the first states of the decoder, each `(batch, units)`.
        """
        self._check("commands", commands, self.max_command)
        mask = ops.not_equal(commands, PADDING)
        read = self.embedding_dropout(self.embedding(commands), training=training)
        forth, *ends = self.forward_encoder(read, mask=mask)
        back, *starts = self.backward_encoder(read, mask=mask)
        values = self.memory(ops.concatenate([forth, ops.flip(back, axis=1)], axis=-1))
        pairs = zip(self.bridges, ends, starts, strict=True)
        states = tuple(bridge(ops.concatenate(pair, axis=-1)) for bridge, *pair in pairs)
        bias = ops.where(mask, 0.0, -1e9)
        return {"values": values, "bias": ops.cast(bias, "float32")}, states

    def decode(self, actions, states, memory, training=None):
        """The logits of all steps of known actions.

        Args:
            actions: integer tokens `(batch, steps)`, that begin with the start.
            states, memory: of `encode`.
            training: whether embeddings are dropped out.

        Returns:
            float32 `(batch, steps, vocabulary_size)`.
        """
        self._check("actions", actions, self.max_actions + 1)
        read = self.embedding_dropout(self.embedding(actions), training=training)
        steps, *_ = self.decoder(read, initial_state=list(states))
        return self._attend(steps, memory)

    def step(self, tokens, states, memory):
        """One step of the decoder.

        Args:
            tokens: integers `(batch,)`, the last actions.
            states: tuple of states, of `encode` or of the step before.
            memory: of `encode`.

        Returns:
            `(logits, states)`: float32 `(batch, vocabulary_size)`, and the states of the next step.
        """
        output, states = self.decoder.cell(self.embedding(tokens), list(states))
        logits = self._attend(ops.expand_dims(output, 1), memory)
        return ops.squeeze(logits, 1), tuple(states)

    def fixed_inputs(self, count):
        """Inputs that are the same everywhere, by which a saved model is verified."""
        rng = np.random.default_rng(0)
        lengths = {"commands": self.max_command, "actions": min(self.max_actions, 8)}
        return {
            name: rng.integers(1, self.vocabulary_size, (count, length), dtype="int32")
            for name, length in lengths.items()
        }

    def _attend(self, steps, memory):
        values = memory["values"]
        scores = ops.cast(ops.matmul(steps, ops.transpose(values, (0, 2, 1))), "float32")
        weights = ops.softmax(scores + ops.expand_dims(memory["bias"], 1), axis=-1)
        context = ops.matmul(ops.cast(weights, values.dtype), values)
        return self.logits(self.mixture(ops.concatenate([steps, context], axis=-1)))

    def _check(self, name, tokens, limit):
        shape = tokens.shape
        if len(shape) != 2 or (isinstance(shape[1], int) and shape[1] > limit):
            raise ShapeError(
                f"`{name}` must be tokens of shape (batch, length) with a length of at most {limit}. "
                f"Received: shape {tuple(shape)}"
            )
        check_ids(name, tokens, self.vocabulary_size)

    def compute_output_shape(self, input_shape):
        return (*input_shape["actions"], self.vocabulary_size)

    def get_config(self):
        return {
            "cell": self.cell,
            **self.arguments,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "name": self.name,
            "trainable": trainability(self),
        }


def build(cell, **config):
    """A built `SequenceToSequence`, from plain data."""
    model = SequenceToSequence(cell, **config)
    model.build()
    return model


def describe(cell, model):
    """The configuration of a `SequenceToSequence` with this cell, or None for another model."""
    return dict(model.arguments) if isinstance(model, SequenceToSequence) and model.cell == cell else None
