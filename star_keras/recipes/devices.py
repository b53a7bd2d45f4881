"""In which precision, and on which devices, a recipe trains."""

import statistics
import time

import keras
import numpy as np

from star_keras import backend, callbacks
from star_keras.guards.arguments import check_choice
from star_keras.recipes.flags import CHOICES

ROUNDS = 9
# A busy machine makes equal steps differ: only what is faster by so much counts.
CLEARLY = 1.2


def set_precision(name="auto", folder=None):
    """Sets the dtype policy; "auto" trains two convolutions for a moment and takes what is clearly faster.

    Processors without products of bfloat16 train ten times slower in it, others and accelerators faster.

    Args:
        name: a dtype policy, or "auto" (the default) for "mixed_bfloat16" where its steps take less than
            1 / 1.2 of the time, else "float32".
        folder: of a `callbacks.Resume`: "auto" is what the run there began with. Defaults to None.

    Returns:
        The name of the policy that was set.

    Example:

    >>> set_precision("float32")
    'float32'
    """
    if name == "auto" and folder is not None:
        name = callbacks.Resume(folder).stored_run().get("precision", name)
    if name == "auto":
        whole, half = _seconds_of_a_step()
        name = "mixed_bfloat16" if whole > CLEARLY * half else "float32"
        print(f"Precision: {name}; steps in bfloat16 take {half / whole:.2f} of the time of float32.")
    keras.config.set_dtype_policy(name)
    return name


def set_strategy(name):
    """Says on which devices models train that are made afterwards, until the process ends.

    Args:
        name: "one" device, or "mirrored": all devices, each with its share of a batch and the same weights,
            by `tf.distribute.MirroredStrategy`. Negatives and batch statistics are those of the whole batch.

    Raises:
        ValueError: for another name, or on another backend than TensorFlow.

    Example:

    >>> set_strategy("one")
    """
    check_choice("strategy", name, CHOICES["strategy"])
    if name == "mirrored":
        backend.use_all_devices()


def _seconds_of_a_step():
    """Medians in float32 and in bfloat16, of steps that take turns: what slows one slows the other, too."""
    models = [_convolutions(policy) for policy in ("float32", "mixed_bfloat16")]
    images = np.zeros((64, 8, 8, 64), "float32")
    for model in models:
        model.train_on_batch(images, images)
    seconds = [[], []]
    for _ in range(ROUNDS):
        for model, measured in zip(models, seconds, strict=True):
            began = time.perf_counter()
            model.train_on_batch(images, images)
            measured.append(time.perf_counter() - began)
    return tuple(map(statistics.median, seconds))


def _convolutions(policy):
    layers = [
        keras.layers.Conv2D(64, 3, padding="same", dtype=policy, name=f"convolution_{number}")
        for number in (1, 2)
    ]
    model = keras.Sequential([keras.Input((8, 8, 64)), *layers], name="precision")
    model.compile("sgd", "mse")
    return model
