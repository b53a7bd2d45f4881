"""What every image model of the zoo accepts, and what it says about everything else."""

import keras
import numpy as np

from star_keras.exceptions import ShapeError
from star_keras.guards.pixels import LooksAtArrays, look_at_pixels, refuse_list
from star_keras.models.functional import FunctionalModel


class ImageModel(LooksAtArrays, FunctionalModel):
    """A functional model of images `(batch, height, width, 3)`, uint8 or float, in [0, 255].

    Anything else is refused with a hint before it is computed on, and so are pixels that are NaN; images
    that seem to have been divided by 255 or standardised already are warned about: eagerly called, or given
    as an array or a `keras.utils.PyDataset` to `predict`, `evaluate` or `fit`. Subclasses set
    `minimum_size`, the smallest side in pixels.
    """

    minimum_size = 1

    def __call__(self, inputs, *args, **kwargs):
        if isinstance(inputs, (dict, list, tuple)) and len(inputs) == 1:
            (inputs,) = keras.tree.flatten(inputs)  # Keras spells one input in all these ways
        inputs = inputs if hasattr(inputs, "shape") else np.asarray(inputs)
        symbolic = isinstance(inputs, keras.KerasTensor)
        check_images(inputs.shape, self.input_shape, self.minimum_size, symbolic)
        if not kwargs.get("training"):
            look_at_pixels(inputs)
        return super().__call__(inputs, *args, **kwargs)

    def look_at_array(self, x):
        refuse_list(x)
        check_images(x.shape, self.input_shape, self.minimum_size)
        look_at_pixels(x)


def check_images(shape, model_shape, minimum_size, symbolic=False):
    """Raises `ShapeError` unless `shape` is a batch of images that the model takes, `symbolic` or not."""
    shape, size = tuple(shape), tuple(model_shape[1:3])
    problem = _layout_problem(shape, size, symbolic) or _size_problem(shape[1:3], size, minimum_size)
    if problem is not None:
        expected = "(batch, {}, {}, 3)".format(*(side or "any" for side in size))
        raise ShapeError(
            f"Expected channels-last RGB images of shape {expected}. Received: shape={shape}. {problem}"
        )


def _layout_problem(shape, size, symbolic):
    if len(shape) == 3:
        if 3 in (shape[0], shape[-1]):
            return "This looks like one image without a batch: pass `images[None]`; `.batch(n)` a data set."
        return f"These look like grey images: pass `{_to_rgb(size)}`."
    if len(shape) != 4:
        return "Pass a batch of images, four dimensions."
    if shape[-1] == 3 or shape[-1] is None:
        return None
    if shape[1] == 3:
        return "The channels come first: pass `np.moveaxis(images, 1, -1)`."
    if shape[-1] == 1:
        join = "keras.layers.Concatenate()([images, images, images])"
        return f"The images are grey: pass `{join if symbolic else _to_rgb(size)}`."
    if shape[-1] == 4:
        return "The images have an alpha channel: pass `images[..., :3]`."
    return "The last axis must hold red, green and blue."


def _to_rgb(size):
    height, width = size
    return "star_keras.data.to_rgb(images{})".format(f", {height}" if height and height == width else "")


def _size_problem(size, model_size, minimum_size):
    if any(side is not None and side < minimum_size for side in size):
        return f"Each side must be at least {minimum_size} pixels: resize the images."
    if any(None not in (side, own) and side != own for side, own in zip(size, model_size, strict=True)):
        return (
            "Resize the images, or make the model with `input_shape=(None, None, 3)`, which takes every size."
        )
    return None
