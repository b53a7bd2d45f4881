"""What a loaded set is, and how its images come to one size, channel count and type."""

import concurrent.futures
import io
import typing
import warnings

import numpy as np

from star_keras.exceptions import ShapeError
from star_keras.guards.pixels import image_array
from star_keras.optional import needed

_BIG = 16384


class UnknownSplit(ValueError):
    """An image set has no split of that name."""


class Split(typing.NamedTuple):
    """One split of an image set, as NumPy arrays.

    Attributes:
        images: uint8 array, `(n, height, width, 3)` or, grey, `(n, height, width)`. A list of n arrays
            `(height, width, 3)` where the images differ in size.
        labels: int64 array `(n,)`. A detection set has a list of n arrays, one label a box.
        class_names: tuple of strings, indexed by label: the labels themselves where an npz file names no
            classes. None where a folder or a prepared set names none.
        boxes: None, or for a detection set a list of n float32 arrays `(boxes, 4)` of left, top, right
            and bottom in pixels.
    """

    images: np.ndarray | list
    labels: np.ndarray | list
    class_names: tuple | None = None
    boxes: list | None = None


def to_rgb(images, size=None):
    """Makes colour images of grey ones and centres them on a black square.

    A grey channel is repeated three times; colour images keep their channels. No pixel is interpolated.

    Args:
        images: array `(n, height, width)`, `(n, height, width, 1)` or `(n, height, width, 3)`.
        size: side of the square in pixels, at least that of the images. Defaults to None: as they are.

    Returns:
        An array `(n, size, size, 3)`, or without `size` `(n, height, width, 3)`, of the type of `images`.

    Raises:
        ShapeError: if the images have another shape or do not fit into the square.

    Example:

    >>> to_rgb(np.zeros((2, 28, 28), "uint8"), 32).shape
    (2, 32, 32, 3)
    """
    images = image_array(images)
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ShapeError(
            "`images` must have shape (n, height, width), (n, height, width, 1) or (n, height, width, 3), "
            f"all of one size. Received: shape {images.shape}; `load(..., size=...)` makes them so."
        )
    height, width = images.shape[1:3]
    if images.shape[-1] == 3 and (size is None or height == width == size):
        return images
    if size is None:
        return np.repeat(images, 3, axis=-1)
    if size < max(height, width):
        raise ShapeError(
            f"`size` must be at least {max(height, width)}, the longer side of the images. Received: "
            f"size={size}; `load(..., size={size})` shrinks them."
        )
    top, left = (size - height) // 2, (size - width) // 2
    square = np.zeros((len(images), size, size, 3), images.dtype)
    square[:, top : top + height, left : left + width] = images
    return square


def decode(encoded, size=None, on_error="raise", names=None):
    """Decodes image files to RGB, in order.

    The first frame of an animation is taken, a photograph is turned upright as its EXIF entry says.

    Args:
        encoded: sequence of bytes, or of paths.
        size: side of the square the images are brought to; None keeps their size.
        on_error: `"raise"`, or `"skip"` to leave out what cannot be decoded, with one counted warning.
        names: what to call the images in messages. Defaults to their positions.

    Returns:
        `(images, kept)`: a list of uint8 arrays and the positions they had, an int64 array.
    """
    pillow().init()
    decoded = _map_files(lambda file: _decode_one(file, size), encoded)
    failed = {i: image for i, image in enumerate(decoded) if isinstance(image, Exception)}
    kept = np.array([i for i in range(len(decoded)) if i not in failed], "int64")
    if failed:
        first = min(failed)
        name = f"image {first}" if names is None else names[first]
        count = f"{len(failed)} of {len(decoded)} images"
        what = f"{count} cannot be decoded, the first is {name}: {failed[first]}."
        if on_error == "raise" or not len(kept):
            raise ValueError(
                f"Every image must be readable. Received: {what} Remove them or skip them, by "
                '`on_error="skip"` or, on a command line, `--on-error skip`.'
            ) from failed[first]
        warnings.warn(f"Skipped: {what}", stacklevel=3)
    return [decoded[i] for i in kept], kept


def stack(images):
    """One array where all images have the same shape, else the list itself."""
    return np.stack(images) if len({image.shape for image in images}) == 1 else images


def resize(images, size):
    """Brings the shorter side of arrays to `size` (bicubic) and cuts the square in the middle."""
    if size is None or all(image.shape[:2] == (size, size) for image in images):
        return images
    return stack([np.asarray(_to_square(pillow().fromarray(image), size)) for image in images])


def pillow():
    """`PIL.Image`, imported when a file has to be decoded."""
    return needed("PIL.Image", "Decoding and resizing images needs Pillow", "data")


def _map_files(function, files):
    # Threads wait for one another longer than a small image takes.
    if sum(len(file) if isinstance(file, bytes) else _BIG for file in files) < _BIG * len(files):
        return [function(file) for file in files]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        return list(pool.map(function, files))


def _decode_one(file, size):
    from PIL import ImageOps

    try:
        with pillow().open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"its pixels are not 8-bit (mode {image.mode})")
            ImageOps.exif_transpose(image, in_place=True)
            image = image.convert("RGB")
            return np.array(image if size is None else _to_square(image, size))
    except Exception as error:  # decoders answer broken files with exceptions of every kind
        return error


def _to_square(image, size):
    width, height = image.size
    scale = size / min(width, height)
    resized = image.resize((max(size, round(width * scale)), max(size, round(height * scale))), 3)
    left, top = (resized.width - size) // 2, (resized.height - size) // 2
    return resized.crop((left, top, left + size, top + size))
