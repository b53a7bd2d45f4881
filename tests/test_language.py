"""Fair text: groups of words, EquiLM, EquizeroLM and how they generate."""

import itertools
import sys
import types

import keras
import numpy as np
import pytest

import star_keras as sk
from star_keras.applications import language
from star_keras.exceptions import NonFiniteError, ShapeError

WORDS = ["the", "king", "duke", "prince", "queen", "duchess", "princess", "was", "good", "bad", "he", "she"]
TOKENIZER = language.WordTokenizer(WORDS)
RANKS = language.word_group([["king", "duke", "prince"], ["queen", "duchess", "princess"]], TOKENIZER)
GENDERS = language.word_group([["king", "queen"], ["duke", "duchess"], ["prince", "princess"]], TOKENIZER)
GROUPS = {"genders": GENDERS, "ranks": RANKS, "both": sk.groups.Product(GENDERS, RANKS)}
MOVED = {
    name: np.array(group.ids.orbit(np.arange(TOKENIZER.size))) for name, group in GROUPS.items()
}  # row g: where g sends each token
PRONOUNS = language.token_ids(["he", "she"], TOKENIZER)
RNG = np.random.default_rng(0)
TEXTS = RNG.integers(0, TOKENIZER.size, (4, 6)).astype("int32")

each_group = pytest.mark.parametrize("group", GROUPS.values(), ids=GROUPS)


def array(tensor):
    return keras.ops.convert_to_numpy(tensor)


def small_gpt(dtype="float32", **options):
    """A GPT whose predictions are far from uniform."""
    arguments = dict(vocabulary_size=TOKENIZER.size, max_length=20, units=8, num_heads=2) | options
    model = sk.models.create("gpt", dtype=dtype, **arguments)
    rng = np.random.default_rng(7)
    for variable in model.variables:
        variable.assign(array(variable) + rng.normal(0, 0.7, variable.shape))
    return model


class Bigrams:
    """The least language model: the logits of a token are a row of a table."""

    vocabulary_size, max_length = TOKENIZER.size, 20

    def __init__(self):
        self.table = np.random.default_rng(3).normal(0, 1.5, (self.vocabulary_size,) * 2)

    def empty_cache(self, batch_size, length):
        return None

    def step(self, token_ids, cache, position):
        return self.table[array(token_ids)[:, -1]], cache


def softmax(logits):
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


# Words and their group


def test_encoding_and_decoding_are_inverse_up_to_case_space_and_unknown_words():
    assert TOKENIZER.decode(TOKENIZER.encode(" The KING  was\tgood")) == "the king was good"
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
def test_the_probability_of_a_moved_text_is_that_of_the_text_to_the_last_bits():
    model = language.EquiLM(small_gpt("float64"), RANKS, dtype="float64")
    for g in range(RANKS.order):
        found = array(model(RANKS.ids.act(g, TEXTS)))
        np.testing.assert_allclose(found, array(RANKS.act(g, model(TEXTS))), atol=1e-13)


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


def test_a_model_that_says_nan_is_not_sampled_from():
    model = small_gpt()
    model.norm.gamma.assign(np.full(8, np.nan, "float32"))
    with pytest.raises(NonFiniteError, match="4 of 4 texts"):
        language.generate(model, TEXTS, 1)


# EquizeroLM


def goodness(texts):
    return [text.count("good") - text.count("bad") for text in texts]


def equizero(group=RANKS, score=goodness, model=None, **options):
    return language.EquizeroLM(model or Bigrams(), group, score, TOKENIZER, **options)


def about(*words):
    return np.array([TOKENIZER.encode(f"the {word} was") for word in words])


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("chunk", [1, 3, 20])
def test_texts_of_moved_prompts_are_the_moved_texts(name, chunk):
    model = equizero(GROUPS[name], chunk=chunk)
    prompts = about("king", "queen", "prince")
    expected = model.generate(prompts, 7, seed=1)
    assert expected.shape == (3, 10)
    for moved in MOVED[name]:
        np.testing.assert_array_equal(model.generate(moved[prompts], 7, seed=1), moved[expected])


def test_the_best_continuation_of_all_groups_is_taken_chunk_by_chunk():
    """The naive way: no caches, one text at a time."""
    model, row, text = equizero(model=small_gpt(), chunk=2), 1, about("duke")[0].tolist()
    found = model.generate(about("king", "duke"), 5, temperature=0.8, seed=4)[row]
    sampler = language.generation.Sampler(0.8, None, TOKENIZER.size)
    for new in (2, 2, 1):
        candidates = []
        for g, moved in enumerate(MOVED["ranks"]):
            candidate, total = moved[text].tolist(), 0.0
            streams = [np.random.default_rng([0, 4, row, *candidate])]
            for _ in range(new):
                logits = array(model.model(np.array([candidate])))[:, -1]
                token, log_probability = sampler(logits, streams)
                candidate, total = [*candidate, int(token[0])], total + log_probability[0]
            score = goodness([TOKENIZER.decode(candidate)])[0]
            back = MOVED["ranks"][-g % 3]
            candidates.append((score, total, back[candidate[-new:]].tolist()))
        text = text + max(candidates)[2]
    np.testing.assert_array_equal(found, text)


