"""A head on a backbone."""

import keras
from keras import layers

from star_keras.exceptions import ShapeError
from star_keras.guards.arguments import check_count
from star_keras.layers.initialization import torch_kernel
from star_keras.models import checks
from star_keras.models.image_model import ImageModel
from star_keras.models.trainability import trainability


class OnBackbone(ImageModel):
    """A model around a backbone that is made from it and from plain arguments.

    Attributes:
        arguments: names of the plain arguments of the constructor, each an attribute.
    """

    arguments = ("num_classes", "classifier_activation")

    def get_config(self):
        return {
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            **{name: getattr(self, name) for name in self.arguments},
            "name": self.name,
            "trainable": trainability(self),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        backbone = keras.saving.deserialize_keras_object(config["backbone"], custom_objects=custom_objects)
        return cls(**{**config, "backbone": backbone})


@keras.saving.register_keras_serializable(package="star_keras")
class Classifier(OnBackbone):
    """A backbone with a dense head, ready for `compile` and `fit`.

    `outputs = softmax(features @ kernel + bias)`, in float32 whatever the policy. The backbone's layers
    are this model's own layers, so that every one of them can be reached by name.

    Args:
        backbone: an image model that ends in features `(batch, features)`, such as a `ResNet`.
        num_classes: number of classes, at least 1.
        classifier_activation: of the head. Defaults to "softmax"; None gives logits.
        name, trainable: as for any model.

    Attributes:
        backbone: the backbone; freeze it with `classifier.backbone.trainable = False`, thaw it with `True`.

    Input shape: that of the backbone. Output shape: `(batch, num_classes)`, float32.

    Raises:
        ValueError: if `num_classes` is not a positive integer.
        ShapeError: if the backbone ends in something else than features.
        ConfigError: if the head would have more than 2**28 weights.

    Example:

    >>> import star_keras as sk
    >>> classifier = Classifier(sk.models.create("resnet20", input_shape=(32, 32, 3)), num_classes=10)
    >>> classifier.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    >>> classifier.output_shape
    (None, 10)
    """

    def __init__(self, backbone, num_classes, classifier_activation="softmax", name=None, trainable=True):
        num_classes = check_count("num_classes", num_classes)
        if len(backbone.output_shape) != 2:
            raise ShapeError(
                "`backbone` must end in features (batch, features). Received: outputs of shape "
                f"{backbone.output_shape}; end it with `GlobalAveragePooling2D`."
            )
        checks.bound_weights((1, (backbone.output_shape[-1], num_classes)))
        head = layers.Dense(
            num_classes,
            activation=classifier_activation,
            kernel_initializer=torch_kernel(),
            dtype="float32",
            name="classifier",
        )
        super().__init__(inputs=backbone.input, outputs=head(backbone.output), name=name, trainable=trainable)
        self.dtype_policy = backbone.dtype_policy
        self.backbone = backbone
        self.num_classes = num_classes
        self.classifier_activation = classifier_activation
        self.minimum_size = getattr(backbone, "minimum_size", 1)
