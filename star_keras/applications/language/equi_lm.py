"""A language model with one distribution for all demographic groups: EquiLM, exact or relaxed."""

import keras
import numpy as np
from keras import ops

from star_keras import orbits
from star_keras.applications.language.generation import check_texts
from star_keras.exceptions import ShapeError
from star_keras.guards.arguments import freeze_parts


@keras.saving.register_keras_serializable(package="star_keras")
class EquiLM(keras.Model):
    """Makes the next token independent of which demographic group a text is about.

    With `M` the model, whose logits are a function over the vocabulary, and `g` the elements of a group
    that exchanges words, the logits after a text `x` are

        z(x) = sum_g g^-1 M(g x) / order

    so that `P(g y | g x) = P(y | x)` for every text, and by induction for texts that are generated: the
    mean is that of `EquiTune`, and trains like it. Any model will do that gives logits `(batch, length,
    vocabulary_size)` for token ids and decodes by `empty_cache` and `step`, as `models.GPT` does; this one
    does, too, with one cache for each element of the group.

    Args:
        model: a language model such as `models.GPT`, with `vocabulary_size` and `max_length`.
        group: of `word_group`, or a `Product` of such.
        general_ids: tokens of general words, whose partners are not one to one, such as pronouns: they keep
            the logits of `M(x)`, which is the relaxed EquiLM. All other logits stay equal over the group,
            probabilities only up to their common denominator. Defaults to none.
        **kwargs: `name`, `dtype` and `trainable`.

    Input shape: `(batch, length)`, token ids. Output shape: `(batch, length, vocabulary_size)`, logits.

    Raises:
        ValueError: if the group moves no token ids, or a general word; or ids lie outside the vocabulary,
            seen where they have values, as they do eagerly.
        ShapeError: if the group is that of a vocabulary of another size.

    Example:

    >>> import star_keras as sk
    >>> tokenizer = sk.applications.language.WordTokenizer(["the", "king", "duke", "prince", "was"])
    >>> group = sk.applications.language.word_group([["king", "duke", "prince"]], tokenizer)
    >>> model = sk.models.create("gpt", vocabulary_size=tokenizer.size, units=8, num_heads=2)
    >>> fair = EquiLM(model, group)
    >>> about_kings = np.array([tokenizer.encode("the king was the")])
    >>> about_dukes = group.ids.act(1, about_kings)
    >>> bool(np.abs(fair(about_dukes) - group.act(1, fair(about_kings))).max() < 1e-6)
    True

    Reference: Basu et al., "Equi-Tuning" (AAAI 2023), arXiv:2210.06475: EquiGPT2 and R-EquiGPT2.
    """

    def __init__(self, model, group, general_ids=(), **kwargs):
        super().__init__(**kwargs)
        self.model = model
        self.group = group
        self.general_ids = [int(token) for token in general_ids]
        self.vocabulary_size = model.vocabulary_size
        self.max_length = model.max_length
        self._ids = check_group(group, self.vocabulary_size)
        self._is_general = _mask(self.general_ids, self._ids, self.vocabulary_size)

    def build(self, input_shape):
        if not self.model.built:
            self.model.build(input_shape)
        freeze_parts(self)
        self.built = True

    def call(self, token_ids, training=None):
        return self._average(self.model(self._orbit(token_ids), training=training))

    def empty_cache(self, batch_size, length):
        """The caches for texts of at most `length` tokens, one for each element of the group."""
        return self.model.empty_cache(self.group.order * batch_size, length)

    def step(self, token_ids, cache, position):
        """Reads new tokens `(batch, new)` from `position` on; returns `(logits, cache)`.

        Every element of the group reads its own version of the tokens, so that one sample of the logits
        is enough for all.
        """
        logits, cache = self.model.step(self._orbit(token_ids), cache, position)
        return self._average(logits), cache

    def _orbit(self, token_ids):
        return ops.reshape(self._ids.orbit(token_ids), (-1, ops.shape(token_ids)[-1]))

    def _average(self, logits):
        members = ops.reshape(logits, (self.group.order, -1, *ops.shape(logits)[1:]))
        mean = ops.mean(orbits.brought_back(self.group, members), axis=0)
        return ops.where(self._is_general, members[0], mean) if self.general_ids else mean

    def get_config(self):
        return {
            **super().get_config(),
            "model": keras.saving.serialize_keras_object(self.model),
            "group": keras.saving.serialize_keras_object(self.group),
            "general_ids": self.general_ids,
        }

    @classmethod
    def from_config(cls, config):
        parts = {name: keras.saving.deserialize_keras_object(config[name]) for name in ("model", "group")}
        return cls(**{**config, **parts})


def total_variation(model, group, token_ids):
    """How far a model is from treating all groups alike: distances between next-token distributions.

    `sum_v |P(g v | g x) - P(v | x)| / 2` for every element `g` and every text `x`: 0 where the group makes no
    difference, 1 where nothing is shared. It is the greatest difference in probability of any event.

    Args:
        model: a language model.
        group: of `word_group`.
        token_ids: `(batch, length)`, the texts.

    Returns:
        A NumPy array `(order, batch)`, zeros for the identity.

    Raises:
        ValueError: if there are no texts, or ids that are no tokens of the model.
        ShapeError: if the group is that of a vocabulary of another size, or texts differ in length.

    Example:

    >>> import star_keras as sk
    >>> model = sk.models.create("gpt", vocabulary_size=5, units=8, num_heads=2)
    >>> group = sk.groups.VocabularyCycle([[1, 2, 3]], size=5)
    >>> total_variation(model, group, np.array([[0, 1], [4, 0]])).shape
    (3, 2)
    """
    ids = check_group(group, model.vocabulary_size)
    token_ids = check_texts("token_ids", token_ids, model.vocabulary_size)
    expected = _next_token(model, token_ids)
    distances = []
    for element in range(group.order):
        found = _next_token(model, ids.act(element, token_ids))
        sent = ops.convert_to_numpy(ids.act(element, np.arange(model.vocabulary_size, dtype="int32")))
        distances.append(np.abs(found[:, sent] - expected).sum(axis=-1) / 2)
    return np.stack(distances)


def _next_token(model, token_ids):
    logits = model(ops.convert_to_tensor(token_ids), training=False)[:, -1]
    logits = ops.convert_to_numpy(logits).astype("float64")
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def check_group(group, vocabulary_size):
    """The group as it acts on token ids; raises unless it is one of that vocabulary."""
    if not hasattr(group, "ids"):
        raise ValueError(
            "`group` must move token ids: one of `word_group`, a `VocabularyCycle`, a `Permutation` or a "
            f"`Product` of them. Received: group={group!r}"
        )
    if group.sizes != {-1: vocabulary_size}:
        raise ShapeError(
            f"`group` must move the last axis of logits, of size {vocabulary_size} for this model. Received: "
            f"{group!r}. Make it with the tokenizer of the model."
        )
    return group.ids


def _mask(general_ids, ids, size):
    mask = np.zeros(size, "bool")
    for token in general_ids:
        if not 0 <= token < size:
            raise ValueError(f"`general_ids` must lie in 0 .. {size - 1}. Received: {token}")
        if any(int(ids.act(g, np.array(token))) != token for g in range(ids.order)):
            raise ValueError(
                f"A general word must not be moved by the group. Received: token {token}, which is. Leave "
                "it out of the lists of the group, or of `general_ids`."
            )
        mask[token] = True
    return mask
