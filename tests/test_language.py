"""Fair text: groups of words, EquiLM, EquizeroLM and how they generate."""

import functools
import itertools

import keras
import numpy as np
import pytest
from _arrays import array
from _language import (
    GROUPS,
    MOVED,
    PRONOUNS,
    RANKS,
    TEXTS,
    TOKENIZER,
    Bigrams,
    about,
    each_group,
    equizero,
    small_gpt,
)

import star_keras as sk
from star_keras.applications import language
from star_keras.exceptions import NonFiniteError, ShapeError


def softmax(logits):
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


# Words and their group


def test_encoding_and_decoding_are_inverse_up_to_case_space_and_unknown_words():
    assert TOKENIZER.decode(TOKENIZER.encode(" The KING  was\tgood")) == "the king was good"
    for broken in ([-1], [0, TOKENIZER.size]):
        with pytest.raises(ValueError, match="`ids` must be token ids in 0 .. .* Received"):
            TOKENIZER.decode(broken)
    assert TOKENIZER.encode("a bad knave") == [0, TOKENIZER.encode("bad")[0], 0]
    tokenizer = language.WordTokenizer.from_text("Is't so?\nSo, so; 'tis.", size=6)
    assert tokenizer.words == ["<unknown>", "so", "is't", "?", "\n", ","]
    assert tokenizer.decode(tokenizer.encode("so, so?\nis't so")) == "so, so?\nis't so"


def test_the_group_advances_all_lists_together():
    def moved(element, text):
        return TOKENIZER.decode(array(RANKS.ids.act(element, np.array(TOKENIZER.encode(text)))))

    assert RANKS.order == 3
    assert moved(1, "the king was good he") == "the duke was good he"
    assert moved(2, "king duke queen") == "prince king princess"
    assert moved(RANKS.inverse(1), moved(1, "the prince")) == "the prince"


@pytest.mark.parametrize(
    "message,lists",
    [
        ("'kings and', which is 2 tokens", [["king", "kings and"]]),
        ("'', which is 0 tokens", [["king", ""]]),
        ("'knight'.*none of its 13", [["king", "knight"]]),
        ("lengths .2, 3.", [["king", "queen"], ["duke", "prince", "he"]]),
        ("lengths .1.", [["king"]]),
        (r"lengths \[\]", []),
        ("'king' and 'King'", [["king", "queen"], ["duke", "King"]]),
        ("'king' and 'king'", [["king", "king"]]),
        ("Received: 7", [["king", 7]]),
    ],
)
def test_lists_that_make_no_group_are_refused(message, lists):
    with pytest.raises(ValueError, match=message):
        language.word_group(lists, TOKENIZER)


@pytest.mark.parametrize("words", [["king", "king"], ["King"], ["two words"], [""]], ids=str)
def test_a_vocabulary_of_no_words_or_of_equal_ones_is_refused(words):
    with pytest.raises(ValueError, match="Received"):
        language.WordTokenizer(words)


# EquiLM


@pytest.mark.parametrize("name", GROUPS)
def test_logits_are_the_mean_of_what_is_said_of_each_group_by_the_letter(name):
    group = GROUPS[name]
    model = small_gpt()
    expected = np.zeros((*TEXTS.shape, TOKENIZER.size))
    for send in MOVED[name]:
        expected += array(model(send[TEXTS]))[..., send] / group.order
    np.testing.assert_allclose(array(language.EquiLM(model, group)(TEXTS)), expected, atol=1e-5)
    assert np.abs(expected - array(model(TEXTS))).max() > 0.1


@each_group
def test_logits_are_those_of_equitune(group):
    model = small_gpt()
    wrapper = sk.layers.EquiTune(model, group.ids, output_group=group)
    np.testing.assert_allclose(array(language.EquiLM(model, group)(TEXTS)), array(wrapper(TEXTS)), atol=1e-5)


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX computes in float32")
def test_logits_of_a_moved_text_are_those_of_the_text_moved_to_the_last_bits():
    model = language.EquiLM(small_gpt("float64"), RANKS, dtype="float64")
    expected = np.mean([array(model.model(send[TEXTS]))[..., send] for send in MOVED["ranks"]], axis=0)
    for send in MOVED["ranks"]:
        found = array(model(send[TEXTS]))
        # No relative tolerance: float32 anywhere on the way would show.
        np.testing.assert_allclose(found[..., send], expected, rtol=0, atol=1e-13)
    assert np.abs(found - expected).max() > 0.1


