"""EquizeroLM: what it gives each group, by what score, and what is refused."""

import sys
import types

import numpy as np
import pytest
from _arrays import array
from _language import GROUPS, MOVED, TOKENIZER, Bigrams, about, equizero, goodness, small_gpt

import star_keras as sk
from star_keras.applications import language
from star_keras.exceptions import NonFiniteError, ShapeError


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


@pytest.mark.parametrize("chunk", [1, 3])
def test_texts_stop_with_a_token_and_those_of_moved_prompts_stop_alike(chunk):
    (stop,), prompts = language.token_ids(["he"], TOKENIZER), about("king", "queen", "prince", "duke")
    model = equizero(chunk=chunk)
    found = model.generate(prompts, 9, seed=1, stop=stop)
    assert found.shape == (4, 12)
    for text, whole in zip(found[:, 3:], model.generate(prompts, 9, seed=1)[:, 3:], strict=True):
        end = list(text).index(stop) if stop in text else len(text)
        assert (text[end:] == stop).all()
        if chunk == 1:  # longer ones may be chosen for what comes after the stop
            np.testing.assert_array_equal(text[:end], whole[:end])
    assert 0 < (found[:, -1] == stop).sum() < len(found)
    for moved in MOVED["ranks"]:
        np.testing.assert_array_equal(model.generate(moved[prompts], 9, seed=1, stop=stop), moved[found])


def test_a_text_is_judged_without_what_fills_it_up():
    judged = []
    model = equizero(score=lambda texts: judged.extend(texts) or goodness(texts), chunk=4)
    (stop,) = language.token_ids(["bad"], TOKENIZER)
    model.model.table[:, stop] += 99
    assert (model.generate(about("king"), 9, stop=stop)[:, 3:] == stop).all()
    assert judged == ["the king was bad", "the duke was bad", "the prince was bad"]


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


@pytest.mark.parametrize("rounding, expected", [(1e-7, {0, 1}), (-1e-7, {0, 1}), (1e-3, {0}), (-1e-3, {1})])
def test_rounding_does_not_choose_between_texts_that_are_equally_probable(rounding, expected):
    """Rows of a batch that hold the same text differ by that much in float32."""
    likely = -7 * np.array([[1 - rounding], [1.0], [2.0], [0.5]])
    scores, texts = np.array([[3.0], [3.0], [3.0], [1.0]]), np.zeros((4, 1, 5), "int32")
    model = equizero()
    assert {model._choose(scores, likely, texts, seed)[0] for seed in range(30)} == expected


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
        ("keras_hub", r"pip install 'star-keras\[hub\]'", lambda: language.load_gpt2("gpt2_base_en")),
    ],
)
def test_a_missing_package_is_named(package, message, use, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=message):
        use()
