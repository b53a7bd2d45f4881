"""Fair text: language models that treat demographic groups alike, word for word.

A group exchanges the words of parallel lists (`word_group`). `EquiLM` averages next-token logits over it,
exactly or, with general words, relaxed; `EquizeroLM` gives every group the continuation that a score likes
best. `generate` samples, `total_variation` measures what is left to do.
"""

from star_keras.applications.language.equi_lm import EquiLM, total_variation
from star_keras.applications.language.equizero_lm import EquizeroLM
from star_keras.applications.language.generation import generate
from star_keras.applications.language.gpt2 import load_gpt2
from star_keras.applications.language.scores import regard, sentiment
from star_keras.applications.language.words import WordTokenizer, token_ids, word_group

__all__ = [
    "EquiLM",
    "EquizeroLM",
    "WordTokenizer",
    "generate",
    "load_gpt2",
    "regard",
    "sentiment",
    "token_ids",
    "total_variation",
    "word_group",
]
