"""Image sets in one npz file: encoded images, sheets of tiles, plain arrays, with or without boxes.

- `blob`, uint8: all encoded images, one after another; `offsets`: image i is
  `blob[offsets[i]:offsets[i + 1]]`; `labels`. Splits put their name in front, as in `train_blob`.
- `grid`, (rows, columns): each encoded image is a sheet of so many tiles, one tile an image.
- `boxes_xyxy`, `box_labels` and `box_image`, the position of each box's image, in the place of `labels`: a
  detection set, whose `split` names the split of every image.
- `x_train`, `y_train`, `x_test`, `y_test`, or of other splits: arrays.
- `class_names`, of all: where it is left out, the labels stand for it, as strings.
"""

import itertools
import zipfile
import zlib

import numpy as np

from star_keras.data import images as image_tools
from star_keras.data.images import Split, UnknownSplit
from star_keras.exceptions import IntegrityError


def is_image_set(path):
    """Whether a file holds a set of this format, by the names in it alone."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return bool(_split_keys(archive))
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return False


def read(path, split=None, size=None, on_error="raise"):
    """Reads one split of an npz file as a `Split`."""
    if not zipfile.is_zipfile(path):
        raise IntegrityError(f"{path} must be a whole npz file. Received: another kind of file, or a part.")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return _read(archive, path, split, size, on_error)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise IntegrityError(f"{path} must be a whole npz file. Received: {error}; copy it again.") from error


def choose(split, available, source):
    """The split to read: the one asked for, else `train`, else the only one there is."""
    if split is None and "train" in available:
        return "train"
    if split is None and len(available) == 1:
        return available[0]
    if split in available:
        return split
    names = ", ".join(repr(name) for name in available if name) or "none: leave `split` out"
    raise UnknownSplit(
        f"`split` must be one of those of {source}. Received: split={split!r}; it has {names}."
    )


def _split_keys(archive):
    """`{split: prefix of its arrays}`; the only split of a plain file is called None."""
    plain = {key[2:]: key for key in archive if key.startswith("x_") and f"y_{key[2:]}" in archive}
    if plain:
        return plain
    prefixes = [key.removesuffix("blob") for key in archive if key.endswith("blob")]
    return {prefix.removesuffix("_") or None: prefix for prefix in prefixes}


def _read(archive, path, split, size, on_error):
    keys = _split_keys(archive)
    if not keys:
        raise ValueError(
            f"{path} must hold an image set: `x_train` and `y_train`, or `blob`, `offsets` and `labels`. "
            f"Received: arrays {archive.files[:8]}"
        )
    if all(f"y_{name}" in archive for name in keys):
        split = choose(split, list(keys), path)
        images, labels = _plain(archive, split, path)
        return Split(image_tools.resize(images, size), labels, _class_names(archive, labels))
    if "boxes_xyxy" in archive:
        return _read_boxes(archive, path, split, size, on_error)
    prefix = keys[choose(split, list(keys), path)]
    _check_arrays(archive, path, f"{prefix}offsets", f"{prefix}labels")
    labels, encoded = archive[f"{prefix}labels"].astype("int64"), _encoded(archive, prefix)
    names = _class_names(archive, labels)
    if "grid" in archive:
        sheets, _ = image_tools.decode(encoded)
        tiles = np.concatenate([_cut(sheet, *archive["grid"]) for sheet in sheets])
        return Split(image_tools.resize(tiles, size), labels, names)
    images, kept = image_tools.decode(encoded, size, on_error)
    return Split(image_tools.stack(images), labels[kept], names)


def _class_names(archive, labels):
    numbers = range(int(labels.max(initial=-1)) + 1)
    return tuple(archive["class_names"].tolist() if "class_names" in archive else map(str, numbers))


def _check_arrays(archive, path, *names):
    missing = ", ".join(f"`{name}`" for name in names if name not in archive)
    if missing:
        raise ValueError(f"{path} must hold {missing}, too. Received: arrays {archive.files[:8]}")


def _plain(archive, split, path):
    """Arrays as Keras stores them: labels may be a column, grey images may have a channel."""
    images, labels = archive[f"x_{split}"], archive[f"y_{split}"]
    if images.ndim == 4 and images.shape[-1] == 1:
        images = images[..., 0]
    colour = images.ndim == 4 and images.shape[-1] == 3
    whole = np.issubdtype(labels.dtype, np.integer) and labels.size == len(labels) == len(images)
    if images.dtype != "uint8" or not (images.ndim == 3 or colour) or not whole:
        raise ValueError(
            f"`x_{split}` and `y_{split}` of {path} must be uint8 images (n, height, width), with one or "
            f"three channels or none, and n integers. Received: {images.dtype} of shape {images.shape} and "
            f"{labels.dtype} of shape {labels.shape}"
        )
    return images, labels.reshape(-1).astype("int64")


def _read_boxes(archive, path, split, size, on_error):
    if size is not None:
        raise ValueError(f"Images with boxes keep their size: leave `size` out. Received: size={size}")
    _check_arrays(archive, path, "offsets", "split", "box_image", "box_labels")
    of_image = archive["split"]
    split = choose(split, list(dict.fromkeys(of_image.tolist())), path)
    encoded, rows = _encoded(archive, ""), np.flatnonzero(of_image == split)
    images, kept = image_tools.decode([encoded[row] for row in rows], None, on_error)
    boxes, labels = archive["boxes_xyxy"].astype("float32"), archive["box_labels"].astype("int64")
    box_image = archive["box_image"]
    own = [box_image == row for row in rows[kept]]
    return Split(
        image_tools.stack(images),
        [labels[mask] for mask in own],
        _class_names(archive, labels),
        [boxes[mask] for mask in own],
    )


def _encoded(archive, prefix):
    blob = archive[f"{prefix}blob"].tobytes()
    return [blob[start:end] for start, end in itertools.pairwise(archive[f"{prefix}offsets"].tolist())]


def _cut(sheet, rows, columns):
    height, width = sheet.shape[0] // rows, sheet.shape[1] // columns
    tiles = sheet.reshape(rows, height, columns, width, 3).transpose(0, 2, 1, 3, 4)
    return tiles.reshape(rows * columns, height, width, 3)
