"""A classifier of images that may lie on any side: lambda-equitune around a backbone and its head."""

import keras
from keras import layers

from star_keras.groups import Cyclic
from star_keras.guards.arguments import check_widths
from star_keras.layers.equitune import EquiTune, score_network
from star_keras.models import checks, registry
from star_keras.models.classifier import Classifier, OnBackbone

OPTIONS = {
    "backbone": registry.nested_backbone,
    "hidden_units": checks.widths,
    **registry.HEAD_OPTIONS,
}


@keras.saving.register_keras_serializable(package="star_keras")
class LambdaEquiTune(OnBackbone):
    """A classifier with one answer for all quarter turns of an image, weighing the turns by learned weights.

    With `M` a `Classifier` that ends in logits and `g` the four quarter turns,

        outputs = softmax(sum_g w_g M(g x))        w = softmax_g score(features(g x))

    The score, a small dense network on the backbone's features, learns which way up an image is to be
    read. An image costs four passes of the backbone.

    Args:
        backbone: an image model that ends in features `(batch, features)`, such as a `ResNet`, for
            square images.
        num_classes: number of classes, at least 1.
        hidden_units: widths of the hidden layers of the score. Defaults to `(100,)`.
        classifier_activation: at the end. Defaults to "softmax"; None gives the averaged logits.
        name, trainable: as for any model.

    Attributes:
        equitune: the `EquiTune` inside. `equitune.model` is the classifier of one turn,
            `equitune.score` what ranks the turns, and `equitune.orbit_weights(images)` their weights.

    Input shape: that of the backbone. Output shape: `(batch, num_classes)`, float32.

    Raises:
        ValueError: if `num_classes` or a width is not a positive integer.
        ShapeError: if the backbone takes images of a fixed size that is not square.

    Example:

    >>> import star_keras as sk
    >>> backbone = sk.models.create("resnet20", input_shape=(32, 32, 3))
    >>> classifier = LambdaEquiTune(backbone, num_classes=10)
    >>> images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype="uint8")
    >>> upright, turned = classifier(images), classifier(np.rot90(images, axes=(1, 2)))
    >>> bool(np.abs(upright - turned).max() < 1e-5)
    True

    Reference: Basu et al., "Efficient Equivariant Transfer Learning from Pretrained Models" (NeurIPS
    2023), arXiv:2305.09900, section 3.
    """

    arguments = (*OnBackbone.arguments, "hidden_units")

    def __init__(
        self,
        backbone,
        num_classes,
        hidden_units=(100,),
        classifier_activation="softmax",
        name=None,
        trainable=True,
    ):
        widths = check_widths("hidden_units", hidden_units)
        equitune = EquiTune(
            Classifier(backbone, num_classes, classifier_activation=None, name="one_turn"),
            Cyclic(4),
            weighting="lambda",
            score=score_network(widths),
            features=backbone.layers[-1].name,
            dtype=backbone.dtype_policy,
            name="equitune",
        )
        images = keras.Input(backbone.input_shape[1:], dtype="float32", name="images")
        outputs = layers.Activation(classifier_activation, dtype="float32", name="classifier")(
            equitune(images)
        )
        super().__init__(inputs=images, outputs=outputs, name=name, trainable=trainable)
        self.dtype_policy = backbone.dtype_policy
        self.equitune = equitune
        self.backbone = backbone
        self.num_classes = num_classes
        self.hidden_units = widths
        self.classifier_activation = classifier_activation
        self.minimum_size = getattr(backbone, "minimum_size", 1)


def build(backbone, num_classes, hidden_units=(100,), dtype=None, name=None, **head):
    """A `LambdaEquiTune` from plain data."""
    backbone = registry.create_nested(backbone, dtype=dtype)
    checks.bound_weights((1, (backbone.output_shape[-1], *hidden_units, 1)))
    return LambdaEquiTune(backbone, num_classes, hidden_units, name=name, **head)


def describe(model):
    """The configuration with which `build` makes the model again, or None for another kind."""
    if not isinstance(model, LambdaEquiTune):
        return None
    return {
        "backbone": registry.describe_nested(model.backbone),
        "num_classes": model.num_classes,
        "hidden_units": list(model.hidden_units),
        "classifier_activation": model.classifier_activation,
    }