@each_group
def test_no_event_is_likelier_for_one_group(group):
    model = small_gpt()
    alone, fair = (language.total_variation(m, group, TEXTS) for m in (model, language.EquiLM(model, group)))
    assert alone.shape == fair.shape == (group.order, len(TEXTS))
    np.testing.assert_array_equal(alone[0], 0)
    assert alone[1:].max() > 0.1 and fair.max() < 1e-6


def test_total_variation_is_half_the_sum_of_differences():
    model, send = small_gpt(), MOVED["ranks"][1]
    here, there = (softmax(array(model(ids))[:, -1]) for ids in (TEXTS, send[TEXTS]))
    expected = np.abs(there[:, send] - here).sum(axis=1) / 2
    np.testing.assert_allclose(language.total_variation(model, RANKS, TEXTS)[1], expected, atol=1e-5)


@pytest.mark.parametrize(
    "error,message,ids",
    [
        (ShapeError, "lengths", [[1, 2], [3]]),
        (ValueError, "shape .3,.", [1, 2, 3]),
        (ValueError, "shape .0, 4.", np.zeros((0, 4), "int32")),
        (ValueError, "from 1 to 13", [[1, 13]]),
        (ValueError, "float64", [[0.5]]),
    ],
)
def test_the_variation_of_what_is_no_text_is_refused(error, message, ids):
    with pytest.raises(error, match=f"`token_ids`.*{message}"):
        language.total_variation(small_gpt(), RANKS, ids)


def test_the_inverse_is_not_the_element_itself():
    """A group of order 2 would hide it: moved forwards twice, logits of order 3 do not come back."""
    model = small_gpt()
    send = MOVED["ranks"][1]
    said = [array(model(TEXTS)), array(model(send[TEXTS])), array(model(send[send][TEXTS]))]
    wrong = (said[0] + said[2][..., send] + said[1][..., send[send]]) / 3
    assert np.abs(wrong - array(language.EquiLM(model, RANKS)(TEXTS))).max() > 0.1


def test_relaxed_keeps_what_the_model_says_of_general_words_and_averages_the_rest():
    model = small_gpt()
    relaxed = array(language.EquiLM(model, RANKS, general_ids=PRONOUNS)(TEXTS))
    exact = array(language.EquiLM(model, RANKS)(TEXTS))
    others = np.setdiff1d(np.arange(TOKENIZER.size), PRONOUNS)
    np.testing.assert_allclose(relaxed[..., PRONOUNS], array(model(TEXTS))[..., PRONOUNS], atol=1e-5)
    np.testing.assert_array_equal(relaxed[..., others], exact[..., others])
    assert np.abs(relaxed - exact)[..., PRONOUNS].max() > 0.1


def test_fine_tuning_keeps_it_fair():
    model = language.EquiLM(small_gpt(), RANKS)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.05), loss, run_eagerly=True)
    history = model.fit(TEXTS[:, :-1], TEXTS[:, 1:], epochs=3, verbose=0).history["loss"]
    assert history[-1] < history[0]
    assert language.total_variation(model, RANKS, TEXTS).max() < 1e-6


@pytest.mark.parametrize(
    "error,message,arguments",
    [
        (ShapeError, "size 13 .*size=12", dict(group=sk.groups.VocabularyCycle([[1, 2]], 12))),
        (ShapeError, "last axis", dict(group=sk.groups.VocabularyCycle([[1, 2]], 13, axis=-2))),
        (ValueError, "Cyclic", dict(group=sk.groups.Cyclic(2))),
        (ValueError, "token 2", dict(general_ids=[11, 2])),
        (ValueError, "0 .. 12. Received: 13", dict(general_ids=[13])),
    ],
    ids=str,
)
def test_groups_of_another_vocabulary_and_moved_general_words_are_refused(error, message, arguments):
    with pytest.raises(error, match=message):
        language.EquiLM(small_gpt(), **{"group": RANKS, **arguments})


