"""Residual networks, one table of variants over one construction."""

import keras
from keras import layers, ops

from star_keras.exceptions import ShapeError
from star_keras.layers.batch_normalization import BatchNormalization
from star_keras.layers.convolution import Conv2D
from star_keras.layers.initialization import torch_kernel
from star_keras.models import checks
from star_keras.models.image_model import ImageModel
from star_keras.models.trainability import trainability

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# name: (block, blocks per stage, widths of the stages, shortcut, stem where the size is open)
VARIANTS = {
    "resnet18": ("basic", (2, 2, 2, 2), (64, 128, 256, 512), "projected", "imagenet"),
    "resnet34": ("basic", (3, 4, 6, 3), (64, 128, 256, 512), "projected", "imagenet"),
    "resnet50": ("bottleneck", (3, 4, 6, 3), (64, 128, 256, 512), "projected", "imagenet"),
    "resnet20": ("basic", (3, 3, 3), (16, 32, 64), "padded", "cifar"),
    "resnet32": ("basic", (5, 5, 5), (16, 32, 64), "padded", "cifar"),
    "resnet56": ("basic", (9, 9, 9), (16, 32, 64), "padded", "cifar"),
}
STEM_STRIDES = {"cifar": 1, "strided": 2, "imagenet": 4}
EXPANSION = {"basic": 1, "bottleneck": 4}
OPTIONS = {
    "input_shape": checks.image_shape,
    "stem": checks.choice("auto", *STEM_STRIDES),
    "zero_init_residual": checks.boolean,
    "mean": checks.sequence(checks.number(0, 1), 3, 3),
    "std": checks.sequence(checks.number(1e-3, 1e3), 3, 3),
}


