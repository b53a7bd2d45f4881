"""Networks with weights that others published under PyTorch's names; the files are in STAR_KERAS_DATA.

ResNet-56 of CIFAR-10 (Y. Idelbayev, BSD), in this library's own architecture, and EfficientNet-Lite0 of
ImageNet (Google, Apache 2.0), built here: inverted residual blocks without squeeze-and-excitation, ReLU6.
Both take images in [0, 255], return logits, and end in a layer "features" before the last.
"""

import os
import pathlib
import re

import keras
import numpy as np

import star_keras as sk

# Blocks, side of the kernel, stride of the first, expansion, filters.
LITE0 = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


def resnet56():
    """ResNet-56, ten classes of CIFAR-10 at 32 px."""
    model = sk.models.create("resnet56", input_shape=(32, 32, 3), num_classes=10, classifier_activation=None)
    numbers = published("weights_resnet56_cifar10")
    return take(model, {resnet_name(name): value for name, value in numbers.items()})


def resnet_name(theirs):
    """`layer1.0.bn1.weight` is called `stage1_block1_norm1.weight` here."""
    base, part = theirs.rsplit(".", 1)
    ours = {"conv1": "stem_conv", "bn1": "stem_norm", "linear": "classifier"}.get(base)
    if ours is None:
        stage, block, layer = re.fullmatch(r"layer(\d)\.(\d+)\.(\w+)", base).groups()
        ours = f"stage{stage}_block{int(block) + 1}_{layer.replace('bn', 'norm')}"
    return f"{ours}.{part}"


def efficientnet_lite0():
    """EfficientNet-Lite0, a thousand classes of ImageNet at 224 px."""
    images = keras.Input((224, 224, 3))
    x = keras.layers.Rescaling(1 / 128, -127 / 128)(images)
    x = convolved(x, "conv_stem", "bn0", 32, 3, 2)
    number = 0
    for count, side, stride, expansion, filters in LITE0:
        for repeat in range(count):
            x = inverted_residual(x, f"blocks.{number}", side, 1 if repeat else stride, expansion, filters)
            number += 1
    x = convolved(x, "conv_head", "bn1", 1280)
    x = keras.layers.GlobalAveragePooling2D(name="features")(x)
    model = keras.Model(images, keras.layers.Dense(1000, name="fc")(x))
    numbers = published("weights_efficientnet_lite0_imagenet")
    return take(model, {re.sub(r"(^|\.)_", r"\1", name): value for name, value in numbers.items()})


def inverted_residual(x, name, side, stride, expansion, filters):
    residual, width = x, x.shape[-1]
    if expansion > 1:
        x = convolved(x, f"{name}.expand_conv", f"{name}.bn0", expansion * width)
    x = keras.layers.DepthwiseConv2D(side, stride, "same", use_bias=False, name=f"{name}.depthwise_conv")(x)
    x = keras.layers.ReLU(6)(normalised(x, f"{name}.bn1"))
    x = keras.layers.Conv2D(filters, 1, use_bias=False, name=f"{name}.project_conv")(x)
    x = normalised(x, f"{name}.bn2")
    return keras.layers.Add()([x, residual]) if stride == 1 and filters == width else x


def convolved(x, name, norm, filters, side=1, stride=1):
    x = keras.layers.Conv2D(filters, side, stride, "same", use_bias=False, name=name)(x)
    return keras.layers.ReLU(6)(normalised(x, norm))


def normalised(x, name):
    return keras.layers.BatchNormalization(epsilon=1e-3, name=name)(x)


def published(name):
    """`{PyTorch's name: array}` of a file of weights."""
    with np.load(pathlib.Path(os.environ["STAR_KERAS_DATA"]).expanduser() / f"{name}.npz") as numbers:
        return dict(numbers)


def take(model, numbers):
    """The model, each layer with the numbers that carry its name; kernels are turned to Keras's axes."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            parts = ("weight", "bias", "running_mean", "running_var")
            layer.set_weights([numbers[f"{layer.name}.{part}"] for part in parts])
        elif layer.weights:
            kernel = numbers[f"{layer.name}.weight"]
            depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
            axes = (1, 0) if kernel.ndim == 2 else (2, 3, 0, 1) if depthwise else (2, 3, 1, 0)
            biases = [numbers[f"{layer.name}.bias"]] if len(layer.weights) > 1 else []
            layer.set_weights([kernel.transpose(axes), *biases])
    return model
