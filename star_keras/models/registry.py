"""Architectures and presets by name."""

from star_keras.models.resnet import VARIANTS, Classifier, ResNet


def create(architecture, **config):
    """A new model with random weights."""
    num_classes = config.pop("num_classes", None)
    activation = config.pop("classifier_activation", "softmax")
    if architecture not in VARIANTS:
        raise ValueError(architecture)
    backbone = ResNet(architecture, **config)
    return backbone if num_classes is None else Classifier(backbone, num_classes, activation)
