"""GPT: its size, its files, what no token sees; and that of keras-hub, which it equals."""

import re

import numpy as np
import pytest
from _arrays import array
from _language import RANKS, RNG, TEXTS, TOKENIZER, small_gpt
from keras import ops

import star_keras as sk
from star_keras.applications import language
from star_keras.exceptions import ShapeError

# GPT-2 of keras-hub

BYTE_PAIRS = {"<|endoftext|>": 0, "a": 1, "Ġ": 2, "m": 3, "n": 4, "w": 5, "Ġm": 6, "Ġma": 7, "Ġman": 8}
BYTE_PAIRS |= {"Ġw": 9, "Ġwa": 10, "Ġwan": 11, "Ġa": 12}
MERGES = ["Ġ m", "Ġm a", "Ġma n", "Ġ w", "Ġw a", "Ġwa n", "Ġ a"]


@pytest.fixture(scope="module")
def gpt2():
    hub = pytest.importorskip("keras_hub").models
    tokenizer = hub.GPT2Tokenizer(vocabulary=BYTE_PAIRS, merges=MERGES)
    backbone = hub.GPT2Backbone(
        vocabulary_size=13,
        num_layers=2,
        num_heads=3,
        hidden_dim=12,
        intermediate_dim=20,
        max_sequence_length=16,
    )
    rng = np.random.default_rng(0)
    for variable in backbone.variables:
        variable.assign(array(variable) + rng.normal(0, 0.3, variable.shape))
    return hub.GPT2CausalLM(backbone, hub.GPT2CausalLMPreprocessor(tokenizer, sequence_length=16))


def test_gpt2_of_keras_hub_says_the_same_here(gpt2):
    model, tokenizer = language.load_gpt2(gpt2)
    ids = RNG.integers(0, 13, (3, 7)).astype("int32")
    expected = array(gpt2({"token_ids": ids, "padding_mask": np.ones_like(ids)}))
    np.testing.assert_allclose(array(model(ids)), expected, atol=1e-4)
    assert np.abs(expected).max() > 1 and model.max_length == 16
    assert tokenizer.encode(" man a wan") == [8, 12, 11] and tokenizer.decode([8, 12]) == " man a"


def test_gpt2_of_keras_hub_becomes_fair(gpt2):
    model, tokenizer = language.load_gpt2(gpt2)
    group = language.word_group([[" man", " wan"]], tokenizer)
    prompts = [tokenizer.encode(text) for text in ("a man a", "a wan a")]
    assert language.total_variation(model, group, prompts)[1].max() > 0.01
    fair = language.EquiLM(model, group)
    assert language.total_variation(fair, group, prompts).max() < 1e-6
    first, second = language.generate(fair, prompts, 5, top_k=1)
    np.testing.assert_array_equal(array(group.ids.act(1, first)), second)
    with pytest.raises(ValueError, match="'man', which is 3 tokens"):
        language.word_group([["man", " wan"]], tokenizer)


def test_gpt2_of_keras_hub_is_read_from_a_preset(gpt2, tmp_path):
    gpt2.save_to_preset(str(tmp_path / "gpt2"))
    (model, tokenizer), (expected, _) = map(language.load_gpt2, (str(tmp_path / "gpt2"), gpt2))
    ids = RNG.integers(0, 13, (3, 7)).astype("int32")
    np.testing.assert_allclose(array(model(ids)), array(expected(ids)), atol=1e-6)
    assert tokenizer.encode(" man a wan") == [8, 12, 11]


def test_gpt2_without_tokenizer_and_what_is_no_gpt2(gpt2):
    hub = pytest.importorskip("keras_hub").models
    assert language.load_gpt2(hub.GPT2CausalLM(gpt2.backbone))[1] is None
    with pytest.raises(ValueError, match="Received: 7"):
        language.load_gpt2(7)


# The architecture


