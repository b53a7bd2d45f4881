"""Texts, token by token: prompts read once, one sample for each text."""

import numbers

import numpy as np
from keras import ops

from star_keras.exceptions import NonFiniteError, ShapeError
from star_keras.guards.arguments import is_whole


def generate(model, prompts, length, temperature=1.0, top_k=None, seed=0, stop=None):
    """Samples the next tokens of prompts.

    The model reads each prompt once and then every new token, with the earlier ones in its cache. An
    `EquiLM` keeps a cache for each element of its group and one sample for all. Each text has random numbers
    of its own: what is generated for it does not depend on its neighbours in the batch.

    Args:
        model: a language model with `empty_cache` and `step`, such as `models.GPT` or `EquiLM`.
        prompts: `(batch, prompt length)`, token ids. Prompts of different lengths go in one call each.
        length: number of new tokens.
        temperature: logits are divided by it; below 1 likely tokens become likelier. Defaults to 1.
        top_k: sample among so many of the most likely tokens. Defaults to None, all; 1 always takes the
            most likely.
        seed: a whole number. Row `i` draws from the stream of `(seed, i)`.
        stop: a token, or several, that ends a text, such as the end of a line; decoding ends with the last
            text. Defaults to None.

    Returns:
        An int32 array `(batch, prompt length + length)`, the prompts and what follows them. A text that
        has ended repeats the token that ended it.

    Raises:
        ValueError: if prompts are empty or no token ids of the model, or `temperature`, `top_k`, `length`,
            `seed` or `stop` are out of range; if the group of an `EquiLM` moves a token of `stop`.
        ShapeError: if a text would be longer than `model.max_length`, or prompts differ in length.
        NonFiniteError: if a logit is NaN.

    Example:

    >>> import star_keras as sk
    >>> model = sk.models.create("gpt", vocabulary_size=9, units=8, num_heads=2)
    >>> generate(model, [[1, 2, 3]], length=4, top_k=1).shape
    (1, 7)
    """
    prompts = check_prompts(prompts, length, model)
    sampler = Sampler(temperature, top_k, model.vocabulary_size)
    check_seed(seed)
    stop = checked_stop(stop, model.vocabulary_size, getattr(model, "group", None))
    streams = [np.random.default_rng([seed, row]) for row in range(len(prompts))]
    cache = model.empty_cache(len(prompts), prompts.shape[1] + length)
    ended = np.zeros(len(prompts), "bool")
    tokens, _, _ = extend(model, prompts, cache, 0, length, sampler, streams, stop, ended)
    return np.concatenate([prompts, tokens], axis=1)


def extend(model, unread, cache, position, length, sampler, streams, stop, ended):
    """Lets the model read tokens that are not in its cache, and samples `length` tokens after them.

    Texts that have `ended`, or do so by a token of `stop`, repeat their last token, which costs nothing.

    Returns:
        `(tokens, log_probabilities, cache)`: `(batch, length)`, `(batch,)`, and the cache, which holds all
        but the last token that was drawn.
    """
    tokens, log_probabilities = [], np.zeros(len(unread))
    for _ in range(length):
        logits, cache = model.step(ops.convert_to_tensor(unread), cache, position)
        position += unread.shape[1]
        token, log_probability = sampler(ops.convert_to_numpy(logits), streams)
        tokens.append(np.where(ended, unread[:, -1], token))
        log_probabilities += np.where(ended, 0.0, log_probability)
        unread = tokens[-1][:, None]
        ended = ended | np.isin(tokens[-1], stop)
        if ended.all():
            break
    return fill(np.stack(tokens, axis=1), length), log_probabilities, cache


def fill(tokens, length):
    """Texts that have ended, `(batch, length)`: each repeats its last token."""
    return np.pad(tokens, ((0, 0), (0, length - tokens.shape[1])), mode="edge")


