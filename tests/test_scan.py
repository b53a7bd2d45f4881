"""SCAN: tokens, encoder-decoders, and what they answer once words are exchanged by a group."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from keras import ops

import star_keras as sk
from star_keras.applications.scan import Batches, Translator, cross_entropy, task_group, word_group
from star_keras.data import SCAN_VOCABULARY as WORDS
from star_keras.data import Sentences
from star_keras.exceptions import ConfigError, IntegrityError, ShapeError
from star_keras.models import EquivariantSequenceToSequence, weights
from star_keras.models.decoding import GreedyDecoder

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


def random_model(cell="gru", scale=0.7, **options):
    """A model whose answers differ from word to word, some of which end before long."""
    model = sk.models.create(f"{cell}_seq2seq", vocabulary_size=WORDS.size, units=6, **options)
    rng = np.random.default_rng(1)
    for variable in model.variables:
        variable.assign(rng.normal(0, scale, variable.shape))
    bias = array(model.logits.bias).copy()
    bias[:2] -= 10  # nobody learns to say padding or start
    bias[2] = END_BIAS
    model.logits.bias.assign(bias)
    return model


def equivariant(order=4, weighting="mean", combine="step", **options):
    model = EquivariantSequenceToSequence(random_model(), ORDERS[order], weighting, combine, **options)
    model.build()
    if model.score is not None:
        for variable in model.score.variables:
            variable.assign(np.random.default_rng(2).normal(0, 1.5, variable.shape))
    return model


def array(x):
    return ops.convert_to_numpy(x)


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


METHODS = pytest.mark.parametrize(
    "weighting,combine",
    [(one, two) for one in ("mean", "argmin", "lambda") for two in ("step", "sentence")],
)

# --- texts and tokens -----------------------------------------------------------------------------


def test_tokens_are_numbered_padding_start_end_commands_actions():
    assert WORDS.size == 3 + 13 + 6
    assert WORDS.tokens(["jump", "I_WALK"]) == [6, 21]
    np.testing.assert_array_equal(WORDS.encode_commands(["jump twice"], 3), [[6, 14, 0]])
    np.testing.assert_array_equal(WORDS.encode_actions(["I_WALK I_JUMP"], 3), [[1, 21, 16, 2, 0]])
    assert WORDS.decode([[16, 21, 2, 16], [2, 16, 16, 16], [16, 0, 0, 0]]) == ["I_JUMP I_WALK", "", "I_JUMP"]


@pytest.mark.parametrize(
    "sentences,message",
    [
        (["jump backwards"], "'backwards'"),
        (["I_JUMP twice"], "'I_JUMP'"),
        (["<end>"], "'<end>'"),
        (["jump and " * 5 + "jump"], "11 words"),
        ([" "], "0 words"),
        ("jump", "one string"),
    ],
)
def test_commands_outside_the_vocabulary_or_the_limit_are_refused(sentences, message):
    with pytest.raises(ValueError, match=message):
        WORDS.encode_commands(sentences, 9)


def test_actions_outside_the_vocabulary_or_the_limit_are_refused():
    with pytest.raises(ValueError, match="'jump'"):
        WORDS.encode_actions(["jump"], 48)
    with pytest.raises(ValueError, match="49 words"):
        WORDS.encode_actions(["I_JUMP " * 49], 48)
    with pytest.raises(ValueError, match="0 .. 21"):
        WORDS.decode([[22]])
    with pytest.raises(ValueError, match="'jump' more than once"):
        sk.data.Vocabulary(["jump"], ["jump"])


@pytest.mark.parametrize(
    "task,words,counts",
    [("add_jump", "jump", (14670, 7706)), ("around_right", "around right", (15225, 4476))],
)
def test_splits_are_those_of_the_papers(task, words, counts, data_folder):
    train, test = (sk.data.load_scan(task, split) for split in ("train", "test"))
    assert (len(train.commands), len(test.commands)) == counts
    assert {command for command in train.commands if words in command} <= {"jump"}
    assert all(words in command for command in test.commands)
    for split in (train, test):
        WORDS.encode_commands(split.commands, 9)
        WORDS.encode_actions(split.actions, 48)


@pytest.mark.parametrize("task", ["add_jump", "around_right"])
def test_the_grammar_gives_every_command_of_the_files_its_actions(task, data_folder):
    commands, actions = sk.data.scan_sentences()
    expected = dict(zip(commands, actions, strict=True))
    assert len(expected) == len(commands) == 20910
    for split in ("train", "test"):
        found = sk.data.load_scan(task, split)
        assert [expected[command] for command in found.commands] == found.actions


def write_zip(path, text):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("scan/add_prim_split/tasks_train_addprim_jump.txt", text)
    return path


def test_a_file_of_ones_own_is_read(tmp_path):
    file = write_zip(tmp_path / "mine.zip", "IN: jump OUT: I_JUMP\n\nIN: walk twice OUT: I_WALK I_WALK\n")
    assert sk.data.load_scan("add_jump", file=file) == (["jump", "walk twice"], ["I_JUMP", "I_WALK I_WALK"])


def test_missing_damaged_and_unknown_data_are_told_apart(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="add_jump.*'add_walk'"):
        sk.data.load_scan("add_walk")
    with pytest.raises(ValueError, match="`split`.*'validation'"):
        sk.data.load_scan("add_jump", "validation")
    with pytest.raises(FileNotFoundError, match="no such file"):
        sk.data.load_scan("add_jump", file=tmp_path / "none.zip")
    monkeypatch.setenv("STAR_KERAS_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="scan.zip"):
        sk.data.load_scan("add_jump")
    monkeypatch.delenv("STAR_KERAS_DATA")
    with pytest.raises(FileNotFoundError, match="names no folder"):
        sk.data.load_scan("add_jump")
    (tmp_path / "scan.zip").write_bytes(b"PK, but no more")
    with pytest.raises(IntegrityError, match="whole"):
        sk.data.load_scan("add_jump", file=tmp_path / "scan.zip")
    with pytest.raises(IntegrityError, match="around_right"):
        sk.data.load_scan("around_right", file=write_zip(tmp_path / "part.zip", ""))
    with pytest.raises(ValueError, match="IN: ... OUT"):
        sk.data.load_scan("add_jump", file=write_zip(tmp_path / "odd.zip", "jump\tI_JUMP\n"))


# --- encoder-decoders -----------------------------------------------------------------------------


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


def names(path):
    found = set()
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.add(name) if hasattr(item, "dtype") else None)
    return found


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


# --- the group ------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
@METHODS
def test_outputs_follow_the_group(order, weighting, combine):
    model = equivariant(order, weighting, combine)
    group, outputs = model.group, array(model(INPUTS))
    for element in range(1, order):
        moved = {name: array(group.ids.act(element, tokens)) for name, tokens in INPUTS.items()}
        np.testing.assert_allclose(array(model(moved)), array(group.act(element, outputs)), atol=1e-5)
    assert not np.allclose(outputs, log_softmax(array(model.model(INPUTS))), atol=1e-2)


@METHODS
def test_what_is_said_follows_the_group(weighting, combine):
    decoder = GreedyDecoder(equivariant(4, weighting, combine), max_actions=3)
    group, said = decoder.model.group, array(decoder(COMMANDS))
    for element in (1, 2):
        moved = array(decoder(array(group.ids.act(element, COMMANDS))))
        np.testing.assert_array_equal(moved, array(group.ids.act(element, said)))
    assert len(np.unique(said, axis=0)) > 1


@pytest.mark.parametrize("cell", CELLS)
def test_order_one_is_the_model_itself(cell):
    model, alone = random_model(cell), word_group([["jump"], ["I_JUMP"]])
    for combine in ("step", "sentence"):
        for weighting in ("mean", "argmin"):
            one = EquivariantSequenceToSequence(model, alone, weighting, combine)
            np.testing.assert_allclose(array(one(INPUTS)), log_softmax(array(model(INPUTS))), atol=1e-5)
            said = [array(GreedyDecoder(either, max_actions=3)(COMMANDS)) for either in (one, model)]
            np.testing.assert_array_equal(*said)


def members_by_hand(model, commands, actions):
    """`log p(g . | g x, g y)` of every element, by gathers in NumPy: `(order, batch, steps, tokens)`."""
    rows = model.group.rows
    found = []
    for row in rows:
        logs = log_softmax(array(model.model({"commands": row[commands], "actions": row[actions]})))
        found.append(logs[..., row])
    return np.stack(found)


@METHODS
def test_outputs_are_those_of_a_loop_over_sentences_and_steps(weighting, combine):
    model = equivariant(4, weighting, combine)
    members, outputs = members_by_hand(model, COMMANDS, ACTIONS[:, :-1]), array(model(INPUTS))
    chosen = set()
    for row, tokens in enumerate(ACTIONS[:, :-1]):
        length = np.count_nonzero(tokens)
        for step in range(length):
            logs = members[:, row, step]
            if weighting == "mean":
                expected = logs.mean(axis=0)
            elif weighting == "lambda":
                expected = learned_weights(model)[:, row] @ logs
            else:
                sure = logs.max(axis=-1)
                if combine == "sentence":
                    sure = members[:, row, :length].max(axis=-1).mean(axis=-1)
                chosen.add(int(sure.argmax()))
                expected = logs[sure.argmax()]
            np.testing.assert_allclose(outputs[row, step], expected, atol=1e-5)
    assert weighting != "argmin" or len(chosen) > 1


def learned_weights(model):
    """`(order, batch)`: the softmax of the score of the decoder's first state."""
    scores = []
    for row in model.group.rows:
        _, states = model.model.encode(row[COMMANDS])
        scores.append(array(model.score(states[0]))[:, 0])
    return np.exp(scores) / np.exp(scores).sum(axis=0)


