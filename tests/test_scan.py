"""SCAN: tokens, encoder-decoders, and what they answer once words are exchanged by a group."""

import zipfile

import keras
import numpy as np
import pytest
from _arrays import array
from _sequences import METHODS, ORDERS, equivariant, random_model

import star_keras as sk
from star_keras.applications.scan import Batches, Translator, cross_entropy, task_group, train
from star_keras.data import SCAN_VOCABULARY as WORDS
from star_keras.data import Sentences
from star_keras.exceptions import IntegrityError, NonFiniteError
from star_keras.models import EquivariantSequenceToSequence

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


def test_actions_and_tokens_outside_the_vocabulary_or_the_limit_are_refused():
    with pytest.raises(ValueError, match="'jump'"):
        WORDS.encode_actions(["jump"], 48)
    with pytest.raises(ValueError, match="49 words"):
        WORDS.encode_actions(["I_JUMP " * 49], 48)
    with pytest.raises(ValueError, match="0 .. 21"):
        WORDS.decode([[22]])
    for word in ("hop", "<start>"):
        with pytest.raises(ValueError, match=f"'{word}'"):
            WORDS.tokens(["run", word])
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


def test_rows_are_picked_as_pairs_in_the_order_asked_for():
    sentences = Sentences(["jump", "run", "walk"], ["I_JUMP", "I_RUN", "I_WALK"])
    assert sentences.pick(np.array([2, 0])) == Sentences(["walk", "jump"], ["I_WALK", "I_JUMP"])
    assert sentences.pick([]) == Sentences([], [])


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


# --- groups of words ----------------------------------------------------------------------------


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
        (lambda: task_group("add_jump", order=2.5), "from 2 to 4.*order=2.5"),
    ],
)
def test_groups_that_a_task_does_not_have_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# --- translation ---------------------------------------------------------------------------------


def test_the_translator_takes_sentences_and_refuses_what_the_model_cannot_read():
    translator = Translator(random_model(max_command=3), max_actions=5)
    said = translator(["jump twice", "walk"])
    assert said == WORDS.decode(array(translator.decoder(WORDS.encode_commands(["jump twice", "walk"], 3))))
    assert translator.exact_match(Sentences(["jump twice", "walk"], [said[0], said[1] + " I_RUN"])) == 0.5
    with pytest.raises(ValueError, match="'hop'"):
        translator(["hop twice"])
    with pytest.raises(ValueError, match="1 to 3 words"):
        translator(["jump twice and walk"])
    with pytest.raises(ValueError, match="22 tokens.*of 5 tokens"):
        Translator(sk.models.create("gru_seq2seq", vocabulary_size=5))


def test_batches_hold_every_pair_once_an_epoch_in_an_order_of_seed_and_epoch():
    commands = [f"{verb} {word}" for verb in ("walk", "run", "look") for word in ("left", "right", "twice")]
    actions = ["I_WALK " * (1 + 5 * number) for number in range(len(commands))]
    sentences = Sentences(commands, actions)
    one, other, third = (Batches(sentences, 2, seed) for seed in (0, 0, 1))
    seen = np.concatenate([inputs["commands"] for inputs, _ in map(one.__getitem__, range(len(one)))])
    assert {tuple(row) for row in seen} == {tuple(row) for row in WORDS.encode_commands(commands, 9)}
    for inputs, targets in map(one.__getitem__, range(len(one))):
        np.testing.assert_array_equal(inputs["actions"][:, 1:], targets[:, :-1])
        assert (inputs["actions"][:, 0] == 1).all()
        assert targets.shape[1] in (12, 24, 49) and (targets == 2).sum(axis=1).tolist() == [1, 1]
    order = [one[index][0]["commands"].tolist() for index in range(len(one))]
    assert order == [other[index][0]["commands"].tolist() for index in range(len(other))]
    assert order != [third[index][0]["commands"].tolist() for index in range(len(third))]
    one.on_epoch_end()
    assert order != [one[index][0]["commands"].tolist() for index in range(len(one))]


