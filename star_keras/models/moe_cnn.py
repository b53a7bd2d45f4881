"""A small convolutional network that ends in a mixture of experts."""

import math

import keras
from keras import layers

from star_keras.exceptions import ShapeError
from star_keras.layers.routed_experts import RoutedExperts
from star_keras.models import checks
from star_keras.models.image_model import ImageModel
from star_keras.models.trainability import trainability

# (filters, kernel size) of the convolutions, all of stride 2 between borders of one pixel
CONVOLUTIONS = ((64, 8), (128, 6))
MINIMUM_SIZE = 12
OPTIONS = {
    "input_shape": checks.image_shape,
    "num_classes": checks.integer(1, 100_000),
    "num_experts": checks.integer(1, 1024),
    "code_units": checks.integer(1, 65_536),
    "hidden_units": checks.widths,
    "router_units": checks.widths,
    "top_k": checks.optional(checks.integer(1, 1024)),
    "classifier_activation": checks.choice("softmax", "sigmoid", None),
}


@keras.saving.register_keras_serializable(package="star_keras")
class MoECNN(ImageModel):
    """A classifier of small images: two convolutions, a code, and experts whose logits are mixed.

    `outputs = softmax(sum_e(gates[e] * experts[e](code)))`, the softmax in float32 whatever the policy, of
    logits that a mixed policy rounds. All experts and their router see the code alone. Sizes are those the
    authors of the mixture used in earlier work; the paper's own are not known, so this is our reading.
    Preprocessing is inside: `x / 255`.

    | layer | output for 32 x 32 pixels |
    |---|---|
    | `conv_1`: 64 filters 8 x 8, stride 2, ReLU | `(14, 14, 64)` |
    | `conv_2`: 128 filters 6 x 6, stride 2, ReLU | `(6, 6, 128)` |
    | `code`: dense, ReLU | `(50,)` |
    | `experts`: `RoutedExperts` of logits | `(num_classes,)` |

    Args:
        num_classes: number of classes.
        num_experts: number of experts. Defaults to 5.
        input_shape: `(height, width, 3)`, sides of at least 12 pixels. Defaults to `(32, 32, 3)`. Grey
            images are made to fit by `data.to_rgb`.
        code_units: width of the code. Defaults to 50.
        hidden_units: widths of the hidden layers of each expert. Defaults to `(100,)`.
        router_units: widths of the hidden layers of the router. Defaults to `(100,)`.
        top_k: number of experts kept for each image. Defaults to `None`, all.
        classifier_activation: at the end. Defaults to "softmax"; `None` gives logits.
        dtype: a dtype or dtype policy; `None` for the global one.
        name, trainable: as for any model.

    Input shape: `(batch, height, width, 3)`, uint8 or float in [0, 255].
    Output shape: `(batch, num_classes)`, float32.

    Raises:
        ConfigError: if an argument is of the wrong type or out of bounds.
        ShapeError: if the images are too small, or a call's images are no images of `input_shape`.
        ValueError: if `top_k` is greater than `num_experts`.

    Example:

    >>> model = MoECNN(num_classes=10, num_experts=3, input_shape=(28, 28, 3))
    >>> tuple(model(np.zeros((2, 28, 28, 3), "uint8")).shape)
    (2, 10)
    >>> tuple(model.get_layer("experts").route(np.ones((2, 50), "float32")).shape)
    (2, 3)

    Reference: Agarap and Azcarraga, "Mixture of Experts with Soft Nearest Neighbor Loss" (2026),
    arXiv:2603.26734.
    """

    def __init__(
        self,
        num_classes,
        num_experts=5,
        input_shape=(32, 32, 3),
        code_units=50,
        hidden_units=(100,),
        router_units=(100,),
        top_k=None,
        classifier_activation="softmax",
        dtype=None,
        name="moe_cnn",
        trainable=True,
    ):
        arguments = {
            "num_classes": num_classes,
            "num_experts": num_experts,
            "input_shape": input_shape,
            "code_units": code_units,
            "hidden_units": hidden_units,
            "router_units": router_units,
            "top_k": top_k,
            "classifier_activation": classifier_activation,
        }
        checks.validate(arguments, OPTIONS)
        _check_size(input_shape)
        flat = CONVOLUTIONS[-1][0] * math.ceil(input_shape[0] / 4) * math.ceil(input_shape[1] / 4)
        checks.bound_weights(
            (1, (flat, code_units)),
            (num_experts, (code_units, *hidden_units, num_classes)),
            (int(num_experts > 1), (code_units, *router_units, num_experts)),
        )
        policy = checks.float_policy(dtype)
        images = keras.Input(tuple(input_shape), dtype="float32", name="images")
        maps = _convolved(images, policy)
        code = layers.Dense(
            code_units, activation="relu", kernel_initializer="he_normal", dtype=policy, name="code"
        )(maps)
        logits = RoutedExperts(
            num_classes,
            num_experts,
            hidden_units=hidden_units,
            router_units=router_units,
            batch_norm=False,
            top_k=top_k,
            kernel_initializer="he_normal",
            bias_initializer="zeros",
            dtype=policy,
            name="experts",
        )(code)
        outputs = layers.Activation(classifier_activation, dtype="float32", name="classifier")(logits)
        super().__init__(inputs=images, outputs=outputs, name=name, trainable=trainable)
        self.dtype_policy = policy
        self.arguments = arguments
        self.minimum_size = MINIMUM_SIZE

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


def _check_size(input_shape):
    if any(side is None or side < MINIMUM_SIZE for side in input_shape[:2]):
        raise ShapeError(
            f"moe_cnn needs images of a fixed size of at least {MINIMUM_SIZE} pixels a side. "
            f"Received: input_shape={tuple(input_shape)}. Resize the images."
        )


def _convolved(images, policy):
    """What the convolutions make of images in [0, 255], flat."""
    x = layers.Rescaling(1 / 255, dtype="float32", name="preprocessing")(images)
    for number, (filters, size) in enumerate(CONVOLUTIONS, start=1):
        padding = f"conv_{number}_padding"
        x = layers.ZeroPadding2D(1, data_format="channels_last", dtype=policy, name=padding)(x)
        x = layers.Conv2D(
            filters,
            size,
            strides=2,
            activation="relu",
            kernel_initializer="he_normal",
            data_format="channels_last",
            dtype=policy,
            name=f"conv_{number}",
        )(x)
    return layers.Flatten(data_format="channels_last", dtype=policy, name="flatten")(x)


def describe(model):
    """The configuration of a `MoECNN`, or None for another model."""
    if not isinstance(model, MoECNN):
        return None
    return {key: checks.plain(value) for key, value in model.arguments.items()}
