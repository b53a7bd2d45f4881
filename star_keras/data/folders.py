"""A folder of images: each subfolder is a class, or there is none."""

import pathlib

import numpy as np

from star_keras.data import images as image_tools
from star_keras.data.images import Split, UnknownSplit

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def read(folder, split=None, size=None, on_error="raise"):
    """Reads `folder/<class>/<image>`, or `folder/<split>/<class>/<image>`, as a `Split`.

    Classes and files are taken in the order of their names; other kinds of files and hidden ones are
    passed over. A folder without subfolders has images without classes: every label is 0.
    """
    folder = pathlib.Path(folder)
    if split is None and _subfolders(folder / "train"):
        split = "train"
    root = folder / split if split else folder
    if not root.is_dir():
        raise UnknownSplit(
            f"`split` must be a folder in {folder}. Received: split={split!r}; it has "
            f"{[path.name for path in _subfolders(folder)[:8]]}"
        )
    classes = _subfolders(root)
    files = [_images_in(path) for path in classes or [root]]
    paths = [path for group in files for path in group]
    if not paths:
        raise ValueError(
            "A folder of images must hold images of the types "
            f"{', '.join(sorted(SUFFIXES))}, in one subfolder per class or without any. "
            f"Received: {root}, {len(classes)} subfolders and no image"
        )
    labels = np.repeat(np.arange(len(files)), [len(group) for group in files])
    images, kept = image_tools.decode(paths, size, on_error, names=paths)
    names = tuple(path.name for path in classes) or None
    return Split(image_tools.stack(images), labels[kept], names)


def _subfolders(folder):
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _images_in(folder):
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