@METHODS
def test_what_is_said_is_what_a_loop_over_tokens_says(weighting, combine):
    model, limit = equivariant(4, weighting, combine), 4
    said = array(GreedyDecoder(model, max_actions=limit)(COMMANDS))
    lengths = set()
    for row in (0, 3):
        by_hand = (say_together if combine == "step" else say_apart)(model, row, limit)
        assert said[row].tolist() == by_hand + [0] * (limit + 1 - len(by_hand))
        lengths.add(len(by_hand))
    assert len(lengths) > 1


def say_together(model, row, limit):
    """Greedy steps of the teacher-forced outputs, whose prefix is what was said."""
    said = []
    while len(said) <= limit and (not said or said[-1] != 2):
        prefix = np.array([[1, *said]])
        members = members_by_hand(model, COMMANDS[row : row + 1], prefix)[:, 0, -1]
        if model.weighting == "argmin":
            logs = members[members.max(axis=-1).argmax()]
        elif model.weighting == "lambda":
            logs = learned_weights(model)[:, row] @ members
        else:
            logs = members.mean(axis=0)
        said.append(int(logs.argmax()))
    return said


def say_apart(model, row, limit):
    """Whole sentences of each member, brought back, and then weighed."""
    members = []
    for permutation in model.group.rows:
        said, logs = [], []
        while len(said) <= limit and (not said or said[-1] != 2):
            inputs = {
                "commands": permutation[COMMANDS[row : row + 1]],
                "actions": np.array([[1, *said]]),
            }
            logs.append(log_softmax(array(model.model(inputs)))[0, -1])
            said.append(int(logs[-1].argmax()))
        members.append([one[permutation] for one in logs])
    if model.weighting == "argmin":
        sure = [np.mean([one.max() for one in logs]) for logs in members]
        return [int(one.argmax()) for one in members[int(np.argmax(sure))]]
    scale = learned_weights(model)[:, row] if model.weighting == "lambda" else np.ones(len(members))
    said = []
    for step in range(max(map(len, members))):
        speaking = [(w, logs[step]) for w, logs in zip(scale, members, strict=True) if step < len(logs)]
        said.append(int(sum(w * logs for w, logs in speaking).argmax()))
        if said[-1] == 2:
            break
    return said if said[-1] == 2 or len(said) > limit else [*said, 2]


