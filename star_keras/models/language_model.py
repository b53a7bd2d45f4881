"""A small GPT-2: next-token logits for whole texts at once, or token by token with a cache."""

import keras
from keras import layers, ops

from star_keras.exceptions import ConfigError, ShapeError
from star_keras.guards.arguments import check_ids, is_whole
from star_keras.models import checks
from star_keras.models.trainability import set_trainability, trainability

EPSILON = 1e-5
_WIDTH = checks.integer(1, 65_536)
OPTIONS = {
    "vocabulary_size": checks.integer(2, 1_000_000),
    "max_length": _WIDTH,
    "units": _WIDTH,
    "num_layers": checks.integer(1, 256),
    "num_heads": checks.integer(1, 1024),
    "hidden_units": checks.optional(checks.integer(1, 262_144)),
    "dropout": checks.number(0, 0.99),
}
MAX_WEIGHTS = 2**31


@keras.saving.register_keras_serializable(package="star_keras")
class GPT(keras.Model):
    """A decoder-only transformer in the shape of GPT-2, for any vocabulary.

    Token embeddings and learned positions, `num_layers` blocks of causal attention and a GELU network, each
    behind a layer normalisation and added to its input, a last layer normalisation, and logits by the
    transposed embedding matrix:

        x <- x + attention(norm(x))        x <- x + dense(gelu(dense(norm(x))))

    Whole texts go through a call; `step` decodes: it reads new tokens only, and keeps keys and values of
    earlier ones in a cache of a fixed size.

    Args:
        vocabulary_size: number of tokens.
        max_length: most tokens of a text, the context. Defaults to 64.
        units: width. Defaults to 128.
        num_layers, num_heads: blocks, and heads of attention; the heads share `units`. Default to 2 and 4.
        hidden_units: width inside the GELU networks. Defaults to None, four times `units`.
        dropout: share of embeddings and of what blocks add that is dropped in training. Defaults to 0.
        dtype: a dtype or dtype policy; `None` for the global one.
        **kwargs: `name`, `trainable`.

    Input shape: `(batch, length)`, integer ids, `length` at most `max_length`.
    Output shape: `(batch, length, vocabulary_size)`, logits of the token that follows each,
    float32 (float64 for float64 models).

    Raises:
        ConfigError: if an argument is of the wrong type or out of bounds, or heads do not divide `units`.
        ShapeError: if a text is longer than the context.
        ValueError: if ids lie outside the vocabulary; seen where they have values, as they do eagerly.

    Example:

    >>> model = GPT(vocabulary_size=50, max_length=16, units=8, num_heads=2)
    >>> ids = np.array([[3, 14, 15]])
    >>> tuple(model(ids).shape)
    (1, 3, 50)
    >>> cache = model.empty_cache(batch_size=1, length=16)
    >>> last, cache = model.step(ids, cache, position=0)
    >>> bool(np.abs(last - model(ids)[:, -1]).max() < 1e-5)
    True

    Reference: Radford et al., "Language Models are Unsupervised Multitask Learners" (2019), section 2.3.
    """

    def __init__(
        self,
        vocabulary_size,
        max_length=64,
        units=128,
        num_layers=2,
        num_heads=4,
        hidden_units=None,
        dropout=0.0,
        dtype=None,
        name="gpt",
        trainable=True,
        **kwargs,
    ):
        arguments = {
            "vocabulary_size": vocabulary_size,
            "max_length": max_length,
            "units": units,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "hidden_units": hidden_units,
            "dropout": dropout,
        }
        arguments = checks.validate(arguments, OPTIONS)
        _check_sizes(**arguments)
        super().__init__(dtype=checks.float_policy(dtype), name=name, **kwargs)
        self.arguments = arguments
        for key, value in arguments.items():
            setattr(self, key, value)
        self.logits_dtype = "float64" if self.compute_dtype == "float64" else "float32"
        options = {"dtype": self.dtype_policy}
        self.token_embedding = layers.ReversibleEmbedding(
            vocabulary_size,
            units,
            embeddings_initializer=_normal(),
            reverse_dtype=self.logits_dtype,
            name="token_embedding",
            **options,
        )
        self.position_embedding = layers.Embedding(
            max_length, units, embeddings_initializer=_normal(), name="position_embedding", **options
        )
        self.embedding_dropout = layers.Dropout(dropout, name="embedding_dropout", **options)
        self.blocks = [
            Block(units, num_heads, hidden_units or 4 * units, dropout, name=f"block_{number}", **options)
            for number in range(num_layers)
        ]
        self.norm = layers.LayerNormalization(epsilon=EPSILON, name="norm", **options)
        self.build((None, None))
        set_trainability(self, trainable)

    def build(self, input_shape):
        if self.built:
            return
        embedded = (*input_shape, self.units)
        self.token_embedding.build(input_shape)
        self.position_embedding.build(input_shape)
        for block in self.blocks:
            block.build(embedded)
        self.norm.build(embedded)
        self.built = True

    def call(self, token_ids, training=None):
        x = self._embed(token_ids, position=0, training=training)
        for block in self.blocks:
            x, _ = block(x, training=training)
        return self._logits(x)

    def empty_cache(self, batch_size, length):
        """A cache for texts of at most `length` tokens: keys and values `(batch, length, heads, size)` of
        every block.

        Raises:
            ShapeError: if `length` is more than `max_length`.
        """
        self._check_length(length)
        shape = (batch_size, length, self.num_heads, self.units // self.num_heads)
        return [[ops.zeros(shape, dtype=self.compute_dtype) for _ in range(2)] for _ in self.blocks]

    def step(self, token_ids, cache, position):
        """Reads the next tokens of texts whose earlier ones are in the cache.

        Args:
            token_ids: `(batch, new)`.
            cache: of `empty_cache`, or of the last step.
            position: of the first new token, a number or an integer tensor; what the cache holds from there
                on is overwritten.

        Returns:
            `(logits, cache)`: logits `(batch, vocabulary_size)` after the last token, and the cache with the
            new tokens.

        Raises:
            ShapeError: if the cache has no room for them, as far as `position` is known beforehand.
            ValueError: if `position` is a negative number or no whole one, or as in a call.
        """
        position = _checked_position(position, token_ids.shape[-1], room=cache[0][0].shape[1])
        x = self._embed(token_ids, position)
        new_cache = []
        for block, held in zip(self.blocks, cache, strict=True):
            x, held = block(x, cache=held, position=position, training=False)
            new_cache.append(held)
        return self._logits(x[:, -1]), new_cache

    def _embed(self, token_ids, position, training=False):
        self._check_length(token_ids.shape[-1])
        check_ids("token_ids", token_ids, self.vocabulary_size)
        positions = position + ops.arange(ops.shape(token_ids)[-1], dtype="int32")
        x = self.token_embedding(token_ids) + self.position_embedding(positions)
        return self.embedding_dropout(x, training=training)

    def _logits(self, x):
        return ops.cast(self.token_embedding(self.norm(x), reverse=True), self.logits_dtype)

    def _check_length(self, length):
        if isinstance(length, int) and length > self.max_length:
            raise ShapeError(
                f"The context of the model is max_length={self.max_length} tokens. Received: {length} "
                "tokens. Shorten the text, or make the model with a greater `max_length`."
            )

    def compute_output_shape(self, input_shape):
        return (*input_shape, self.vocabulary_size)

    def compute_output_spec(self, token_ids, training=None):
        return keras.KerasTensor(self.compute_output_shape(token_ids.shape), self.logits_dtype)

    def get_config(self):
        return {
            **self.arguments,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "name": self.name,
            "trainable": trainability(self),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return cls(**config)


class Block(layers.Layer):
    """Causal attention and a GELU network, each behind a layer normalisation and added to its input.

    A call gives `(outputs, cache)`: with `cache`, keys and values of earlier tokens are those it holds, and
    new ones are written at `position`.
    """

    def __init__(self, units, num_heads, hidden_units, dropout, **kwargs):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        options = {"dtype": self.dtype_policy}
        dense = {"kernel_initializer": _normal(), **options}
        self.attention_norm = layers.LayerNormalization(epsilon=EPSILON, **options)
        self.queries_keys_values = layers.Dense(3 * units, **dense)
        self.attention_output = layers.Dense(units, **dense)
        self.norm = layers.LayerNormalization(epsilon=EPSILON, **options)
        self.hidden = layers.Dense(hidden_units, activation=_gelu, **dense)
        self.output_dense = layers.Dense(units, **dense)
        self.dropout = layers.Dropout(dropout, **options)

    def build(self, input_shape):
        for layer in (
            self.attention_norm,
            self.queries_keys_values,
            self.attention_output,
            self.norm,
            self.hidden,
        ):
            layer.build(input_shape)
        self.output_dense.build((*input_shape[:-1], self.hidden.units))

    def call(self, x, cache=None, position=0, training=None):
        attended, cache = self._attend(self.attention_norm(x), cache, position)
        x = x + self.dropout(self.attention_output(attended), training=training)
        hidden = self.output_dense(self.hidden(self.norm(x)))
        return x + self.dropout(hidden, training=training), cache

    def _attend(self, x, cache, position):
        queries, keys, values = (self._heads(part) for part in ops.split(self.queries_keys_values(x), 3, -1))
        if cache is not None:
            start = (0, position, 0, 0)
            cache = [
                ops.slice_update(held, start, new) for held, new in zip(cache, (keys, values), strict=True)
            ]
            keys, values = cache
        own = position + ops.arange(ops.shape(queries)[1], dtype="int32")
        others = ops.arange(ops.shape(keys)[1], dtype="int32")
        not_later = ops.expand_dims(others, 0) <= ops.expand_dims(own, 1)
        attended = ops.dot_product_attention(queries, keys, values, mask=not_later[None, None])
        return ops.reshape(attended, ops.shape(x)), cache

    def _heads(self, x):
        batch, length, units = ops.shape(x)
        return ops.reshape(x, (batch, length, self.num_heads, units // self.num_heads))


def describe(model):
    """The configuration of a `GPT`, or None for another model."""
    return dict(model.arguments) if isinstance(model, GPT) else None


def _checked_position(position, new, room):
    """A position as an int, a tensor as it is; raises unless a number leaves room for new tokens."""
    if ops.is_tensor(position):
        return position
    if not is_whole(position) or position < 0:
        raise ValueError(
            "`position` must be a whole number of at least 0, or an integer tensor. Received: "
            f"position={position!r}"
        )
    if isinstance(new, int) and position + new > room:
        raise ShapeError(
            f"The cache holds {room} tokens. Received: {new} more at position {position}. Make it by "
            "`empty_cache` for as many as will be read."
        )
    return int(position)


def _gelu(x):
    return ops.gelu(x, approximate=True)


def _normal():
    return keras.initializers.RandomNormal(stddev=0.02)


def _check_sizes(vocabulary_size, max_length, units, num_layers, num_heads, hidden_units, dropout):
    """Raises ConfigError unless heads share the units, and weights are of a size that fits, all together."""
    if units % num_heads:
        raise ConfigError(f"`num_heads` must divide `units`. Received: units={units}, num_heads={num_heads}.")
    checks.bound_weights(
        (1, (vocabulary_size, units)),
        (1, (max_length, units)),
        (4 * num_layers, (units, units)),
        (num_layers, (units, hidden_units or 4 * units, units)),
        most=MAX_WEIGHTS,
    )