def test_gpt_is_saved_and_loaded_by_name(tmp_path):
    model = small_gpt(hidden_units=5, dropout=0.1)
    sk.models.save(model, tmp_path / "gpt")
    again = sk.models.load(tmp_path / "gpt")
    assert sk.models.parts(tmp_path / "gpt") == ("model",)
    assert type(again) is sk.models.GPT and again.arguments == model.arguments
    np.testing.assert_allclose(array(again(TEXTS)), array(model(TEXTS)), atol=1e-6)
    with pytest.raises(ValueError, match="only the part 'model'"):
        sk.models.load(tmp_path / "gpt", num_classes=3)


def test_no_token_sees_a_later_one():
    model, changed = small_gpt(), TEXTS.copy()
    changed[:, 4] = (changed[:, 4] + 1) % TOKENIZER.size
    before, after = array(model(TEXTS)), array(model(changed))
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert all((before[:, i] != after[:, i]).any() for i in (4, 5))


def test_gpt_of_the_size_of_gpt2_has_its_weights():
    small = dict(vocabulary_size=50257, max_length=1024)
    shapes = sk.models.create("gpt", units=12, num_layers=12, num_heads=12, **small)
    counted = [(50257 + 1024) * n + 12 * (12 * n**2 + 13 * n) + 2 * n for n in (12, 768)]
    assert [shapes.count_params(), 124_439_808] == counted


@pytest.mark.parametrize(
    "changes",
    [
        {"units": 9},
        {"num_layers": 0},
        {"vocabulary_size": 1},
        {"vocabulary_size": "all"},
        {"dropout": 1.0},
        {"hidden_units": 0},
        {"units": 65_536, "num_layers": 256},
        {"num_classes": 3},
    ],
    ids=str,
)
def test_impossible_gpts_are_refused(changes):
    with pytest.raises(sk.exceptions.ConfigError):
        sk.models.create("gpt", **{"vocabulary_size": 13, "units": 8, "num_heads": 2, **changes})


def test_a_step_past_the_end_of_the_cache_is_refused():
    model = small_gpt()
    cache = model.empty_cache(1, length=4)
    _, cache = model.step(np.array([[1, 2, 3]]), cache, position=0)
    with pytest.raises(ShapeError, match="cache holds 4 tokens. Received: 2 more at position 3"):
        model.step(np.array([[1, 2]]), cache, position=3)


def test_positions_are_whole_numbers_of_any_kind():
    model = small_gpt()
    expected, cache = model.step(TEXTS[:, :2], model.empty_cache(4, 6), 0)
    for zero in (np.int64(0), ops.convert_to_tensor(0, "int32")):
        logits, _ = model.step(TEXTS[:, :2], model.empty_cache(4, 6), zero)
        np.testing.assert_allclose(array(logits), array(expected), atol=1e-6)
    assert model.step(TEXTS[:, :4], cache, np.uint8(2))[0].shape == (4, 13)
    with pytest.raises(ShapeError, match="cache holds 6 tokens. Received: 4 more at position 3"):
        model.step(TEXTS[:, :4], cache, np.int64(3))
    for position in (-1, np.int64(-2), 1.5, True, "0", None):
        with pytest.raises(ValueError, match=f"`position`.*Received: position={re.escape(repr(position))}"):
            model.step(TEXTS[:, :2], cache, position)


@pytest.mark.parametrize("token", [13, -1])
def test_ids_outside_the_vocabulary_are_refused(token):
    ids, model = np.array([[1, token]]), small_gpt()
    cache = model.empty_cache(1, 4)
    fair = language.EquiLM(model, RANKS)
    for use in (
        lambda: model(ids),
        lambda: model.step(ids, cache, 0),
        lambda: fair(ids),
        lambda: RANKS.ids.act(1, ids),
    ):
        with pytest.raises(ValueError, match=f"0 .. 12.*Received: .*{token}"):
            use()


def test_texts_beyond_the_context_are_refused():
    model = small_gpt()
    with pytest.raises(ShapeError, match="max_length=20.*Received: 21"):
        model(np.zeros((1, 21), "int32"))
    with pytest.raises(ShapeError, match="Received: 21"):
        model.empty_cache(1, 21)
