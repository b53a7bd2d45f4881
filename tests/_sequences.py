"""Commands of SCAN, encoder-decoders whose answers differ, and groups of order 2, 3 and 4 around them."""

import h5py
import numpy as np
import pytest
from _arrays import array

import star_keras as sk
from star_keras.applications.scan import task_group
from star_keras.data import SCAN_VOCABULARY as WORDS
from star_keras.models import EquivariantSequenceToSequence

CELLS = ("gru", "lstm", "rnn")
ORDERS = {order: task_group("add_jump", order) for order in (2, 3, 4)}
COMMANDS = WORDS.encode_commands(
    ["jump twice", "run around left and jump", "walk", "turn left after look thrice", "run and walk"], 9
)
ACTIONS = WORDS.encode_actions(
    ["I_JUMP I_JUMP", "I_TURN_LEFT I_RUN I_JUMP", "I_WALK", "I_LOOK I_LOOK I_LOOK I_TURN_LEFT", "I_RUN"], 6
)
END_BIAS = -0.5
INPUTS = {"commands": COMMANDS, "actions": ACTIONS[:, :-1]}


def random_model(cell="gru", scale=0.7, end_bias=END_BIAS, **options):
    """A model whose answers differ from word to word, some of which end before long."""
    model = sk.models.create(f"{cell}_seq2seq", vocabulary_size=WORDS.size, units=6, **options)
    rng = np.random.default_rng(1)
    for variable in model.variables:
        variable.assign(rng.normal(0, scale, variable.shape))
    bias = array(model.logits.bias).copy()
    bias[:2] -= 10  # nobody learns to say padding or start
    bias[2] = end_bias
    model.logits.bias.assign(bias)
    return model


def equivariant(order=4, weighting="mean", combine="step", end_bias=END_BIAS, **options):
    network = random_model(end_bias=end_bias)
    model = EquivariantSequenceToSequence(network, ORDERS[order], weighting, combine, **options)
    model.build()
    if model.score is not None:
        for variable in model.score.variables:
            variable.assign(np.random.default_rng(2).normal(0, 1.5, variable.shape))
    return model


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


METHODS = pytest.mark.parametrize(
    "weighting,combine",
    [(one, two) for one in ("mean", "argmin", "lambda") for two in ("step", "sentence")],
)


def names(path):
    """The names of all arrays of a file."""
    found = set()
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.add(name) if hasattr(item, "dtype") else None)
    return found
