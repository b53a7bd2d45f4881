"""Encoder-decoders made equivariant: against loops by hand, in files, in training, on other backends."""

import json

import keras
import numpy as np
import pytest
from _arrays import array
from _elsewhere import run_elsewhere
from _sequences import (
    ACTIONS,
    CELLS,
    COMMANDS,
    INPUTS,
    METHODS,
    ORDERS,
    WORDS,
    equivariant,
    log_softmax,
    names,
    random_model,
)

import star_keras as sk
from star_keras.applications.scan import cross_entropy
from star_keras.data.scan import END, PADDING
from star_keras.exceptions import ConfigError, NonFiniteError
from star_keras.groups import VocabularyCycle
from star_keras.models import EquivariantSequenceToSequence, weights
from star_keras.models.decoding import GreedyDecoder


def test_its_own_policy_comes_back():
    model = equivariant(dtype="mixed_bfloat16")
    again = EquivariantSequenceToSequence.from_config(model.get_config())
    assert (again.dtype_policy.name, again.model.dtype_policy.name) == ("mixed_bfloat16", "float32")


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
    model, alone = random_model(cell), VocabularyCycle([WORDS.tokens(["jump"])], WORDS.size)
    for combine in ("step", "sentence"):
        for weighting in ("mean", "argmin"):
            one = EquivariantSequenceToSequence(model, alone, weighting, combine)
            np.testing.assert_allclose(array(one(INPUTS)), log_softmax(array(model(INPUTS))), atol=1e-5)
            said = [array(GreedyDecoder(either, max_actions=3)(COMMANDS)) for either in (one, model)]
            np.testing.assert_array_equal(*said)


def members_by_hand(model, commands, actions):
    """Of every element, by gathers in NumPy, `log p(g . | g x, g y)` `(order, batch, steps, tokens)`, and how
    sure it is of each step, `(order, batch, steps)`."""
    logits = [array(model.model({"commands": r[commands], "actions": r[actions]})) for r in model.group.rows]
    logs = [log_softmax(one)[..., row] for one, row in zip(logits, model.group.rows, strict=True)]
    return np.stack(logs), np.stack([sure_by_hand(model.proxy, one) for one in logits])


def sure_by_hand(proxy, logits):
    logs = log_softmax(logits)
    return {
        "confidence": logs.max(axis=-1),
        "entropy": (np.exp(logs) * logs).sum(axis=-1),
        "max_value": logits.max(axis=-1),
    }[proxy]


# With a less likely end: of four members, one that ends at once would be taken for all commands.
PROXIES = [{"proxy": proxy, "end_bias": -0.6} for proxy in ("entropy", "max_value")]
METHODS_AND_PROXIES = pytest.mark.parametrize(
    "weighting,combine,options",
    [
        *((one, two, {}) for one in ("mean", "argmin", "lambda") for two in ("step", "sentence")),
        *(("argmin", two, options) for options in PROXIES for two in ("step", "sentence")),
    ],
)


@METHODS_AND_PROXIES
def test_outputs_are_those_of_a_loop_over_sentences_and_steps(weighting, combine, options):
    model = equivariant(4, weighting, combine, **options)
    (members, sure_of), outputs = members_by_hand(model, COMMANDS, ACTIONS[:, :-1]), array(model(INPUTS))
    chosen = set()
    for row, tokens in enumerate(ACTIONS[:, :-1]):
        length = np.count_nonzero(~np.isin(tokens, (PADDING, END)))
        for step in range(length):
            logs = members[:, row, step]
            if weighting == "mean":
                expected = logs.mean(axis=0)
            elif weighting == "lambda":
                expected = learned_weights(model)[:, row] @ logs
            else:
                sure = sure_of[:, row, step]
                if combine == "sentence":
                    sure = sure_of[:, row, :length].mean(axis=-1)
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


@METHODS_AND_PROXIES
def test_what_is_said_is_what_a_loop_over_tokens_says(weighting, combine, options):
    model, limit = equivariant(4, weighting, combine, **options), 4
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
        members, sure = (found[:, 0, -1] for found in members_by_hand(model, COMMANDS[row : row + 1], prefix))
        if model.weighting == "argmin":
            logs = members[sure.argmax()]
        elif model.weighting == "lambda":
            logs = learned_weights(model)[:, row] @ members
        else:
            logs = members.mean(axis=0)
        said.append(int(logs.argmax()))
    return said


def say_apart(model, row, limit):
    """Whole sentences of each member, brought back, and then weighed."""
    members, sure = [], []
    for permutation in model.group.rows:
        said, logits = [], []
        while len(said) <= limit and (not said or said[-1] != 2):
            inputs = {
                "commands": permutation[COMMANDS[row : row + 1]],
                "actions": np.array([[1, *said]]),
            }
            logits.append(array(model.model(inputs))[0, -1])
            said.append(int(logits[-1].argmax()))
        members.append([log_softmax(one)[permutation] for one in logits])
        sure.append(sure_by_hand(model.proxy, np.array(logits)).mean())
    if model.weighting == "argmin":
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
    with pytest.raises(ConfigError, match="`proxy`.*'confidence', 'entropy', 'max_value'.*regard"):
        EquivariantSequenceToSequence(model, ORDERS[2], "argmin", proxy="regard")
    with pytest.raises(ConfigError, match="`hidden_units`.*Received: 5"):
        EquivariantSequenceToSequence(model, ORDERS[2], "lambda", hidden_units=5)