def test_padding_after_the_end_does_not_make_a_sentence_surer():
    model = equivariant(4, "argmin", "sentence")
    longer = {name: np.pad(tokens, ((0, 0), (0, 5 * (name == "actions")))) for name, tokens in INPUTS.items()}
    short, long = array(model(INPUTS)), array(model(longer))
    np.testing.assert_allclose(long[:, : short.shape[1]], short, atol=1e-5)


def test_words_of_a_pair_in_one_command_stay_new_with_order_two_but_not_with_four():
    pair = WORDS.encode_commands(["jump and run"], 3)
    jump = WORDS.tokens(["jump"])[0]
    for order, expected in ((2, [True, True]), (4, [True, False, False, True])):
        orbit = array(ORDERS[order].ids.orbit(pair))
        assert (orbit == jump).any(axis=(1, 2)).tolist() == expected


def test_groups_exchange_the_words_of_commands_and_actions_alike():
    group = task_group("around_right")
    assert WORDS.decode(group.ids.act(1, WORDS.encode_commands(["walk around right and run left"], 9))) == [
        "walk around left and run right"
    ]
    assert WORDS.decode(group.ids.act(1, WORDS.encode_actions(["I_TURN_RIGHT I_RUN"], 2))) == [
        "I_TURN_LEFT I_RUN"
    ]


