"""A small vocabulary, groups that exchange its words, and language models of it."""

import numpy as np
import pytest
from _arrays import array

import star_keras as sk
from star_keras.applications import language

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


def about(*words):
    """Prompts about these words."""
    return np.array([TOKENIZER.encode(f"the {word} was") for word in words])


def goodness(texts):
    """A score: good words less bad ones."""
    return [text.count("good") - text.count("bad") for text in texts]


def equizero(group=RANKS, score=goodness, model=None, **options):
    """An EquizeroLM of the table of bigrams, or of another model."""
    return language.EquizeroLM(model or Bigrams(), group, score, TOKENIZER, **options)
