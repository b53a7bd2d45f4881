"""Sets prepared by tensorflow-datasets, read in the order in which they are stored."""

import os
import pathlib
import re

import numpy as np

from star_keras.data import images as image_tools
from star_keras.data.images import Split
from star_keras.data.npz import choose
from star_keras.optional import needed


def root(data_dir=None):
    """The folder prepared sets are looked for in."""
    default = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return pathlib.Path(data_dir or default).expanduser()


def is_prepared(name, data_dir=None):
    """Whether a set lies in the folder; neither imports anything nor asks a network."""
    plain = re.fullmatch(r"\w[\w./:-]{0,199}", name) and ".." not in name
    return bool(plain) and (root(data_dir) / name.split(":")[0]).is_dir()


def read(name, split=None, size=None, data_dir=None, download=False):
    """Reads one split of a prepared set as a `Split`; prepares it first only where `download` is true."""
    tfds = _library()
    folder = root(data_dir)
    try:
        if download:
            builder = tfds.builder(name, data_dir=folder)
            builder.download_and_prepare()
        else:
            builder = tfds.core.read_only_builder.builder_from_files(name, data_dir=str(folder))
    except tfds.core.DatasetNotFoundError as error:
        raise ValueError(
            f"{folder} must hold the prepared set. Received: name={name!r}, which is not whole there. "
            "Prepare it with `download=True`, or name version and configuration, as in 'name/config:1.0.0'."
        ) from error
    features = builder.info.features
    if not {"image", "label"} <= set(features):
        raise ValueError(
            f"The set must have the features `image` and `label`. Received: {sorted(features)} of {name!r}"
        )
    if split is None or split.isidentifier():
        split = choose(split, list(builder.info.splits), name)
    in_stored_order = tfds.ReadConfig(interleave_cycle_length=1)
    rows = tfds.as_numpy(builder.as_dataset(split=split, read_config=in_stored_order))
    pairs = [(_without_grey_channel(row["image"]), row["label"]) for row in rows]
    images = image_tools.stack([image for image, _ in pairs])
    labels = np.array([label for _, label in pairs], "int64")
    names = tuple(getattr(features["label"], "names", ())) or None
    return Split(image_tools.resize(images, size), labels, names)


def _without_grey_channel(image):
    return image[..., 0] if image.shape[-1] == 1 else image


def _library():
    purpose = "Sets of tensorflow-datasets need that package and TensorFlow to read them"
    needed("tensorflow", purpose, "data,tensorflow")
    return needed("tensorflow_datasets", purpose, "data,tensorflow")