@pytest.mark.parametrize(
    "make,message",
    [
        (lambda: task_group("length"), "`task`.*'length'"),
        (lambda: task_group("around_right", order=3), "from 2 to 2.*order=3"),
        (lambda: task_group("add_jump", order=1), "from 2 to 4"),
        (lambda: word_group([["jump", "hop"], ["I_JUMP", "I_RUN"]]), "'hop'"),
        (lambda: word_group([["jump", "run"], ["I_JUMP"]]), "lengths"),
        (lambda: word_group([["jump", "run"], ["I_RUN", "jump"]]), "2 times"),
        (lambda: word_group([["<start>", "run"]]), "'<start>'"),
    ],
)
def test_groups_over_words_that_are_not_there_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_parts_that_do_not_fit_together_are_refused():
    model = random_model()
    with pytest.raises(ValueError, match="22 tokens.*size=23"):
        EquivariantSequenceToSequence(model, sk.groups.VocabularyCycle([[6, 8]], 23))
    with pytest.raises(ValueError, match=r"alone.*\[2\]"):
        EquivariantSequenceToSequence(model, sk.groups.VocabularyCycle([[2, 8]], 22))
    with pytest.raises(ValueError, match="last axis"):
        EquivariantSequenceToSequence(model, sk.groups.VocabularyCycle([[6, 8]], 22, axis=-2))
    with pytest.raises(ValueError, match="last axis.*Cyclic"):
        EquivariantSequenceToSequence(model, sk.groups.Cyclic(4))
    with pytest.raises(ValueError, match="`model`"):
        EquivariantSequenceToSequence(keras.layers.Dense(2), ORDERS[2])
    with pytest.raises(ConfigError, match="`weighting`.*best"):
        EquivariantSequenceToSequence(model, ORDERS[2], weighting="best")
    with pytest.raises(ConfigError, match="`combine`.*word"):
        EquivariantSequenceToSequence(model, ORDERS[2], combine="word")


# --- files, training, translation -----------------------------------------------------------------