def test_it_speaks_better_than_the_model_alone():
    prompts = about(*["king", "duke", "prince"] * 40)
    alone, chosen = language.generate(Bigrams(), prompts, 8), equizero().generate(prompts, 8)
    assert len(np.unique(chosen, axis=0)) > 50
    means = [np.mean(goodness(map(TOKENIZER.decode, texts))) for texts in (alone, chosen)]
    assert means[1] > means[0] + 0.5


def test_a_text_about_no_group_is_drawn_evenly():
    """All its versions are one text, so the elements tie: each must be chosen as often."""
    model = equizero()
    words, start = language.token_ids(["king", "duke", "prince"], TOKENIZER), TOKENIZER.encode("the")
    model.model.table[start, words[0]] += 9  # the model alone says "the king"
    found = model.generate([start] * 300, 1)[:, -1]
    counts = np.bincount(found, minlength=TOKENIZER.size)[words]
    assert counts.sum() > 280 and np.abs(counts / 300 - 1 / 3).max() < 0.1


@pytest.mark.parametrize(
    "error,message,arguments",
    [
        (ValueError, "score='kindness'", dict(score="kindness")),
        (ValueError, "score=None", dict(score=None)),
        (ValueError, "chunk=0", dict(chunk=0)),
        (ValueError, "chunk=True", dict(chunk=True)),
        (ShapeError, "size 13", dict(group=sk.groups.VocabularyCycle([[1, 2]], 12))),
        (ValueError, "Flip", dict(group=sk.groups.Flip())),
    ],
    ids=str,
)
def test_equizero_of_impossible_parts_is_refused(error, message, arguments):
    with pytest.raises(error, match=message):
        equizero(**arguments)


def test_scores_that_are_not_one_number_for_each_text_are_refused():
    with pytest.raises(ShapeError, match="for 3 texts"):
        equizero(score=lambda texts: [1.0]).generate(about("king"), 1)
    with pytest.raises(NonFiniteError, match="NaN for 3 of 3"):
        equizero(score=lambda texts: [np.nan] * len(texts)).generate(about("king"), 1)


# Scores


def test_sentiment_ranks_praise_above_blame():
    pytest.importorskip("vaderSentiment")
    bad, plain, good = language.sentiment()(["a cruel murder", "the king was here", "a good and gentle lord"])
    assert bad < plain == 0 < good
    assert equizero(score="sentiment").score(["a cruel murder"]) == [bad]


def test_regard_is_the_probability_of_praise_minus_that_of_blame(monkeypatch):
    def pipeline(task, model, top_k):
        assert (task, model, top_k) == ("text-classification", "ours", None)
        labels = {"negative": 0.5, "neutral": 0.2, "positive": 0.3}
        return lambda texts: [[{"label": k, "score": v} for k, v in labels.items()] for _ in texts]

    monkeypatch.setitem(sys.modules, "transformers", types.SimpleNamespace(pipeline=pipeline))
    np.testing.assert_allclose(language.regard("ours")(["one", "two"]), [-0.2, -0.2])


@pytest.mark.parametrize(
    "package,message,use",
    [
        ("vaderSentiment.vaderSentiment", r"star-keras\[text\]", lambda: equizero(score="sentiment")),
        ("transformers", "pip install transformers", lambda: equizero(score="regard")),
        ("keras_hub", "pip install --no-deps keras-hub", lambda: language.load_gpt2("gpt2_base_en")),
    ],
)
def test_a_missing_package_is_named(package, message, use, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=message):
        use()


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
    with pytest.raises(ValueError, match="part='model'"):
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


def test_texts_beyond_the_context_are_refused():
    model = small_gpt()
    with pytest.raises(ShapeError, match="max_length=20.*Received: 21"):
        model(np.zeros((1, 21), "int32"))
    with pytest.raises(ShapeError, match="Received: 21"):
        model.empty_cache(1, 21)


def test_prompts_of_every_order_are_counted_once():
    """All six versions of a sentence get one score from the group of gender and rank."""
    model = language.EquiLM(small_gpt(), GROUPS["both"])
    nouns = ["king", "duke", "prince", "queen", "duchess", "princess"]
    logits = array(model(about(*nouns)))[:, -1]
    neutral = language.token_ids(["the", "was", "good", "bad", "he", "she"], TOKENIZER)
    for one, other in itertools.combinations(logits[:, neutral], 2):
        np.testing.assert_allclose(one, other, atol=1e-5)