@keras.saving.register_keras_serializable(package="star_keras")
class ResNet(ImageModel):
    """A residual network from images to features.

    Each block adds what its convolutions compute to a shortcut, `outputs = relu(shortcut(x) + f(x))`;
    the features are the averages of the last block's maps. Preprocessing is inside:
    `(x / 255 - mean) / std`.

    Args:
        architecture: "resnet18", "resnet34" (two 3x3 convolutions a block, widths 64 to 512),
            "resnet50" (1x1, 3x3, 1x1, with the stride in the 3x3: the "v1.5" of the peers), or the
            narrow "resnet20", "resnet32", "resnet56" of CIFAR (widths 16, 32, 64, shortcuts without
            parameters).
        input_shape: `(height, width, 3)`; None for a height or width that may vary.
        stem: "cifar" (3x3), "strided" (3x3, stride 2), "imagenet" (7x7, stride 2, then a 3x3 max
            pool of stride 2), or "auto": "cifar" where the shorter side has at most 48 pixels, else
            "imagenet"; with an open size, what the architecture was published with.
        zero_init_residual: whether the last scale of each block starts at 0, so that the block starts
            as its shortcut; except where the shortcut pads with zeros. Defaults to True.
        mean, std: of the pixels divided by 255, one number for each of red, green and blue.
        dtype: a dtype or dtype policy; None for the global one. Preprocessing, batch statistics and
            the features are float32 whatever the policy.
        name, trainable: as for any model.

    Attributes:
        pyramid: the last maps of each stage by level, `{"P3": of stride 8, ...}`, so that
            `keras.Model(backbone.input, backbone.pyramid)` is a feature extractor.
        minimum_size: the smallest side of an image, in pixels: the total stride.

    Input shape: `(batch, height, width, 3)`, uint8 or float in [0, 255].
    Output shape: `(batch, features)`, float32; 64, 512 or 2048 features.

    Raises:
        ConfigError: if an argument is of the wrong type or out of bounds.
        ShapeError: if `input_shape` is smaller than the total stride, or a call's images are no images
            of it.

    Example:

    >>> backbone = ResNet("resnet20", input_shape=(32, 32, 3))
    >>> tuple(backbone(np.zeros((2, 32, 32, 3), "uint8")).shape)
    (2, 64)
    >>> sorted(backbone.pyramid)
    ['P0', 'P1', 'P2']

    Reference: He et al., "Deep Residual Learning for Image Recognition" (2016), sections 3 and 4.2;
    initialisation as in STAR (2025).
    """

    def __init__(
        self,
        architecture="resnet18",
        input_shape=(None, None, 3),
        stem="auto",
        zero_init_residual=True,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        dtype=None,
        name=None,
        trainable=True,
    ):
        if architecture not in VARIANTS:
            raise ValueError(
                f"`architecture` must be one of {', '.join(VARIANTS)}. "
                f"Received: architecture={architecture!r}"
            )
        arguments = {
            "input_shape": input_shape,
            "stem": stem,
            "zero_init_residual": zero_init_residual,
            "mean": mean,
            "std": std,
        }
        checks.validate(arguments, OPTIONS)
        input_shape = tuple(input_shape)
        block, repeats, widths, shortcut, home_stem = VARIANTS[architecture]
        chosen = _choose_stem(input_shape, home_stem) if stem == "auto" else stem
        minimum_size = STEM_STRIDES[chosen] * 2 ** (len(widths) - 1)
        if any(side is not None and side < minimum_size for side in input_shape[:2]):
            raise ShapeError(
                f"{architecture} with the {chosen!r} stem needs at least {minimum_size} pixels a side. "
                f"Received: input_shape={input_shape}. Use larger images or a stem with a smaller stride."
            )

        parts = _Parts(checks.float_policy(dtype), zero_init_residual)
        images = keras.Input(input_shape, dtype="float32", name="images")
        x = layers.Normalization(
            axis=-1,
            mean=[255 * value for value in mean],
            variance=[(255 * value) ** 2 for value in std],
            dtype="float32",
            name="preprocessing",
        )(images)
        x = parts.stem(x, chosen, widths[0])
        pyramid, stride = {}, STEM_STRIDES[chosen]
        for stage, (count, width) in enumerate(zip(repeats, widths, strict=True), start=1):
            for number in range(1, count + 1):
                strides = 2 if stage > 1 and number == 1 else 1
                x = parts.block(x, block, width, strides, shortcut, f"stage{stage}_block{number}")
                stride *= strides
            pyramid[f"P{stride.bit_length() - 1}"] = x
        features = layers.GlobalAveragePooling2D(
            data_format="channels_last", dtype="float32", name="features"
        )(x)
        super().__init__(inputs=images, outputs=features, name=name or architecture, trainable=trainable)

        self.dtype_policy = parts.dtype
        self.architecture = architecture
        self.image_shape = input_shape
        self.stem = stem
        self.zero_init_residual = zero_init_residual
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.minimum_size = minimum_size
        self.chosen_stem = chosen
        self._pyramid = pyramid

    @property
    def pyramid(self):
        return dict(self._pyramid)

    def get_config(self):
        return {
            "architecture": self.architecture,
            "input_shape": self.image_shape,
            "stem": self.stem,
            "zero_init_residual": self.zero_init_residual,
            "mean": self.mean,
            "std": self.std,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "name": self.name,
            "trainable": trainability(self),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return cls(**config)


@keras.saving.register_keras_serializable(package="star_keras")
class PaddedShortcut(layers.Layer):
    """A shortcut without parameters to a block that strides or widens.

    Keeps every `strides`-th pixel and pads with zero channels, half of them on each side.

    Args:
        filters: number of output channels, at least that of the input and even.
        strides: distance of the pixels that are kept. Defaults to 2.
        **kwargs: of `keras.layers.Layer`.

    Input shape: `(batch, height, width, channels)`.
    Output shape: `(batch, ceil(height / strides), ceil(width / strides), filters)`.

    Example:

    >>> tuple(PaddedShortcut(32)(keras.ops.ones((1, 8, 8, 16))).shape)
    (1, 4, 4, 32)

    Reference: He et al. (2016), option A of section 3.3.
    """

    def __init__(self, filters, strides=2, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.strides = strides

    def build(self, input_shape):
        self.built = True

    def call(self, inputs):
        missing = self.filters - inputs.shape[-1]
        # Pooling over one pixel picks the same values as a strided slice, six times faster on a CPU.
        pixels = ops.average_pool(inputs, 1, self.strides, padding="valid", data_format="channels_last")
        return ops.pad(pixels, ((0, 0), (0, 0), (0, 0), (missing // 2, missing - missing // 2)))

    def get_config(self):
        return {**super().get_config(), "filters": self.filters, "strides": self.strides}


def describe(architecture, model):
    """The configuration of a `ResNet` of this architecture, its stem spelt out, or None for another model."""
    if not isinstance(model, ResNet) or model.architecture != architecture:
        return None
    config = {key: value for key, value in model.get_config().items() if key in OPTIONS}
    return {**config, "stem": model.chosen_stem}


def _choose_stem(input_shape, home_stem):
    sides = input_shape[:2]
    if None in sides:
        return home_stem
    return "cifar" if min(sides) <= 48 else "imagenet"


class _Parts:
    """The pieces of a network under one policy: convolutions padded as PyTorch pads them, norms, blocks."""

    def __init__(self, dtype, zero_init_residual):
        self.dtype = dtype
        self.last_gamma = "zeros" if zero_init_residual else "ones"

    def stem(self, x, stem, filters):
        if stem == "cifar":
            return self.relu(self.norm(self.conv(x, filters, 3, 1, "stem_conv"), "stem_norm"), "stem_relu")
        size = 7 if stem == "imagenet" else 3
        x = self.relu(self.norm(self.conv(x, filters, size, 2, "stem_conv"), "stem_norm"), "stem_relu")
        if stem == "strided":
            return x
        # Zero is the neutral element of a maximum over what a relu returns.
        x = self.pad(x, 1, "stem_pool_padding")
        return layers.MaxPooling2D(3, 2, data_format="channels_last", dtype=self.dtype, name="stem_pool")(x)

    def block(self, x, kind, width, strides, shortcut, name):
        filters, channels_before = width * EXPANSION[kind], x.shape[-1]
        residual = self.shortcut(x, filters, strides, shortcut, name)
        # On channels that a shortcut pads with zeros a scale of zero would never move: the relu of an exact
        # zero passes no gradient.
        pads = shortcut == "padded" and residual.shape[-1] > channels_before
        gamma = "ones" if pads else self.last_gamma
        # (filters, kernel size, strides) of each convolution
        plan = {
            "basic": ((width, 3, strides), (width, 3, 1)),
            "bottleneck": ((width, 1, 1), (width, 3, strides), (filters, 1, 1)),
        }[kind]
        for number, (channels, size, step) in enumerate(plan, start=1):
            last = number == len(plan)
            x = self.conv(x, channels, size, step, f"{name}_conv{number}")
            x = self.norm(x, f"{name}_norm{number}", gamma if last else "ones")
            if not last:
                x = self.relu(x, f"{name}_relu{number}")
        return self.relu(
            layers.Add(dtype=self.dtype, name=f"{name}_add")([residual, x]), f"{name}_relu{len(plan)}"
        )

    def shortcut(self, x, filters, strides, kind, name):
        if strides == 1 and x.shape[-1] == filters:
            return x
        if kind == "padded":
            return PaddedShortcut(filters, strides, dtype=self.dtype, name=f"{name}_shortcut")(x)
        return self.norm(self.conv(x, filters, 1, strides, f"{name}_shortcut_conv"), f"{name}_shortcut_norm")

    def conv(self, x, filters, size, strides, name):
        symmetric = strides > 1 and size > 1  # where "same" would pad one side only
        if symmetric:
            x = self.pad(x, size // 2, f"{name}_padding")
        return Conv2D(
            filters,
            size,
            strides=strides,
            padding="valid" if symmetric else "same",
            use_bias=False,
            kernel_initializer=torch_kernel(),
            data_format="channels_last",
            dtype=self.dtype,
            name=name,
        )(x)

    def norm(self, x, name, gamma="ones"):
        return BatchNormalization(
            momentum=0.9, epsilon=1e-5, gamma_initializer=gamma, dtype=self.dtype, name=name
        )(x)

    def relu(self, x, name):
        return layers.ReLU(dtype=self.dtype, name=name)(x)

    def pad(self, x, width, name):
        return layers.ZeroPadding2D(width, data_format="channels_last", dtype=self.dtype, name=name)(x)