@METHODS
def test_equivariant_models_are_saved_and_loaded(weighting, combine, tmp_path):
    model = equivariant(4, weighting, combine)
    sk.models.save(model, tmp_path / "ours")
    again = sk.models.load(tmp_path / "ours")
    np.testing.assert_allclose(array(again(INPUTS)), array(model(INPUTS)), atol=1e-6)
    assert again.group.rings == model.group.rings
    assert (again.weighting, again.combine) == (weighting, combine)
    model.save_weights(tmp_path / "keras.weights.h5")
    weights.read(tmp_path / "keras.weights.h5", again)
    assert names(tmp_path / "ours" / "model.weights.h5") == names(tmp_path / "keras.weights.h5")


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"architecture": "os.system"}},
        {"rings": [[6, 8], [16]]},
        {"rings": [[6, 22]]},
        {"rings": [[0, 6]]},
        {"rings": []},
        {"weighting": "vote"},
        {"num_classes": 3},
    ],
    ids=str,
)
def test_impossible_equivariant_models_are_refused(changes):
    config = {"model": {"architecture": "gru_seq2seq", "vocabulary_size": 22, "units": 4}, "rings": [[6, 8]]}
    sk.models.create("equivariant_seq2seq", **config)
    with pytest.raises(ValueError, match="Received|Unknown"):
        sk.models.create("equivariant_seq2seq", **{**config, **changes})


def test_decoding_past_the_limit_is_refused_and_its_end_is_never_padding():
    for limit in (0, 49, -1):
        with pytest.raises(ValueError, match=f"from 1 to 48.*max_actions={limit}"):
            GreedyDecoder(random_model(), max_actions=limit)
    model = random_model()
    bias = array(model.logits.bias)
    bias[2] = -100
    model.logits.bias.assign(bias)
    assert (array(GreedyDecoder(model, max_actions=4)(COMMANDS)) > 2).all()


def test_the_translator_takes_sentences_and_refuses_what_the_model_cannot_read():
    translator = Translator(random_model(max_command=3), max_actions=5)
    said = translator(["jump twice", "walk"])
    assert said == WORDS.decode(array(translator.decoder(WORDS.encode_commands(["jump twice", "walk"], 3))))
    assert translator.exact_match(Sentences(["jump twice", "walk"], [said[0], said[1] + " I_RUN"])) == 0.5
    with pytest.raises(ValueError, match="'hop'"):
        translator(["hop twice"])
    with pytest.raises(ValueError, match="1 to 3 words"):
        translator(["jump twice and walk"])
    with pytest.raises(ValueError, match="22 tokens.*with 5 tokens"):
        Translator(random_model(), sk.data.Vocabulary(["jump"], ["JUMP"]))


def test_batches_hold_every_pair_once_an_epoch_in_an_order_of_seed_and_epoch():
    commands = [f"{verb} {word}" for verb in ("walk", "run", "look") for word in ("left", "right", "twice")]
    actions = ["I_WALK " * (1 + 5 * number) for number in range(len(commands))]
    sentences = Sentences(commands, actions)
    one, other, third = (Batches(sentences, 2, seed) for seed in (0, 0, 1))
    seen = np.concatenate([inputs["commands"] for inputs, _ in map(one.__getitem__, range(len(one)))])
    assert {tuple(row) for row in seen} == {tuple(row) for row in WORDS.encode_commands(commands, 9)}
    for inputs, targets in map(one.__getitem__, range(len(one))):
        np.testing.assert_array_equal(inputs["actions"][:, 1:], targets[:, :-1] * (targets[:, 1:] > 0) + 2 * (
            (targets[:, :-1] == 2) & (targets[:, 1:] == 0)
        ) + targets[:, :-1] * (targets[:, 1:] == 0) * (targets[:, :-1] != 2))  # fmt: skip
        assert targets.shape[1] in (12, 24, 49) and (targets == 2).sum(axis=1).tolist() == [1, 1]
    order = [one[index][0]["commands"].tolist() for index in range(len(one))]
    assert order == [other[index][0]["commands"].tolist() for index in range(len(other))]
    assert order != [third[index][0]["commands"].tolist() for index in range(len(third))]
    one.on_epoch_end()
    assert order != [one[index][0]["commands"].tolist() for index in range(len(one))]


