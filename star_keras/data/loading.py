"""The one call for all sources."""

import difflib
import os
import pathlib

from star_keras.data import data_folder, fashion_mnist, folders, images, npz, prepared
from star_keras.guards.arguments import check_choice, check_count

EMBEDDED = "fashion_mnist"
MADE = ("cifar10_train45k", "cifar10_test1k")  # by tools/make_cifar10.py


def load(name, split=None, size=None, data_dir=None, download=False, on_error="raise"):
    """Loads one split of an image set into NumPy arrays.

    Looked for in this order, nothing is ever fetched unless `download=True`:

    1. a path (a `pathlib.Path`, or a string with a separator, such as `"./photos"`): a folder with one
       subfolder of images per class, below a folder per split or not, or of images without classes,
       whose labels are all 0; or an `.npz` file;
    2. `"fashion_mnist"`: 10,000 training and 2,000 test images that travel with the package, the first
       of each class, pixels unchanged (MIT licence);
    3. `<name>.npz` in the folder named by the environment variable `STAR_KERAS_DATA`;
    4. a set prepared by tensorflow-datasets, `"name"`, `"name/config"` or `"name:1.0.0"`.

    An `.npz` file holds, for each split, such as `train`, `x_train`, uint8 images `(n, height, width, 3)` or
    grey `(n, height, width)`, and `y_train`, n integers, as `keras.datasets` gives them. Or it holds image
    files: `blob`, all their bytes one after another as uint8, `offsets`, where each begins and the last ends,
    and `labels`; several splits put their name in front (`train_blob`). `class_names`, if there, are strings
    by label. Nothing in it is unpickled. `tools/make_cifar10.py` writes two such files.

    With `data_dir` or `download` a name is that of a prepared set; paths are read all the same. Pillow (extra
    `data`) decodes images; the embedded set needs nothing.

    Args:
        name: name of a set, or a path.
        split: name of a split, such as `"train"` or `"test"`. Defaults to None: `"train"` where there is
            one, else the only split.
        size: side in pixels: the shorter side is resized to it (bicubic) and the square in the middle
            kept. Defaults to None: sizes as they are, as those of detection sets must be.
        data_dir: folder of prepared tensorflow-datasets. Defaults to the one that `TFDS_DATA_DIR` names, or
            to that of the library.
        download: let tensorflow-datasets fetch and prepare the set. Defaults to False.
        on_error: `"raise"`, or `"skip"` to leave out images that cannot be decoded, with one counted
            warning.

    Returns:
        A `Split`: `images` in [0, 255], `labels`, `class_names` and, for detection sets, `boxes`.

    Raises:
        TypeError: if `name` is neither a string nor a path.
        ValueError: if there is no such set or split, an image cannot be decoded, or `size` is no positive
            whole number.
        IntegrityError: if an npz file is not whole.
        ImportError: if a source needs a package that is not installed; names the extra.

    Example:

    >>> train = load("fashion_mnist")
    >>> train.images.shape, train.labels[:4], train.class_names[9]
    ((10000, 28, 28), array([9, 0, 0, 3]), 'ankle boot')
    >>> test_images, test_labels, *_ = load("fashion_mnist", split="test")
    >>> len(test_labels)
    2000
    """
    if not isinstance(name, str | os.PathLike):
        raise TypeError(
            f"`name` must be a string or a path. Received: {str(name)[:80]} of type {type(name).__name__}"
        )
    check_choice("on_error", on_error, ("raise", "skip"))
    size = None if size is None else check_count("size", size)
    path = _existing_path(name)
    if path is not None:
        reader = folders if path.is_dir() else npz
        return reader.read(path, split, size, on_error)
    if isinstance(name, os.PathLike) or name.startswith((".", "/", "~")):  # "a/b" may be a known set's
        raise ValueError(f"`name` must be an existing folder or npz file. Received: name={str(name)[:200]!r}")
    name = name.strip()
    if data_dir is None and not download:
        if name == EMBEDDED:
            return _embedded(split, size)
        file = _files().get(name)
        if file is not None:
            return npz.read(file, split, size, on_error)
    if download or prepared.is_prepared(name, data_dir):
        return prepared.read(name, split, size, data_dir, download)
    raise ValueError(_unknown(name, data_dir))


def _embedded(split, size):
    found = fashion_mnist.read(npz.choose(split, list(fashion_mnist.SPLITS), EMBEDDED))
    return found._replace(images=images.resize(found.images, size))


def _existing_path(name):
    separators = {os.sep, os.altsep, "/"} - {None}
    if isinstance(name, str) and not any(separator in name for separator in separators):
        return None
    try:
        path = pathlib.Path(name).expanduser()
        return path if path.exists() else None
    except (OSError, ValueError, RuntimeError):
        return None


def _files():
    """`{name: path}` of the npz files in the data folder."""
    folder = data_folder.folder()
    return {path.stem: path for path in sorted(folder.glob("*.npz"))} if folder else {}


def _unknown(name, data_dir):
    folder, root = data_folder.folder(), prepared.root(data_dir)
    known = [path.name for path in root.iterdir() if path.is_dir()] if root.is_dir() else []
    places = [f"prepared tensorflow-datasets in {root}"]
    if data_dir is None:
        known += [EMBEDDED, *(stem for stem, path in _files().items() if npz.is_image_set(path))]
        places.append(
            f"npz files in {folder}" if folder else f"npz files ({data_folder.VARIABLE} names no folder)"
        )
        places.append(f"the embedded {EMBEDDED!r}")
    closest = difflib.get_close_matches(name[:80], known, n=3, cutoff=0.3)
    if name in MADE:
        last = "`python tools/make_cifar10.py FOLDER` in a checkout writes it, see Data in README."
    else:
        last = "In Python `download=True` asks tensorflow-datasets; README, Data, tells of other sets."
    return (
        "`name` must be a known image set, or the path of a folder or an npz file. "
        f"Received: name={name[:80]!r}. Closest names: {', '.join(map(repr, closest)) or 'none'}. "
        f"Looked for: {'; '.join(reversed(places))}. A folder needs a separator (`./name`). {last}"
    )