# Generating


@pytest.mark.parametrize("kind", ["alone", "fair", "relaxed"])
def test_decoding_step_by_step_gives_the_logits_of_the_whole_text(kind):
    model = small_gpt()
    if kind != "alone":
        model = language.EquiLM(model, RANKS, general_ids=PRONOUNS if kind == "relaxed" else ())
    expected = array(model(TEXTS))
    cache = model.empty_cache(len(TEXTS), 9)
    logits, cache = model.step(TEXTS[:, :2], cache, 0)
    np.testing.assert_allclose(array(logits), expected[:, 1], atol=1e-4)
    for position in range(2, TEXTS.shape[1]):
        logits, cache = model.step(TEXTS[:, position : position + 1], cache, position)
        np.testing.assert_allclose(array(logits), expected[:, position], atol=1e-4)
    logits, _ = model.step(TEXTS[:, 3:5], cache, 3)  # reading again overwrites what came later
    np.testing.assert_allclose(array(logits), expected[:, 4], atol=1e-4)


def test_the_most_likely_tokens_follow_one_another():
    model = language.EquiLM(small_gpt(), RANKS)
    found = language.generate(model, TEXTS, 5, top_k=1)
    np.testing.assert_array_equal(found[:, :6], TEXTS)
    for end in range(6, 11):
        best = array(model(found[:, :end]))[:, -1].argmax(axis=-1)
        np.testing.assert_array_equal(found[:, end], best)


def test_greedy_texts_of_moved_prompts_are_the_moved_texts():
    model = language.EquiLM(small_gpt(), RANKS)
    expected = language.generate(model, TEXTS, 5, top_k=1)
    for moved in MOVED["ranks"]:
        np.testing.assert_array_equal(language.generate(model, moved[TEXTS], 5, top_k=1), moved[expected])


@pytest.mark.parametrize("temperature,top_k", [(1.0, None), (0.5, None), (2.0, 3)])
def test_tokens_are_drawn_with_their_probability(temperature, top_k):
    model, prompt = Bigrams(), TEXTS[:1]
    logits = model.table[prompt[0, -1]] / temperature
    if top_k:
        logits[np.argsort(logits)[:-top_k]] = -np.inf
    drawn = language.generate(model, np.repeat(prompt, 2000, axis=0), 1, temperature, top_k)[:, -1]
    counts = np.bincount(drawn, minlength=TOKENIZER.size) / 2000
    assert np.abs(counts - softmax(logits)).max() < 0.04


def test_what_is_drawn_depends_on_seed_and_row_not_on_the_neighbours():
    model = Bigrams()
    found = language.generate(model, TEXTS, 8, seed=3)
    np.testing.assert_array_equal(found, language.generate(model, TEXTS, 8, seed=3))
    np.testing.assert_array_equal(found[:2], language.generate(model, TEXTS[:2], 8, seed=3))
    assert (found != language.generate(model, TEXTS, 8, seed=4)).any()
    rows = language.generate(model, np.repeat(TEXTS[:1], 5, axis=0), 8)
    assert len(np.unique(rows, axis=0)) > 1


