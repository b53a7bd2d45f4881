"""The classifier whose classes are texts."""

import numbers

import keras
import numpy as np
from keras import layers, ops

from star_keras.applications.zero_shot.encoders import Encoders
from star_keras.applications.zero_shot.prompts import TEMPLATES, class_embeddings, distinct
from star_keras.exceptions import ShapeError
from star_keras.models.image_model import ImageModel
from star_keras.models.trainability import trainability
from star_keras.ops import l2_normalize


@keras.saving.register_keras_serializable(package="star_keras")
class ZeroShotClassifier(ImageModel):
    """A classifier whose classes are texts: scaled cosine similarities of an image with its classes.

    `logits = logit_scale * normalize(image_encoder(images)) @ class_embeddings.T`, in float32

    `from_prompts` makes one; the constructor alone leaves the embeddings of the classes random, to be read
    from a file. They are not trained: fine-tuning moves the image encoder alone.

    Args:
        image_encoder: functional Keras model from images in [0, 255] to embeddings `(batch, units)`.
        class_names: list of distinct names.
        logit_scale: positive factor of the similarities. Defaults to 100.0.
        name, trainable: as for any model.

    Attributes:
        class_embeddings: float32 array `(classes, units)`.

    Input shape: that of the image encoder. Output shape: `(batch, classes)`, float32 logits.

    Raises:
        ValueError: if there are no names, some come twice, or the scale is not positive and finite.
        ShapeError: if the image encoder does not return one vector for each image, or a call's images
            are not of its size.
    """

    def __init__(
        self, image_encoder, class_names, logit_scale=100.0, name="zero_shot_classifier", trainable=True
    ):
        names = distinct("class_names", class_names)
        if not isinstance(logit_scale, numbers.Real) or not 0 < logit_scale < np.inf:
            raise ValueError(
                f"`logit_scale` must be positive and finite. Received: logit_scale={logit_scale!r}"
            )
        shape = getattr(image_encoder, "output_shape", None)
        if not isinstance(shape, tuple) or len(shape) != 2:
            raise ShapeError(
                "`image_encoder` must be a functional Keras model that returns one vector for each image, "
                f"(batch, units). Received: {image_encoder!r} with outputs of shape {shape}"
            )
        images = keras.Input(image_encoder.input_shape[1:], dtype="float32", name="images")
        embedding = UnitLength(dtype="float32", name="embedding")(image_encoder(images))
        similarities = Similarities(len(names), logit_scale, dtype="float32", name="classes")
        super().__init__(inputs=images, outputs=similarities(embedding), name=name, trainable=trainable)
        self.dtype_policy = image_encoder.dtype_policy
        self.image_encoder = image_encoder
        self.class_names = names
        self.logit_scale = float(logit_scale)
        self.minimum_size = getattr(image_encoder, "minimum_size", 1)

    @property
    def class_embeddings(self):
        return ops.convert_to_numpy(self.get_layer("classes").class_embeddings)

    def get_config(self):
        return {
            "image_encoder": keras.saving.serialize_keras_object(self.image_encoder),
            "class_names": self.class_names,
            "logit_scale": self.logit_scale,
            "name": self.name,
            "trainable": trainability(self),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        image_encoder = keras.saving.deserialize_keras_object(
            config["image_encoder"], custom_objects=custom_objects
        )
        return cls(**{**config, "image_encoder": image_encoder})


@keras.saving.register_keras_serializable(package="star_keras")
class UnitLength(layers.Layer):
    """Scales vectors to length one; zero stays zero, with a finite gradient."""

    def call(self, inputs):
        return l2_normalize(inputs)


@keras.saving.register_keras_serializable(package="star_keras")
class Similarities(layers.Layer):
    """`logit_scale * inputs @ class_embeddings.T`, whose class embeddings are not trained."""

    def __init__(self, num_classes, logit_scale, **kwargs):
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.logit_scale = logit_scale

    def build(self, input_shape):
        self.class_embeddings = self.add_weight(
            shape=(self.num_classes, input_shape[-1]),
            initializer="glorot_uniform",
            trainable=False,
            name="class_embeddings",
        )

    def call(self, inputs):
        return self.logit_scale * ops.matmul(inputs, ops.transpose(self.class_embeddings))

    def get_config(self):
        return {**super().get_config(), "num_classes": self.num_classes, "logit_scale": self.logit_scale}


def from_prompts(encoders, class_names, templates=TEMPLATES):
    """A `ZeroShotClassifier` of the classes that prompts describe.

    Args:
        encoders: a `models.DualEncoder`, what `from_keras_hub` returns, or any other `Encoders`.
        class_names: list of distinct names.
        templates: list of distinct prompts in which `{}` stands for the name. Defaults to
            "a photo of a {}.".

    Returns:
        A `ZeroShotClassifier` that shares the image encoder.

    Raises:
        ValueError, NonFiniteError: as `class_embeddings`; ValueError if `encoders` are no encoders.
        ShapeError: if the encoders' embeddings differ in size, or are not one vector for each input.

    Example:

    >>> import star_keras as sk
    >>> encoders = sk.models.create(
    ...     "dual_encoder",
    ...     backbone={"architecture": "resnet20", "input_shape": [32, 32, 3]},
    ...     vocabulary=["a", "photo", "of", "church", "golf", "ball"],
    ... )
    >>> classifier = from_prompts(encoders, ["church", "golf ball"])
    >>> tuple(classifier(np.zeros((3, 32, 32, 3), "uint8")).shape)
    (3, 2)
    """
    missing = [name for name in Encoders._fields if not hasattr(encoders, name)]
    if missing:
        raise ValueError(
            "`encoders` must have `image_encoder`, `encode_texts` and `logit_scale`, as a `DualEncoder` has. "
            f"Received: {encoders!r} without {', '.join(missing)}. Put what you have into `Encoders(...)`."
        )
    embeddings = class_embeddings(encoders.encode_texts, class_names, templates)
    classifier = ZeroShotClassifier(encoders.image_encoder, class_names, encoders.logit_scale)
    units = encoders.image_encoder.output_shape[-1]
    if units != embeddings.shape[1]:
        raise ShapeError(
            "Image and text encoder must embed into one space. Received: embeddings of "
            f"{units} numbers for an image and of {embeddings.shape[1]} for a text. Add a projection to one."
        )
    classifier.get_layer("classes").class_embeddings.assign(embeddings)
    return classifier