PAIR = Sentences(["jump", "walk twice"], ["I_JUMP", "I_WALK I_WALK"])
SHORT, NONE = Sentences(PAIR.commands, PAIR.actions[:1]), Sentences([], [])


@pytest.mark.parametrize(
    "message,use",
    [
        ("2 commands and 1 ", lambda: Batches(SHORT, 2, seed=0)),
        ("0 commands", lambda: Batches(NONE, 2, seed=0)),
        ("`batch_size`.*batch_size=0", lambda: Batches(PAIR, 0, seed=0)),
        ("2 commands and 1 ", lambda: Translator(random_model()).exact_match(SHORT)),
        ("0 commands", lambda: Translator(random_model()).exact_match(NONE)),
        (r"`commands`.*Received: \[\]", lambda: Translator(random_model())([])),
        ("`model` must be a `SequenceToSequence`.*Received", lambda: Translator(keras.layers.Dense(2))),
        ("from 1 to 48.*max_actions=2.5", lambda: Translator(random_model(), max_actions=2.5)),
        ("`epochs`.*epochs=0", lambda: train(random_model(), PAIR, epochs=0)),
        ("0 commands", lambda: train(random_model(), NONE, epochs=1)),
    ],
)
def test_what_cannot_be_translated_or_learned_from_is_refused(message, use):
    with pytest.raises(ValueError, match=message):
        use()


@METHODS
def test_a_network_that_says_nan_is_not_translated_by(weighting, combine):
    model = equivariant(2, weighting, combine)
    translator = Translator(model, max_actions=3)
    assert len(translator(PAIR.commands)) == 2
    poison(model.model)
    for ask in (lambda: translator(PAIR.commands), lambda: translator.exact_match(PAIR)):
        with pytest.raises(NonFiniteError, match="NaN for 2 of 2 commands"):
            ask()


def test_a_plain_network_that_says_nan_of_one_command_is_not_translated_by():
    model = random_model()
    rows = array(model.embedding.embeddings).copy()
    rows[WORDS.tokens(["twice"])] = np.nan
    model.embedding.embeddings.assign(rows)
    translator = Translator(model, max_actions=3)
    assert len(translator(["jump", "walk"])) == 2
    with pytest.raises(NonFiniteError, match="NaN for 1 of 2 commands"):
        translator(["jump", "walk twice"])


def poison(model):
    model.mixture.bias.assign(np.full(model.units, np.nan))


@pytest.mark.slow
def test_a_model_that_knows_jump_alone_says_jump_twice_once_verbs_may_change_places():
    keras.utils.set_random_seed(0)
    verbs = {"walk": "I_WALK", "run": "I_RUN", "look": "I_LOOK"}
    pairs = [("jump", "I_JUMP"), *verbs.items()]
    pairs += [(f"{verb} twice", f"{act} {act}") for verb, act in verbs.items()]
    pairs += [(f"{verb} thrice", f"{act} {act} {act}") for verb, act in verbs.items()]
    known = Sentences(*map(list, zip(*pairs, strict=True)))
    model = sk.models.create("gru_seq2seq", vocabulary_size=WORDS.size, units=24, dropout=0.0)
    model.compile(keras.optimizers.Adam(0.01), cross_entropy(), jit_compile=False)
    model.fit(Batches(known, 10, seed=0, lengths=(4,)), epochs=150, verbose=0, shuffle=False)
    test = Sentences(["jump twice", "jump thrice"], ["I_JUMP I_JUMP", "I_JUMP I_JUMP I_JUMP"])
    alone = Translator(model, max_actions=4)
    assert alone.exact_match(known) == 1
    # By step equizero follows whoever is surest of one action, which may be the member that is lost.
    for weighting, combine in (("argmin", "sentence"), ("mean", "sentence"), ("mean", "step")):
        together = EquivariantSequenceToSequence(model, ORDERS[4], weighting, combine)
        assert Translator(together, max_actions=4).exact_match(test) == 1 > alone.exact_match(test)
