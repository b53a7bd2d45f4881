"""Encoder-decoders: steps, padding, files and limits, of their decoder, too."""

import numpy as np
import pytest
from _arrays import array
from _sequences import ACTIONS, CELLS, COMMANDS, INPUTS, equivariant, names, random_model

import star_keras as sk
from star_keras.exceptions import ConfigError, ShapeError
from star_keras.models import weights
from star_keras.models.decoding import GreedyDecoder


@pytest.mark.parametrize("cell", CELLS)
def test_all_steps_at_once_are_the_steps_one_by_one(cell):
    model = random_model(cell)
    at_once = array(model(INPUTS))
    memory, states = model.encode(COMMANDS)
    for position in range(ACTIONS.shape[1] - 1):
        logits, states = model.step(ACTIONS[:, position], states, memory)
        np.testing.assert_allclose(array(logits), at_once[:, position], atol=1e-5)
    assert np.ptp(at_once[:, :, 3:], axis=1).min() > 1e-3


@pytest.mark.parametrize("cell", CELLS)
def test_padding_of_commands_changes_nothing(cell):
    model = random_model(cell)
    short = {"commands": COMMANDS[[0, 2], :2], "actions": ACTIONS[[0, 2], :-1]}
    np.testing.assert_allclose(array(model(short)), array(model(INPUTS))[[0, 2]], atol=1e-5)


@pytest.mark.parametrize("cell", CELLS)
def test_models_are_saved_and_loaded_in_the_layout_of_keras(cell, tmp_path):
    model = random_model(cell)
    sk.models.save(model, tmp_path / "ours")
    again = sk.models.load(tmp_path / "ours")
    assert sk.models.parts(tmp_path / "ours") == ("model",)
    np.testing.assert_allclose(array(again(INPUTS)), array(model(INPUTS)), atol=1e-6)
    model.save_weights(tmp_path / "keras.weights.h5")
    weights.read(tmp_path / "keras.weights.h5", again)
    assert names(tmp_path / "ours" / "model.weights.h5") == names(tmp_path / "keras.weights.h5")


@pytest.mark.parametrize(
    "changes",
    [
        {"units": 0},
        {"units": 2**20},
        {"dropout": 1.0},
        {"vocabulary_size": 3},
        {"max_actions": True},
        {"num_classes": 3},
        {"cells": "gru"},
    ],
    ids=str,
)
def test_impossible_models_are_refused(changes):
    with pytest.raises(ConfigError):
        sk.models.create("gru_seq2seq", **{"vocabulary_size": 22, "units": 4, **changes})
    with pytest.raises(ConfigError, match="`cell`.*transformer"):
        sk.models.SequenceToSequence("transformer", vocabulary_size=22)


def test_sequences_past_the_limit_are_refused():
    model = random_model(max_command=4, max_actions=3)
    with pytest.raises(ShapeError, match="`commands`.*at most 4"):
        model({"commands": COMMANDS[:, :5], "actions": ACTIONS[:, :4]})
    with pytest.raises(ShapeError, match="`actions`.*at most 4"):
        model({"commands": COMMANDS[:, :4], "actions": ACTIONS[:, :5]})
    with pytest.raises(ShapeError, match="`commands`"):
        model({"commands": COMMANDS[0], "actions": ACTIONS})


def test_decoding_past_the_limit_is_refused_and_its_end_is_never_padding():
    for limit in (0, 49, -1):
        with pytest.raises(ValueError, match=f"from 1 to 48.*max_actions={limit}"):
            GreedyDecoder(random_model(), max_actions=limit)
    model = random_model()
    bias = array(model.logits.bias)
    bias[2] = -100
    model.logits.bias.assign(bias)
    assert (array(GreedyDecoder(model, max_actions=4)(COMMANDS)) > 2).all()


@pytest.mark.parametrize("name", ["commands", "actions"])
@pytest.mark.parametrize("token", [99, -1])
def test_tokens_outside_the_vocabulary_are_refused(name, token):
    tokens = INPUTS[name].copy()
    tokens[2, 1] = token
    for model in (random_model(), equivariant(2)):
        with pytest.raises(ValueError, match=f"0 .. 21.*Received: .*{token}"):
            model({**INPUTS, name: tokens})
