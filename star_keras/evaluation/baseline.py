"""The floor of every pretraining: the same network without any."""

import contextlib
import random

import numpy as np

from star_keras.evaluation.features import check_image_size
from star_keras.guards.pixels import image_array

BATCH_SIZE, STEPS = 128, 100


def untrained(model, images, seed=0, batch_size=BATCH_SIZE, steps=STEPS):
    """The same network at random initialisation, its batch-norm statistics set on images.

    The floor of every self-supervised result: what the architecture alone is worth. After a hundred batches
    moving averages of momentum 0.9, as all of the zoo are, hold 0.003 % of the values they begin with. The
    generators of Python, NumPy and the backend go on afterwards as if nothing had been drawn.

    Args:
        model: a backbone of the zoo, or a pretraining model; its views are not drawn.
        images: array of images in [0, 255], of the size the backbone takes.
        seed: of the initialisation. Defaults to 0.
        batch_size, steps: how many images, drawn by the seed, the statistics see. Default to 100
            batches of 128.

    Returns:
        A new model.

    Raises:
        ValueError: if there is no image.
        ShapeError: if the images are of another size than the backbone takes.

    Example:

    >>> import star_keras as sk
    >>> backbone = sk.models.create("resnet20", input_shape=(32, 32, 3))
    >>> untrained(backbone, np.zeros((4, 32, 32, 3), "uint8"), batch_size=4, steps=1).output_shape
    (None, 64)
    """
    if len(images) == 0:
        raise ValueError("`images` must hold at least one image. Received: none")
    images = image_array(images)
    check_image_size(getattr(model, "backbone", model), images.shape)
    with _seeded(seed):
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


@contextlib.contextmanager
def _seeded(seed):
    """Within, layers and initialisers draw their own seeds, which Keras asks Python for, by this one."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)
