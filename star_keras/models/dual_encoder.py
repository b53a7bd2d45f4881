"""Images and texts in one space: an image backbone beside a small text tower, trained by contrast."""

import re

import keras
import numpy as np
from keras import layers, ops

from star_keras.exceptions import ShapeError
from star_keras.guards.pixels import look_at_pixels
from star_keras.models import checks, registry
from star_keras.models.image_model import check_images
from star_keras.models.trainability import set_trainability, trainability
from star_keras.ops import global_mean, l2_normalize, regularization

LOG_MAX_SCALE = float(np.log(100.0))
WORD = re.compile(r"\w+")


def _word(key, value):
    if not isinstance(value, str) or not WORD.fullmatch(value) or len(value) > 64 or value != value.lower():
        raise checks.wrong(key, "a word of at most 64 letters, digits and '_', in lower case", value)
    return value


OPTIONS = {
    "backbone": registry.nested_backbone,
    "vocabulary": checks.sequence(_word, 1, 2**16),
    "embedding_units": checks.integer(1, 4096),
    "word_units": checks.integer(1, 4096),
}


@keras.saving.register_keras_serializable(package="star_keras")
class DualEncoder(keras.Model):
    """A backbone for images and a small tower for texts, trained by contrast as CLIP is.

    `compile` and `fit` do it. With `v_i` and `t_i` the embeddings of image and text of pair `i`, of length
    one, and `s` a learned scale of at most 100,

        logits_ij = s * v_i @ t_j
        loss = mean_i (H(p_i, softmax_j(logits_ij)) + H(p_i, softmax_j(logits_ji))) / 2

    where `H` is the cross-entropy and `p_i` is spread evenly over the pairs that have the label of pair `i`:
    two photographs of a church are not each other's opposites. Without labels each pair stands for itself.

    The text tower averages the embeddings of words: `dense(relu(dense(mean_w e_w)))`. It does not see their
    order, knows no word but its own, and needs no package; for the language of the web take keras-hub's
    CLIP by `applications.zero_shot.from_keras_hub`.

    Args:
        backbone: an image model that ends in features `(batch, features)`, such as a `ResNet`.
        vocabulary: list of distinct words in lower case, such as `DualEncoder.words(texts)`.
        embedding_units: width of the common space. Defaults to 64.
        word_units: width of the words and of the hidden layer behind them. Defaults to 64.
        **kwargs: `name`, `dtype` and `trainable`.

    Attributes:
        image_encoder: the model from images to embeddings `(batch, embedding_units)`.
        text_encoder: the model from token ids `(batch, length)`, padded with 0, to such embeddings.
        logit_scale: `s`, a float.

    Call arguments:
        inputs: dict of `images`, `(batch, height, width, 3)` in [0, 255], and `token_ids` of `tokenize`. To
            `fit` they are pairs; `y`, if given, holds one integer label for each.

    Returns:
        A dict of `images` and `texts`, float32 embeddings `(batch, embedding_units)` of length one.

    Contrasts are those of one replica's batch.

    Raises:
        ConfigError: if an argument is of the wrong type or out of bounds, or all come to more than 2**28
            weights.
        ValueError: if words come twice.
        ShapeError: if images are not those that the backbone takes, or labels are not one number for each
            pair.

    Example:

    >>> import star_keras as sk
    >>> texts = ["a church", "a golf ball", "a church", "a gas pump"]
    >>> model = DualEncoder(
    ...     sk.models.create("resnet20", input_shape=(32, 32, 3)), vocabulary=DualEncoder.words(texts)
    ... )
    >>> model.compile("adam")
    >>> pairs = {"images": np.zeros((4, 32, 32, 3), "uint8"), "token_ids": model.tokenize(texts)}
    >>> history = model.fit(pairs, np.array([0, 1, 0, 2]), verbose=0)
    >>> tuple(model.encode_texts(["a golf ball"]).shape)
    (1, 64)

    Reference: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (ICML
    2021), arXiv:2103.00020, section 2.3; labels as in Yang et al., "Unified Contrastive Learning in
    Image-Text-Label Space" (CVPR 2022), arXiv:2204.03610, section 3.2.
    """

    def __init__(
        self, backbone, vocabulary, embedding_units=64, word_units=64, dtype=None, trainable=True, **kwargs
    ):
        sizes = {"embedding_units": embedding_units, "word_units": word_units}
        checks.validate({"vocabulary": vocabulary, **sizes}, OPTIONS)
        if len(set(vocabulary)) < len(vocabulary):
            twice = next(word for word in vocabulary if list(vocabulary).count(word) > 1)
            raise ValueError(f"`vocabulary` must hold each word once. Received: {twice!r} more than once.")
        checks.bound_weights(
            (1, (len(vocabulary) + 1, word_units, word_units, embedding_units)),
            (1, (backbone.output_shape[-1], embedding_units)),
        )
        super().__init__(dtype=checks.float_policy(dtype), autocast=False, **kwargs)
        self.backbone = backbone
        self.vocabulary = list(vocabulary)
        self.embedding_units = embedding_units
        self.word_units = word_units
        self.image_encoder = self._make_image_encoder()
        self.text_encoder = self._make_text_encoder()
        self.log_scale = self.add_weight(
            shape=(),
            initializer=keras.initializers.Constant(np.log(1 / 0.07)),
            constraint=_AtMost(LOG_MAX_SCALE),
            dtype="float32",
            name="log_scale",
        )
        self.built = True
        set_trainability(self, trainable)

    def _make_image_encoder(self):
        project = layers.Dense(self.embedding_units, use_bias=False, dtype="float32", name="projection")
        return keras.Model(self.backbone.input, project(self.backbone.output), name="image_encoder")

    def _make_text_encoder(self):
        token_ids = keras.Input((None,), dtype="int32", name="token_ids")
        size = len(self.vocabulary) + 1
        words = layers.Embedding(size, self.word_units, dtype="float32", name="words")(token_ids)
        known = ops.expand_dims(ops.cast(token_ids > 0, "float32"), -1)
        mean = ops.sum(words * known, axis=1) / ops.maximum(ops.sum(known, axis=1), 1.0)
        hidden = layers.Dense(self.word_units, activation="relu", dtype="float32", name="hidden")(mean)
        project = layers.Dense(self.embedding_units, use_bias=False, dtype="float32", name="projection")
        return keras.Model(token_ids, project(hidden), name="text_encoder")

    def build(self, input_shape):
        self.built = True

    @property
    def logit_scale(self):
        return float(ops.convert_to_numpy(self._scale()))

    @staticmethod
    def words(texts):
        """The distinct words of texts in alphabetical order, a vocabulary that holds them all."""
        return sorted({word for text in texts for word in WORD.findall(text.lower())})

    def tokenize(self, texts):
        """Numbers the words of texts, from 1 on; texts are padded with 0 to the longest.

        Args:
            texts: list of strings. Capitals and punctuation do not matter.

        Returns:
            An int32 array `(texts, words)`.

        Raises:
            ValueError: if a text has no words, or one that is not in the vocabulary.
        """
        ids = {word: number for number, word in enumerate(self.vocabulary, start=1)}
        rows = []
        for text in texts:
            words = WORD.findall(text.lower())
            unknown = [word for word in words if word not in ids]
            if unknown or not words:
                what = f"{unknown[0]!r} in {text!r}" if unknown else f"{text!r}"
                raise ValueError(
                    f"Texts must be made of the {len(ids)} words of `vocabulary`. Received: {what}. Make the "
                    "model with a vocabulary that has them, such as `DualEncoder.words(texts)`."
                )
            rows.append([ids[word] for word in words])
        length = max(map(len, rows), default=0)
        return np.array([row + [0] * (length - len(row)) for row in rows], "int32").reshape(len(rows), length)

    def encode_texts(self, texts):
        """Embeddings of texts `(texts, embedding_units)`, of any length; errors are those of `tokenize`."""
        return self.text_encoder(self.tokenize(texts), training=False)

    def call(self, inputs, training=None):
        images = inputs["images"]
        check_images(images.shape, self.image_encoder.input_shape, getattr(self.backbone, "minimum_size", 1))
        if not training:
            look_at_pixels(images)
        return {
            "images": l2_normalize(self.image_encoder(ops.cast(images, "float32"), training=training)),
            "texts": l2_normalize(self.text_encoder(inputs["token_ids"], training=training)),
        }

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if sample_weight is not None:
            raise ValueError(
                "Contrastive losses compare all pairs of a batch and take no weight per pair. "
                "Received: `sample_weight`; leave it out of `fit`."
            )
        if y is not None:
            _check_labels(tuple(y.shape))
        logits = self._scale() * ops.matmul(y_pred["images"], ops.transpose(y_pred["texts"]))
        labels = ops.arange(ops.shape(logits)[0]) if y is None else ops.reshape(y, (-1,))
        alike = ops.cast(ops.expand_dims(labels, 1) == ops.expand_dims(labels, 0), "float32")
        targets = alike / ops.sum(alike, axis=1, keepdims=True)
        rows = _cross_entropies(targets, logits) + _cross_entropies(targets, ops.transpose(logits))
        return global_mean(rows / 2) + regularization(self)

    def _scale(self):
        return ops.exp(ops.minimum(ops.convert_to_tensor(self.log_scale), LOG_MAX_SCALE))

    def get_config(self):
        return {
            **super().get_config(),
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            "vocabulary": self.vocabulary,
            "embedding_units": self.embedding_units,
            "word_units": self.word_units,
            "trainable": trainability(self),
        }

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "backbone": keras.saving.deserialize_keras_object(config["backbone"])})


def _cross_entropies(targets, logits):
    return -ops.sum(targets * ops.log_softmax(logits, axis=1), axis=1)


def _check_labels(shape):
    if len(shape) not in (1, 2) or shape[1:] not in ((), (1,)):
        raise ShapeError(
            "Labels must be one whole number for each pair, of shape (batch,) or (batch, 1). Received: shape "
            f"{shape}. Turn one-hot labels into numbers by `np.argmax(labels, axis=-1)`."
        )


class _AtMost(keras.constraints.Constraint):
    """Keeps a number below a bound after each step, where its gradient would be zero beyond."""

    def __init__(self, bound):
        self.bound = bound

    def __call__(self, w):
        return ops.minimum(w, self.bound)


def build(backbone, dtype=None, name=None, **sizes):
    """A `DualEncoder` from plain data."""
    return DualEncoder(registry.create_nested(backbone, dtype=dtype), dtype=dtype, name=name, **sizes)


def describe(model):
    """The configuration with which `build` makes the model again, or None for another kind."""
    if not isinstance(model, DualEncoder):
        return None
    sizes = {key: getattr(model, key) for key in ("vocabulary", "embedding_units", "word_units")}
    return {"backbone": registry.describe_nested(model.backbone), **sizes}
