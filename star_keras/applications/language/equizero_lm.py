"""Of the continuations for all demographic groups the best spoken one, given to each: EquizeroLM."""

import numpy as np
from keras import ops

from star_keras.applications.language import generation
from star_keras.applications.language.equi_lm import check_group
from star_keras.applications.language.scores import SCORES
from star_keras.exceptions import NonFiniteError, ShapeError
from star_keras.guards.arguments import is_whole

SCORE_TIE = 1e-9
LIKELY_TIE = 1e-5  # relative; rows of a batch that hold the same text differ by 5e-7 in float32
SAMPLING, CHOOSING = 0, 1  # two streams of random numbers for one text


class EquizeroLM:
    """Generates what the model would say of that group of which it speaks best, for every group.

    A text `x` is continued by chunks. For every element `g` of the group the model samples a continuation of
    `g x`, a score judges it, and the best is brought back:

        g* = argmax_g score(g x + continuation(g x))        x <- x + g*^-1 continuation(g* x)

    Random numbers depend on the seed, the row of the batch and the text `g x`, not on `g`: so the text for
    `h x` is `h` times the text for `x` in the same row, word by word. Ties go to the more probable
    continuation; log-probabilities within 1e-5 of their size are ties, too, and one is drawn. A text that
    the group does not move has only ties, and the promise holds for the distribution of texts alone.

    Args:
        model: a language model such as `models.GPT`.
        group: of `word_group`.
        score: "sentiment" (VADER, extra `text`), "regard" (a classifier of transformers), or a function of a
            list of texts that returns one number for each, the greater the better.
        tokenizer: with `decode(ids)`, for the score.
        chunk: number of tokens between two choices. Defaults to 5.

    Raises:
        ValueError: if the score is unknown, `chunk` is not positive, or the group moves no token ids.
        ShapeError: if the group is that of a vocabulary of another size.
        ImportError: if the score needs a package that is not installed.

    Example:

    >>> import star_keras as sk
    >>> tokenizer = sk.applications.language.WordTokenizer(["the", "king", "queen", "was", "good", "bad"])
    >>> group = sk.applications.language.word_group([["king", "queen"]], tokenizer)
    >>> model = sk.models.create("gpt", vocabulary_size=tokenizer.size, units=8, num_heads=2)
    >>> kind = EquizeroLM(model, group, score=lambda texts: [text.count("good") for text in texts],
    ...                   tokenizer=tokenizer)
    >>> king, queen = (kind.generate([tokenizer.encode(f"the {word} was")], 10) for word in ("king", "queen"))
    >>> bool((queen == np.array(group.ids.act(1, king))).all())
    True

    Reference: Basu et al., "Efficient Equivariant Transfer Learning from Pretrained Models" (NeurIPS 2023),
    arXiv:2305.09900, section 3 and the experiments on generated text: EquizeroGPT2.
    """

    def __init__(self, model, group, score, tokenizer, chunk=5):
        if not is_whole(chunk) or chunk < 1:
            raise ValueError(f"`chunk` must be a positive number of tokens. Received: chunk={chunk!r}")
        if not (callable(score) or (isinstance(score, str) and score in SCORES)):
            raise ValueError(
                f"`score` must be one of {tuple(SCORES)} or a function of a list of texts. Received: "
                f"score={score!r}"
            )
        self.model = model
        self.group = group
        self.score = score if callable(score) else SCORES[score]()
        self.tokenizer = tokenizer
        self.chunk = chunk
        ids = check_group(group, model.vocabulary_size)
        self._moved = ops.convert_to_numpy(ids.orbit(np.arange(model.vocabulary_size, dtype="int32")))

    def generate(self, prompts, length, temperature=1.0, top_k=None, seed=0, stop=None):
        """Samples the next tokens of prompts; arguments, result and errors are those of `generate`.

        Raises:
            ShapeError: if the score does not return one number for each text.
            NonFiniteError: if a score is NaN.
        """
        texts = generation.check_prompts(prompts, length, self.model)
        sampler = generation.Sampler(temperature, top_k, self.model.vocabulary_size)
        generation.check_seed(seed)
        stop = generation.checked_stop(stop, self.model.vocabulary_size, self.group)
        order, batch, begin, end = self.group.order, len(texts), texts.shape[1], texts.shape[1] + length
        cache, position = self.model.empty_cache(order * batch, end), 0
        while texts.shape[1] < end:
            read = texts.shape[1]
            ended = np.isin(texts[:, begin:], stop).any(axis=1)
            if ended.all():
                return generation.fill(texts, end)
            orbit = self._orbit(texts)
            streams = [
                np.random.default_rng([SAMPLING, seed, number % batch, *text])
                for number, text in enumerate(orbit)
            ]
            # What was chosen last differs from what the caches hold, so its chunk is read anew.
            new, log_probabilities, cache = generation.extend(
                self.model,
                orbit[:, position:],
                cache,
                position,
                min(self.chunk, end - read),
                sampler,
                streams,
                stop,
                np.tile(ended, order),
            )
            scores = self._judge(np.concatenate([orbit, new], axis=1), begin, stop)
            chosen = self._choose(
                scores.reshape(order, batch),
                log_probabilities.reshape(order, batch),
                orbit.reshape(order, batch, read),
                seed,
            )
            texts = np.concatenate([texts, self._bring_back(new.reshape(order, batch, -1), chosen)], axis=1)
            position = read
        return texts

    def _orbit(self, texts):
        """`(order * batch, length)`: the texts moved by every element, element by element."""
        return self._moved[:, texts].reshape(-1, texts.shape[1])

    def _judge(self, texts, begin, stop):
        stops = np.isin(texts, stop) & (np.arange(texts.shape[1]) >= begin)
        said = np.cumsum(stops, axis=1) - stops == 0  # up to the first token that ends a text
        judged = [self.tokenizer.decode(text[seen]) for text, seen in zip(texts, said, strict=True)]
        scores = np.asarray(self.score(judged), "float64")
        if scores.shape != (len(texts),):
            raise ShapeError(
                "`score` must return one number for each text. Received: shape "
                f"{scores.shape} for {len(texts)} texts"
            )
        if np.isnan(scores).any():
            raise NonFiniteError(
                f"`score` must return numbers. Received: NaN for {np.isnan(scores).sum()} of {len(scores)} "
                "texts."
            )
        return scores

    def _choose(self, scores, log_probabilities, orbit, seed):
        """The element of best score for each text; the more probable of equals; then one that is drawn."""
        best = scores >= scores.max(axis=0) - SCORE_TIE
        likely = np.where(best, log_probabilities, -np.inf)
        most = likely.max(axis=0)
        tied = likely >= most - LIKELY_TIE * (1 + np.abs(most))
        chosen = []
        for row in range(orbit.shape[1]):
            versions = orbit[:, row].tolist()
            # In the order of their texts, and by a draw named by the least: alike for the whole orbit.
            elements = sorted(np.flatnonzero(tied[:, row]).tolist(), key=versions.__getitem__)
            chosen.append(int(np.random.default_rng([CHOOSING, seed, row, *min(versions)]).choice(elements)))
        return chosen

    def _bring_back(self, new, chosen):
        rows = zip(chosen, new[chosen, np.arange(len(chosen))], strict=True)
        return np.stack([self._moved[self.group.inverse(element), tokens] for element, tokens in rows])