@pytest.mark.fault(57)
@pytest.mark.parametrize("combine", ["step", "sentence"])
@pytest.mark.parametrize("options", [{"weighting": "lambda"}, *(
    {"weighting": "argmin", "proxy": proxy} for proxy in ("confidence", "entropy", "max_value")
)], ids=str)  # fmt: skip
def test_members_that_cannot_be_ranked_are_an_error(combine, options):
    model = equivariant(2, combine=combine, **options)
    broken = model.model.logits if options["weighting"] == "argmin" else model.model.bridges[0]
    bias = array(broken.bias).copy()
    bias[-1] = np.nan
    broken.bias.assign(bias)
    with pytest.raises(NonFiniteError, match="must be numbers. Received: nan"):
        model(INPUTS)


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


def test_a_proxy_is_saved_and_files_from_before_there_was_a_choice_mean_confidence(tmp_path):
    sk.models.save(equivariant(2, "argmin", proxy="entropy"), tmp_path / "ours")
    assert sk.models.load(tmp_path / "ours").proxy == "entropy"
    sure = equivariant(2, "argmin")
    config = sure.get_config()
    del config["proxy"]
    assert EquivariantSequenceToSequence.from_config(config).get_config() == sure.get_config()
    assert sk.models.load("equizero-gru-scan-add-jump.scan-1", weights=False).proxy == "confidence"


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"architecture": "os.system"}},
        {"rings": [[6, 8], [16]]},
        {"rings": [[6, 22]]},
        {"rings": [[0, 6]]},
        {"rings": []},
        {"weighting": "vote"},
        {"proxy": "regard"},
        {"num_classes": 3},
    ],
    ids=str,
)
def test_impossible_equivariant_models_are_refused(changes):
    config = {"model": {"architecture": "gru_seq2seq", "vocabulary_size": 22, "units": 4}, "rings": [[6, 8]]}
    sk.models.create("equivariant_seq2seq", **config)
    with pytest.raises(ValueError, match="Received|Unknown"):
        sk.models.create("equivariant_seq2seq", **{**config, **changes})


def test_the_score_learns_alone_while_the_model_is_frozen():
    model = equivariant(2, "lambda")
    model.model.trainable = False
    frozen, score = model.model.get_weights(), model.score.get_weights()
    model.compile(keras.optimizers.SGD(1.0), cross_entropy(), jit_compile=False)
    model.train_on_batch(INPUTS, ACTIONS[:, 1:])
    for before, after in zip(frozen, model.model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    assert not np.array_equal(score[0], model.score.get_weights()[0])


@pytest.mark.parametrize("gradient", ["equitune", "identity", "selected"])
def test_the_gradient_of_equizero_is_that_which_was_asked_for(gradient):
    """By hand, for the bias of the logits: the error of the answer, in the words of those who get it."""
    network, targets = random_model(dropout=0.0), ACTIONS[:, 1:]
    model = EquivariantSequenceToSequence(network, ORDERS[4], "argmin", gradient=gradient)
    (members, sure), rows = members_by_hand(model, COMMANDS, ACTIONS[:, :-1]), model.group.rows
    surest = sure.argmax(axis=0)
    assert len(np.unique(surest)) > 1
    expected = np.zeros(WORDS.size)
    for place in zip(*np.nonzero(targets), strict=True):
        error = np.exp(members[(surest[place], *place)]) - np.eye(WORDS.size)[targets[place]]
        heard = {"equitune": range(4), "identity": [0], "selected": [surest[place]]}[gradient]
        for element in heard:
            expected[rows[element]] += error / len(heard) / np.count_nonzero(targets)
    before = array(network.logits.bias).copy()
    model.compile(keras.optimizers.SGD(1.0), cross_entropy(), jit_compile=False)
    model.train_on_batch(INPUTS, targets)
    np.testing.assert_allclose(before - array(network.logits.bias), expected, atol=1e-5)


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
    proxies = {"step": "entropy", "sentence": "confidence"}
    models = {name: equivariant(3, "argmin", name, proxy=proxy) for name, proxy in proxies.items()}
    for name, model in models.items():
        sk.models.save(model, tmp_path / name)
    np.savez(tmp_path / "inputs.npz", **INPUTS)
    found = json.loads(run_elsewhere(SCRIPT, tmp_path, backend=backend).splitlines()[-1])
    for name, model in models.items():
        np.testing.assert_allclose(found[name]["outputs"], array(model(INPUTS)), atol=1e-4)
        said = array(GreedyDecoder(model, max_actions=5)(COMMANDS))
        np.testing.assert_array_equal(found[name]["said"], said)
        assert np.isfinite(found[name]["loss"])