@pytest.mark.parametrize(
    "error,message,arguments",
    [
        (ShapeError, "20 tokens.*6 tokens and length=15", dict(length=15)),
        (ShapeError, "lengths .1, 2.", dict(prompts=[[1], [1, 2]])),
        (ValueError, "shape .0,.", dict(prompts=[])),
        (ValueError, "shape .1, 0.", dict(prompts=[[]])),
        (ValueError, "shape .3,.", dict(prompts=[1, 2, 3])),
        (ValueError, "from 1 to 13", dict(prompts=[[1, 13]])),
        (ValueError, "from -1 to 1", dict(prompts=[[1, -1]])),
        (ValueError, "float64", dict(prompts=[[0.5]])),
        (ValueError, "whole numbers.*'the king'", dict(prompts=[["the king"]])),
        (ShapeError, "of one length", dict(prompts=[[1, 2], 3])),
        (ValueError, "length=0", dict(length=0)),
        (ValueError, "length=True", dict(length=True)),
        (ValueError, "temperature=0", dict(temperature=0)),
        (ValueError, "temperature=-1", dict(temperature=-1.0)),
        (ValueError, "temperature=nan", dict(temperature=float("nan"))),
        (ValueError, "temperature=inf", dict(temperature=float("inf"))),
        (ValueError, "top_k=0", dict(top_k=0)),
        (ValueError, "top_k=14", dict(top_k=14)),
        (ValueError, "top_k=1.5", dict(top_k=1.5)),
        (ValueError, "seed=-1", dict(seed=-1)),
        (ValueError, "seed=None", dict(seed=None)),
        (ValueError, "`stop`.*stop=13", dict(stop=13)),
        (ValueError, "`stop`.*stop=.-1.", dict(stop=[-1])),
        (ValueError, "`stop`.*stop=1.5", dict(stop=1.5)),
        (ValueError, "`stop`.*stop='was'", dict(stop="was")),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["generate", "equizero"])
def test_what_cannot_be_generated_is_refused(kind, error, message, arguments):
    arguments = {"prompts": TEXTS, "length": 2, **arguments}
    with pytest.raises(error, match=message):
        if kind == "equizero":
            equizero(model=Bigrams()).generate(**arguments)
        else:
            language.generate(Bigrams(), **arguments)


def stopped_by_hand(texts, start, stop):
    """Texts that repeat the first of `stop` that they say from `start` on."""
    texts = texts.copy()
    for text in texts:
        ends = np.flatnonzero(np.isin(text[start:], stop))
        if len(ends):
            text[start + ends[0] :] = text[start + ends[0]]
    return texts


@pytest.mark.parametrize("stop", [8, [0, 8, 9]], ids=str)
def test_a_text_is_what_it_was_up_to_the_token_that_stops_it(stop):
    prompts = np.repeat(TEXTS[:1] * 0 + 8, 40, axis=0)  # what stands in a prompt stops nothing
    without, found = (language.generate(Bigrams(), prompts, 9, seed=2, stop=s) for s in (None, stop))
    np.testing.assert_array_equal(found, stopped_by_hand(without, 6, stop))
    assert 0 < np.isin(found[:, -1], stop).sum() < 40 and (found != without).any()


def test_decoding_ends_when_all_texts_have_stopped():
    class Counted(Bigrams):
        steps = 0

        def step(self, token_ids, cache, position):
            self.steps += 1
            return super().step(token_ids, cache, position)

    model = Counted()
    model.table[:, 3] += 99
    assert (language.generate(model, TEXTS, 9, stop=3)[:, 6:] == 3).all() and model.steps == 1
    language.generate(model, TEXTS, 9)
    assert model.steps == 1 + 9


def test_a_token_that_the_group_moves_stops_nothing_fair():
    king, was = language.token_ids(["king", "was"], TOKENIZER)
    fair = language.EquiLM(small_gpt(), RANKS)
    assert language.generate(fair, TEXTS, 2, stop=was).shape == (4, 8)
    for generate in (functools.partial(language.generate, fair), equizero().generate):
        with pytest.raises(ValueError, match=f"`stop` must not be moved by the group.*token {king}"):
            generate(TEXTS, 2, stop=[was, king])


def test_a_model_that_says_nan_is_not_sampled_from():
    model = small_gpt()
    model.norm.gamma.assign(np.full(8, np.nan, "float32"))
    with pytest.raises(NonFiniteError, match="4 of 4 texts"):
        language.generate(model, TEXTS, 1)


def test_prompts_of_every_order_are_counted_once():
    """All six versions of a sentence get one score from the group of gender and rank."""
    model = language.EquiLM(small_gpt(), GROUPS["both"])
    nouns = ["king", "duke", "prince", "queen", "duchess", "princess"]
    logits = array(model(about(*nouns)))[:, -1]
    neutral = language.token_ids(["the", "was", "good", "bad", "he", "she"], TOKENIZER)
    for one, other in itertools.combinations(logits[:, neutral], 2):
        np.testing.assert_allclose(one, other, atol=1e-5)
