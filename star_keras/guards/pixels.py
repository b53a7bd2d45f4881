"""A look at images before a model computes with them: neither broken nor on another scale."""

import contextlib
import contextvars
import warnings

import keras
import numpy as np

from star_keras.backend import known_values
from star_keras.exceptions import NonFiniteError, ShapeError

_ROWS = 256
_ROUNDING = 1e-3

_seen = contextvars.ContextVar("seen", default=())
_looking = contextvars.ContextVar("looking", default=True)


class LooksAtArrays:
    """Makes a model look at its inputs before `predict`, `evaluate` and `fit`: arrays, lists of images, and
    the first batch of a `keras.utils.PyDataset`; in `fit` also those of `validation_data`.

    Other data goes by unseen: a generator has its first batch only once, and a `tf.data.Dataset` may shuffle
    or cache anew each time it is begun.

    It asks `look_at_array`, and by default the part that takes the inputs.
    """

    def predict(self, x, *args, **kwargs):
        self._look_at(x)
        return super().predict(x, *args, **kwargs)

    def evaluate(self, x=None, *args, **kwargs):
        self._look_at(x)
        return super().evaluate(x, *args, **kwargs)

    def fit(self, x=None, *args, **kwargs):
        held_out = kwargs.get("validation_data")
        held_out = held_out[0] if isinstance(held_out, (list, tuple)) and held_out else held_out
        for data in (x, held_out):
            self._look_at(data)
        token = _seen.set((x, held_out))
        try:
            return super().fit(x, *args, **kwargs)
        finally:
            _seen.reset(token)

    def look_at_array(self, x):
        """Warns of, or refuses, an array of inputs, or a list of some."""
        look = getattr(getattr(self, "model", None), "look_at_array", None)
        if look is not None:
            look(x)

    def _look_at(self, x):
        if any(x is data for data in _seen.get()):
            return
        if isinstance(x, keras.utils.PyDataset) and x.num_batches != 0:
            x = x[0]
            x = x[0] if isinstance(x, (list, tuple)) else x
        if isinstance(x, np.ndarray):
            if not len(x):
                raise ValueError(
                    f"Expected at least one row of inputs. Received: an array of shape {x.shape}"
                )
            self.look_at_array(x)
        elif isinstance(x, (list, tuple)) and len(x) > 1:
            self.look_at_array(x)


def image_array(images):
    """The images as one array; raises a ShapeError where they are of several shapes."""
    try:
        return np.asarray(images)
    except ValueError as error:
        raise ShapeError(
            "`images` must be one array (images, height, width, channels). Received: images of several "
            "shapes; resize them, as `star_keras.data.load(..., size=...)` does."
        ) from error


def refuse_list(images):
    """Raises a ShapeError where several images come as a list, which Keras takes for several inputs."""
    if not isinstance(images, (list, tuple)):
        return
    shapes = {tuple(getattr(image, "shape", ())) for image in images}
    remedy = "; pass `np.asarray(images)`"
    if len(shapes) > 1:
        remedy = " of several shapes; resize them, as `star_keras.data.load(..., size=...)` does"
    raise ShapeError(
        "Expected one array of images (images, height, width, channels). Received: a list of "
        f"{len(images)} images{remedy}."
    )


@contextlib.contextmanager
def without_looking():
    """Within, nothing is said about pixels, such as those of views, which nobody passed."""
    token = _looking.set(False)
    try:
        yield
    finally:
        _looking.reset(token)


def look_at_pixels(images):
    """Refuses float images with NaN or infinity, warns of pixels that are on another scale than [0, 255].

    That is where none is above 1, or where some are further below 0 than a resize that overshoots would
    bring them, by a quarter of what the greatest has above 16. Images of one value say nothing: they are
    black, or made up to infer shapes. Whole numbers pass, and so do tensors that are being traced and have
    no values yet.

    Args:
        images: array or tensor of images, the first axis counts them.

    Raises:
        NonFiniteError: names the first broken image.
    """
    if isinstance(images, keras.KerasTensor) or "float" not in keras.backend.standardize_dtype(images.dtype):
        return
    if not _looking.get():
        return
    values = images if isinstance(images, np.ndarray) else known_values(images)
    if values is None:
        return
    ranges = [_range(values[start : start + _ROWS], start) for start in range(0, len(values), _ROWS)]
    low, peak = min((low for low, _ in ranges), default=0.0), max((peak for _, peak in ranges), default=0.0)
    if low == peak:
        return
    if low < -_ROUNDING and peak < 16 - 4 * low:
        _warn(
            f"The smallest pixel is {low:.3g}",
            "Pass them as they were before a mean was subtracted or the range was shifted.",
        )
    elif 0 < peak <= 1:
        _warn(
            f"The largest pixel is {peak:.3g}",
            "Pass them unscaled: multiply them by 255 if they were divided before.",
        )


def _warn(finding, remedy):
    warnings.warn(
        f"{finding}, but the model takes images in [0, 255] and normalises them itself. {remedy}",
        UserWarning,
        stacklevel=4,
    )


def _range(images, first):
    finite = np.isfinite(images).reshape(len(images), -1).all(axis=1)
    if not finite.all():
        raise NonFiniteError(
            f"Pixels must be finite. Received: NaN or infinity in image {first + int(np.argmin(finite))}; "
            "leave it out or mend it. A ReLU may make zeros of NaN, and nothing would show it."
        )
    return (float(images.min()), float(images.max())) if images.size else (0.0, 0.0)
