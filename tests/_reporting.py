"""A pretraining model and images so small that every measure takes a moment."""

import keras
import numpy as np

import star_keras as sk

SMALL = {"count": 24, "seeds": (0, 1), "images": 16, "views": 2, "episodes": 5}


def pretraining_model(seed=7):
    keras.utils.set_random_seed(seed)
    backbone = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(6, 3, strides=2, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )
    model = sk.training.STARPretraining(
        backbone=backbone,
        augmentation=sk.augmentation.star_views(8),
        projector=sk.layers.RoutedExperts(
            4, num_experts=3, tasks=("invariant", "equivariant"), hidden_units=(8,)
        ),
    )
    model.build((None, 8, 8, 3))
    return model


def images(count, seed=0, classes=3):
    """Noise with a patch whose place is the class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    pixels = rng.integers(0, 120, (count, 8, 8, 3))
    for row, label in enumerate(labels):
        pixels[row, 2 * label : 2 * label + 2] += 120
    return pixels.astype("uint8"), labels
