"""A look at images before a model computes with them: neither broken nor divided by 255."""

import warnings

import keras
import numpy as np

from star_keras.backend import known_values
from star_keras.exceptions import NonFiniteError

_ROWS = 256


class LooksAtArrays:
    """Makes a model look at its inputs before `predict`, `evaluate` and `fit`, where they are an array.

    It asks `look_at_array`, and by default the part that takes the inputs.
    """

    def predict(self, x, *args, **kwargs):
        self._look_at(x)
        return super().predict(x, *args, **kwargs)

    def evaluate(self, x=None, *args, **kwargs):
        self._look_at(x)
        return super().evaluate(x, *args, **kwargs)

    def fit(self, x=None, *args, **kwargs):
        self._look_at(x)
        return super().fit(x, *args, **kwargs)

    def look_at_array(self, x):
        """Warns of, or refuses, an array of inputs."""
        look = getattr(getattr(self, "model", None), "look_at_array", None)
        if look is not None:
            look(x)

    def _look_at(self, x):
        if isinstance(x, np.ndarray):
            if not len(x):
                raise ValueError(
                    f"Expected at least one row of inputs. Received: an array of shape {x.shape}"
                )
            self.look_at_array(x)


def look_at_pixels(images):
    """Refuses float images with NaN or infinity, warns where no pixel is above 1.

    Whole numbers pass, and so do tensors that are being traced and have no values yet.

    Args:
        images: array or tensor of images, the first axis counts them.

    Raises:
        NonFiniteError: names the first broken image.
    """
    if isinstance(images, keras.KerasTensor) or "float" not in keras.backend.standardize_dtype(images.dtype):
        return
    values = images if isinstance(images, np.ndarray) else known_values(images)
    if values is None:
        return
    peak = max(
        (_peak(values[start : start + _ROWS], start) for start in range(0, len(values), _ROWS)), default=0
    )
    if 0 < peak <= 1:
        warnings.warn(
            f"The largest pixel is {peak:.3g}, but the model takes images in [0, 255] and normalises "
            "them itself. Pass them unscaled: multiply them by 255 if they were divided before.",
            UserWarning,
            stacklevel=3,
        )


def _peak(images, first):
    finite = np.isfinite(images).reshape(len(images), -1).all(axis=1)
    if not finite.all():
        raise NonFiniteError(
            f"Pixels must be finite. Received: NaN or infinity in image {first + int(np.argmin(finite))}; "
            "leave it out or mend it. A ReLU may make zeros of NaN, and nothing would show it."
        )
    return images.max(initial=0)
