"""Words, their tokens, and the group that exchanges demographic words in all of their lists at once."""

import collections
import re

from star_keras.groups import VocabularyCycle
from star_keras.guards.arguments import check_ids

WORD = re.compile(r"[a-z]+(?:'[a-z]+)*|\n|[^\sa-z]")
UNKNOWN = "<unknown>"


class WordTokenizer:
    """Whole words, marks and line breaks as tokens: small vocabularies, in which every word is one token.

    Letters are made small. A word that is not in the vocabulary becomes token 0.

    Args:
        words: list of distinct tokens; `from_text` makes it.

    Attributes:
        size: number of tokens, with that of unknown words.

    Raises:
        ValueError: if a word is there twice, or would itself be split.

    Example:

    >>> tokenizer = WordTokenizer.from_text("The king, the queen.", size=4)
    >>> tokenizer.encode("the queen")
    [1, 0]
    >>> tokenizer.decode([1, 2, 3, 1, 0])
    'the king, the <unknown>'
    """

    def __init__(self, words):
        self.words = [UNKNOWN, *words]
        self.size = len(self.words)
        self._ids = {word: number for number, word in enumerate(self.words)}
        split = [word for word in words if WORD.findall(word) != [word]]
        if split or len(self._ids) < self.size:
            raise ValueError(
                "`words` must be distinct tokens: small letters with apostrophes, a mark or a line break. "
                f"Received: {split[0]!r}"
                if split
                else "`words` must be distinct. Received: one of them twice."
            )

    @classmethod
    def from_text(cls, text, size):
        """The tokenizer of the `size - 1` most frequent tokens of a text, the first of equals in it."""
        counts = collections.Counter(WORD.findall(text.lower()))
        return cls([word for word, _ in counts.most_common(size - 1)])

    def encode(self, text):
        """The token ids of a text, a list."""
        return [self._ids.get(word, 0) for word in WORD.findall(text.lower())]

    def decode(self, ids):
        """The text of token ids: words apart, marks behind them.

        Raises:
            ValueError: if an id is none of the vocabulary.
        """
        check_ids("ids", ids, len(self.words))
        text = " ".join(self.words[int(token)] for token in ids)
        return re.sub(r" ([,.;:?!]+|\n)", r"\1", text).replace("\n ", "\n")


def token_ids(words, tokenizer):
    """The one token of each word.

    Args:
        words: list of strings, as they stand in a text: for byte pair encodings, such as that of GPT-2,
            with the space before them, `" woman"`.
        tokenizer: anything with `encode(text)`, which returns a list of ids, and `size`.

    Returns:
        A list of integers.

    Raises:
        ValueError: if a word is several tokens, or unknown to a `WordTokenizer`. Left in, such a word would
            silently fall out of the group.

    Example:

    >>> token_ids(["queen", "king"], WordTokenizer(["king", "queen"]))
    [2, 1]
    """
    return [_single_token(word, tokenizer) for word in words]


def word_group(lists, tokenizer):
    """The cyclic group that advances parallel lists of words together.

    Its generator sends every word to the next of its list, and the last to the first. With
    `[["man", "woman"], ["father", "mother"]]` it exchanges both pairs; with lists of three it has order 3.
    For two attributes at once take the `Product` of two such groups.

    Args:
        lists: lists of words, the first of which usually is that of the demographic groups; all of one
            length, and no word in two places.
        tokenizer: see `token_ids`.

    Returns:
        A `groups.VocabularyCycle` that acts on logits, and through `.ids` on token ids.

    Raises:
        ValueError: if lists differ in length, have fewer than two words, or share a word; or as in
            `token_ids`.

    Example:

    >>> tokenizer = WordTokenizer(["king", "queen", "lord", "lady", "the"])
    >>> group = word_group([["king", "queen"], ["lord", "lady"]], tokenizer)
    >>> tokenizer.decode(np.array(group.ids.act(1, np.array(tokenizer.encode("The king, the lady")))))
    'the queen <unknown> the lord'

    Reference: Basu et al., "Equi-Tuning" (AAAI 2023), arXiv:2210.06475, on fairness in generated text.
    """
    lists = [list(words) for words in lists]
    lengths = [len(words) for words in lists]
    if len(set(lengths)) != 1 or lengths[0] < 2:
        raise ValueError(
            "`lists` must be lists of words, all of the same length, two or more. "
            f"Received: lists of lengths {lengths}"
        )
    rings = [token_ids(words, tokenizer) for words in lists]
    places = {}
    for words, ring in zip(lists, rings, strict=True):
        for word, token in zip(words, ring, strict=True):
            if token in places:
                raise ValueError(
                    "A word may stand in one place of one list. Received: "
                    f"{places[token]!r} and {word!r}, which are one token. A word with several partners, "
                    "such as a pronoun, belongs to the general words of a relaxed `EquiLM`."
                )
            places[token] = word
    return VocabularyCycle(rings, tokenizer.size)


def _single_token(word, tokenizer):
    if not isinstance(word, str):
        raise ValueError(f"Words must be strings. Received: {word!r}")
    tokens = list(tokenizer.encode(word))
    if len(tokens) != 1:
        raise ValueError(
            "Words must be single tokens, for the group moves tokens. Received: "
            f"{word!r}, which is {len(tokens)} tokens. Leave it and its partners out, or write it as it "
            "stands in a text: byte pair encodings see the space before a word."
        )
    if isinstance(tokenizer, WordTokenizer) and tokens == [0]:
        raise ValueError(
            f"Words must be in the vocabulary. Received: {word!r}, which is none of its {tokenizer.size} "
            "tokens. Leave it and its partners out, or make the vocabulary larger."
        )
    return int(tokens[0])