class Sampler:
    """Draws one token for each row of logits, each row from its own stream of random numbers.

    Args:
        temperature, top_k: see `generate`.
        vocabulary_size: number of tokens.
    """

    def __init__(self, temperature, top_k, vocabulary_size):
        is_number = isinstance(temperature, numbers.Real) and not isinstance(temperature, bool)
        if not is_number or not 0 < temperature < float("inf"):
            raise ValueError(
                "`temperature` must be a positive number; for the most likely token say `top_k=1`. "
                f"Received: temperature={temperature!r}"
            )
        if top_k is not None and not (is_whole(top_k) and 1 <= top_k <= vocabulary_size):
            raise ValueError(
                f"`top_k` must be a whole number from 1 to {vocabulary_size}, the size of the vocabulary, "
                f"or None for all tokens. Received: top_k={top_k!r}"
            )
        self.temperature = float(temperature)
        self.top_k = top_k

    def __call__(self, logits, streams):
        """`(tokens, log_probabilities)` of these, `(rows,)` each, int32 and float64."""
        logits = logits.astype("float64") / self.temperature
        if np.isnan(logits).any():
            raise NonFiniteError(
                f"Logits must be numbers. Received: NaN for {np.isnan(logits).any(axis=1).sum()} of "
                f"{len(logits)} texts. The model's weights or its arithmetic overflow."
            )
        if self.top_k is not None:
            least = np.partition(logits, -self.top_k, axis=1)[:, -self.top_k, None]
            logits = np.where(logits >= least, logits, -np.inf)
        # The greatest of logits with Gumbel noise is a sample of their softmax.
        noise = np.stack([stream.gumbel(size=logits.shape[1]) for stream in streams])
        tokens = np.argmax(logits + noise, axis=1)
        peak = logits.max(axis=1)
        normalisers = peak + np.log(np.exp(logits - peak[:, None]).sum(axis=1))
        return tokens.astype("int32"), logits[np.arange(len(tokens)), tokens] - normalisers


def check_prompts(prompts, length, model):
    """Prompts as an int32 array, or an error that says what is wrong with them or with `length`."""
    found = check_texts("prompts", prompts, model.vocabulary_size)
    if not is_whole(length) or length < 1:
        raise ValueError(f"`length` must be a positive whole number. Received: length={length!r}")
    if found.shape[1] + length > model.max_length:
        raise ShapeError(
            f"A text may have {model.max_length} tokens, the context of the model. Received: prompts of "
            f"{found.shape[1]} tokens and length={length}. Shorten one of them."
        )
    return found


def check_texts(name, texts, vocabulary_size):
    """Texts of one length as an int32 array `(batch, length)`, or an error that says what is wrong."""
    try:
        found = np.asarray(texts)
    except ValueError:
        lengths = sorted({len(text) if hasattr(text, "__len__") else 1 for text in texts})
        raise ShapeError(f"`{name}` of one call must be of one length. Received: lengths {lengths}") from None
    if found.ndim != 2 or 0 in found.shape:
        raise ValueError(
            f"`{name}` must be token ids of shape (batch, length), at least one of each: a text cannot "
            f"begin with nothing. Received: shape {found.shape}"
        )
    whole = np.issubdtype(found.dtype, np.integer)
    if not whole or found.min() < 0 or found.max() >= vocabulary_size:
        what = f"from {found.min()} to {found.max()}" if whole else f"such as {found.tolist()[0][0]!r}"
        raise ValueError(
            f"`{name}` must be whole numbers from 0 to {vocabulary_size - 1}, tokens of the model. "
            f"Received: {found.dtype} {what}"
        )
    return found.astype("int32")


def checked_stop(stop, vocabulary_size, group):
    """The tokens that end a text as a list, or an error that says what is wrong with them."""
    tokens = [] if stop is None else list(stop) if isinstance(stop, (list, tuple)) else [stop]
    if not all(is_whole(token) and 0 <= token < vocabulary_size for token in tokens):
        raise ValueError(
            f"`stop` must be a token from 0 to {vocabulary_size - 1}, a list of such, or None. Received: "
            f"stop={stop!r}"
        )
    for token in tokens if group is not None else ():
        if (ops.convert_to_numpy(group.ids.orbit(np.array([token], "int32"))) != token).any():
            raise ValueError(
                "`stop` must not be moved by the group, or texts of one group would end where those of "
                f"another go on. Received: token {token}, which is"
            )
    return tokens


def check_seed(seed):
    """Raises ValueError unless the seed is a whole number of at least 0."""
    if not is_whole(seed) or seed < 0:
        raise ValueError(f"`seed` must be a whole number of at least 0. Received: seed={seed!r}")