def test_the_score_learns_alone_while_the_model_is_frozen():
    model = equivariant(2, "lambda")
    model.model.trainable = False
    frozen, score = model.model.get_weights(), model.score.get_weights()
    model.compile(keras.optimizers.SGD(1.0), cross_entropy(), jit_compile=False)
    model.train_on_batch(INPUTS, ACTIONS[:, 1:])
    for before, after in zip(frozen, model.model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    assert not np.array_equal(score[0], model.score.get_weights()[0])


def test_the_gradient_of_equizero_is_that_which_was_asked_for():
    def trained(**options):
        model = equivariant(2, **options)
        model.compile(keras.optimizers.SGD(1.0), cross_entropy(), jit_compile=False)
        model.train_on_batch(INPUTS, ACTIONS[:, 1:])
        return model.model.logits.bias.numpy()

    steps = {
        gradient: trained(weighting="argmin", gradient=gradient)
        for gradient in ("equitune", "identity", "selected")
    }
    assert all(np.isfinite(step).all() for step in steps.values())
    assert not np.allclose(steps["equitune"], steps["identity"], atol=1e-4)
    assert not np.allclose(steps["equitune"], steps["selected"], atol=1e-4)


@pytest.mark.slow
def test_a_model_that_knows_jump_alone_says_jump_twice_by_equizero():
    verbs = {"walk": "I_WALK", "run": "I_RUN", "look": "I_LOOK"}
    pairs = [("jump", "I_JUMP"), *verbs.items()]
    pairs += [(f"{verb} twice", f"{act} {act}") for verb, act in verbs.items()]
    pairs += [(f"{verb} thrice", f"{act} {act} {act}") for verb, act in verbs.items()]
    train = Sentences(*map(list, zip(*pairs, strict=True)))
    model = sk.models.create("gru_seq2seq", vocabulary_size=WORDS.size, units=24, dropout=0.0)
    model.compile(keras.optimizers.Adam(0.01), cross_entropy(), jit_compile=False)
    model.fit(Batches(train, 10, seed=0, lengths=(4,), max_command=2), epochs=150, verbose=0, shuffle=False)
    test = Sentences(["jump twice", "jump thrice"], ["I_JUMP I_JUMP", "I_JUMP I_JUMP I_JUMP"])
    alone = Translator(model, max_actions=4)
    assert alone.exact_match(train) == 1
    for combine in ("step", "sentence"):
        equizero = EquivariantSequenceToSequence(model, ORDERS[4], "argmin", combine)
        assert Translator(equizero, max_actions=4).exact_match(test) == 1 > alone.exact_match(test)


SCRIPT = """
import json, sys
import keras, numpy as np
import star_keras as sk

found = {}
for name in ("step", "sentence"):
    model = sk.models.load(f"{sys.argv[1]}/{name}")
    inputs = dict(np.load(f"{sys.argv[1]}/inputs.npz"))
    outputs = keras.ops.convert_to_numpy(model(inputs))
    decoder = sk.applications.scan.Translator(model, max_actions=5).decoder
    said = decoder.predict(inputs["commands"], verbose=0)
    model.compile(keras.optimizers.SGD(0.1), sk.applications.scan.cross_entropy())
    loss = float(model.train_on_batch(inputs, inputs["actions"]))
    found[name] = {"outputs": outputs.tolist(), "said": said.tolist(), "loss": loss}
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends_say_the_same(backend, tmp_path):
    pytest.importorskip(backend)
    models = {name: equivariant(3, "argmin", name) for name in ("step", "sentence")}
    for name, model in models.items():
        sk.models.save(model, tmp_path / name)
    np.savez(tmp_path / "inputs.npz", **INPUTS)
    environment = {**os.environ, "KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu"}
    environment["PYTHONPATH"] = str(Path(sk.__file__).parents[1])
    finished = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, env=environment
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    found = json.loads(finished.stdout.splitlines()[-1])
    for name, model in models.items():
        np.testing.assert_allclose(found[name]["outputs"], array(model(INPUTS)), atol=1e-4)
        said = array(GreedyDecoder(model, max_actions=5)(COMMANDS))
        np.testing.assert_array_equal(found[name]["said"], said)
        assert np.isfinite(found[name]["loss"])
