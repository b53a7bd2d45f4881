"""Features of frozen backbones."""

import keras
import numpy as np

from star_keras.evaluation.arrays import TooFewSamples
from star_keras.exceptions import NonFiniteError, ShapeError
from star_keras.guards.pixels import image_array


def extract_features(backbone, images, batch_size=256, verbose="auto"):
    """Features of images, in inference mode: no augmentation, no dropout, moving statistics.

    Args:
        backbone: a Keras model or layer that maps a batch of images to `(batch, features)`.
        images: array `(n, height, width, channels)`, as the backbone takes them.
        batch_size: images at a time; the features do not depend on it. Defaults to 256.
        verbose: as in `keras.Model.predict`. Defaults to `"auto"`: a progress bar.

    Returns:
        A float32 NumPy array `(n, features)`.

    Raises:
        ValueError: if there is no image, or no backbone.
        ShapeError: if the images are of another size than the backbone takes, or of several, or if it
            returns something else than one vector an image.
        NonFiniteError: if a feature is NaN or infinite.

    Example:

    >>> backbone = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.GlobalAveragePooling2D()])
    >>> extract_features(backbone, np.ones((10, 8, 8, 3)), batch_size=4, verbose=0).shape
    (10, 3)
    """
    if not isinstance(backbone, keras.Layer):
        hint = "; a preset is loaded by `star_keras.models.load(name)`" if isinstance(backbone, str) else ""
        raise ValueError(f"`backbone` must be a Keras model or layer. Received: {backbone!r}{hint}")
    if len(images) == 0:
        raise TooFewSamples("`images` must hold at least one image. Received: none")
    images = image_array(images)
    if isinstance(getattr(backbone, "input_shape", None), tuple):
        check_image_size(backbone, images.shape)
    model = backbone if isinstance(backbone, keras.Model) else keras.Sequential([backbone])
    features = model.predict(images, batch_size=batch_size, verbose=verbose)
    shape = getattr(features, "shape", None)
    if shape is None or len(shape) != 2:
        raise ShapeError(
            "`backbone` must map images to one array (batch, features). Received: "
            f"{f'shape {shape}' if shape else type(features).__name__}; pool a map, name one of many outputs."
        )
    features = np.asarray(features, "float32")
    broken = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(broken):
        raise NonFiniteError(
            f"Features must be finite. Received: NaN or infinity for {len(broken)} of "
            f"{len(features)} images, the first at {broken[:5].tolist()}; look at the weights, or compute in "
            "float32."
        )
    return features


def check_image_size(backbone, shape):
    """Raises a ShapeError unless arrays of images of that shape are what the backbone takes."""
    expected = getattr(backbone, "input_shape", None)
    expected = (None, None, None, None) if expected is None else expected
    fits = len(shape) == len(expected)
    if not fits or any(size not in (None, own) for size, own in zip(expected[1:], shape[1:], strict=True)):
        single = len(shape) + 1 == len(expected)
        remedy = (
            "give one as `image[None]`" if single else "resize the images, as `data.load(..., size=...)` does"
        )
        raise ShapeError(
            f"The backbone takes an array of images of shape {tuple(expected[1:])}. "
            f"Received: an array of shape {tuple(shape)}; {remedy}."
        )
