"""The floor of every pretraining: the same network without any."""

import keras
import numpy as np


def untrained(model, images, seed=0, batch_size=256, steps=40):
    """The same network at random initialisation, its batch-norm statistics set on images.

    The floor of every self-supervised result: what the architecture alone is worth.

    Args:
        model: a backbone of the zoo, or a pretraining model; its views are not drawn.
        images: array of images in [0, 255], of the size the backbone takes.
        seed: of the initialisation. Defaults to 0.
        batch_size, steps: how much the moving statistics see. Default to 40 batches of 256.

    Returns:
        A new model.

    Example:

    >>> import star_keras as sk
    >>> backbone = sk.models.create("resnet20", input_shape=(32, 32, 3))
    >>> untrained(backbone, np.zeros((4, 32, 32, 3), "uint8"), batch_size=4, steps=1).output_shape
    (None, 64)
    """
    keras.utils.set_random_seed(seed)
    fresh = type(model).from_config(model.get_config())
    fresh.trainable = False
    fresh.trainable = True  # a frozen layer would keep the statistics it was made with
    if not fresh.built:
        fresh.build((None, *images.shape[1:]))
    backbone, projector = getattr(fresh, "backbone", fresh), getattr(fresh, "projector", None)
    drawn = np.random.default_rng(seed)
    for _ in range(steps):
        features = backbone(images[drawn.integers(len(images), size=batch_size)], training=True)
        if projector is not None:
            projector(features, training=True)
    return fresh
