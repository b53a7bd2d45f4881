"""Zero-shot classifiers of images from an image and a text encoder, and how they take images on any side."""

from star_keras.applications.zero_shot.classifier import ZeroShotClassifier, from_prompts
from star_keras.applications.zero_shot.encoders import Encoders, from_keras_hub
from star_keras.applications.zero_shot.invariance import invariant
from star_keras.applications.zero_shot.prompts import class_embeddings

__all__ = [
    "Encoders",
    "ZeroShotClassifier",
    "class_embeddings",
    "from_keras_hub",
    "from_prompts",
    "invariant",
]
