"""Presets into the catalogue, written by a program so that no hash or size can be mistyped."""

import dataclasses
import pathlib
import re
import tempfile

import keras
import numpy as np

from star_keras import data
from star_keras.exceptions import IntegrityError
from star_keras.models import registry
from star_keras.models.checks import to_json
from star_keras.models.saving import FORMAT, WEIGHTS_NAME, load, replace_files, save, write_text
from star_keras.models.weights import file_hash

NUM_IMAGES, NUM_DIMENSIONS = 8, 16
TOLERANCE = 1e-3


def publish(model, name, *, description, task, training_data, license, results, folder=None, replace=False):
    """Saves a model in the zoo, as float16, and enters it in the catalogue.

    Args:
        model: a backbone, classifier or pretraining model of a registered architecture.
        name: in full, `method-architecture.tag`, such as "star-resnet20.cifar10-1"; a plain classifier
            has no method. The bare name, without the tag, becomes an alias of it.
        description: one sentence: method, architecture, data, resolution.
        task: what it was trained for, such as "self-supervised" or "classification".
        training_data: what it was trained on.
        license: of the weights.
        results: dict of what was measured, plain JSON.
        folder: name of the folder in the zoo. Defaults to the bare name.
        replace: whether a record of the same name may be replaced: before a release only, since a
            published name never changes its meaning.

    Returns:
        The record.

    Raises:
        ValueError: if the name is malformed, or known and `replace` is False.
        FileExistsError: if the folder holds another preset's weights.
    """
    bare = name.partition(".")[0]
    relative = f"{folder or bare}/{WEIGHTS_NAME}"
    _check_new(name, relative, replace)
    to_json(results)  # raises on NaN, before anything is written
    architecture, config = registry.describe(model)
    path = registry.CATALOGUE.zoo / relative
    embeddings = _ship(model, path.parent)
    record = {
        "description": description,
        "architecture": architecture,
        "config": config,
        "task": task,
        "data": training_data,
        "parts": list(registry.parts(architecture, config)),
        "license": license,
        "results": results,
        "weights": relative,
        "bytes": path.stat().st_size,
        "sha256": file_hash(path),
        "format": FORMAT,
        "embeddings": [[float(f"{value:.7g}") for value in row] for row in embeddings],
        "withdrawn": None,
    }
    _enter(name, bare, record)
    return record


def _check_new(name, weights, replace):
    """Raises unless a preset may have this name and keep its weights at this path of the zoo."""
    if not re.fullmatch(r"([a-z0-9_]+-)*[a-z0-9_]+\.[a-z0-9_-]+", name):
        raise ValueError(
            "`name` must be of the form 'method-architecture.tag', or 'architecture.tag' for a classifier. "
            f"Received: name={name!r}"
        )
    presets = registry.CATALOGUE.presets
    if name in presets and not replace:
        raise ValueError(
            "`name` must be new: a published preset never changes. "
            f"Received: name={name!r}. Take the next tag."
        )
    for other, record in presets.items():
        if record["weights"] == weights and other != name:
            raise FileExistsError(
                f"`folder` must not hold another preset. Received: {weights} of {other}. Pass another one."
            )


def _ship(model, folder):
    """Puts the files of a model into a folder of the zoo; what they say of the fixed inputs."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".") as staging:
        staged = pathlib.Path(staging, folder.name)
        save(model, staged, float16=True)
        embeddings = embed_fixed_inputs(load(staged, dtype="float32"))
        folder.mkdir(exist_ok=True)
        replace_files(staged, folder)
    return embeddings


def _enter(name, bare, record):
    """Writes a record into the catalogue under its full name, and under the bare one an alias."""
    catalogue = dataclasses.replace(
        registry.CATALOGUE,
        presets={**registry.CATALOGUE.presets, name: record},
        aliases={**registry.CATALOGUE.aliases, bare: name},
    )
    content = {
        "format": FORMAT,
        "presets": catalogue.presets,
        "aliases": catalogue.aliases,
        "renamed": catalogue.renamed,
    }
    write_text(catalogue.file, to_json(content))
    registry.CATALOGUE = catalogue


def verify(name):
    """Checks a preset: size and hash of its file, and what it says of eight fixed inputs.

    Args:
        name: of a preset, full or bare.

    Returns:
        The largest difference to the stored embeddings, as a fraction of the largest of them.

    Raises:
        IntegrityError: if the file or the numbers are not those of the record.
    """
    stored = np.asarray(registry.info(name)["embeddings"], "float32")
    found = embed_fixed_inputs(load(name, dtype="float32"))
    difference = float(np.max(np.abs(found - stored)) / np.max(np.abs(stored)))
    if not difference <= TOLERANCE:
        raise IntegrityError(
            f"{name} must give the stored embeddings to {TOLERANCE} of their size. Received: a difference of "
            f"{difference:.2g}. The file is right, so the library or its backend computes something else."
        )
    return difference


def embed_fixed_inputs(model):
    """The first 16 dimensions of what a model says of eight fixed inputs, float32: images, or what the
    model calls its `fixed_inputs`."""
    if hasattr(model, "fixed_inputs"):
        inputs = model.fixed_inputs(NUM_IMAGES)
    else:
        inputs = fixed_images(model.input_shape[1:3], model.minimum_size)
    outputs = model(inputs, training=False)
    outputs = keras.ops.convert_to_numpy(outputs).reshape(NUM_IMAGES, -1)
    return outputs[:, :NUM_DIMENSIONS].astype("float32")


def fixed_images(size, minimum_size=1):
    """Eight images of the embedded set as RGB: magnified by whole pixels, then centred on black.

    Args:
        size: `(height, width)`; None in it stands for 32, or what the model needs at least.
        minimum_size: of the model, in pixels.

    Returns:
        A uint8 array `(8, height, width, 3)`.
    """
    height, width = (side or max(32, minimum_size) for side in size)
    images = data.load("fashion_mnist").images[:NUM_IMAGES]
    factor = max(1, min(height, width) // images.shape[1])
    images = np.kron(images, np.ones((1, factor, factor), images.dtype))
    canvas = np.zeros((NUM_IMAGES, height, width, 3), "uint8")
    rows, columns = _centred(images.shape[1], height), _centred(images.shape[2], width)
    canvas[:, rows[1], columns[1]] = images[:, rows[0], columns[0], None]
    return canvas


def _centred(inner, outer):
    """The slices of an axis of `inner` pixels and of one of `outer` that cover each other when centred."""
    common = min(inner, outer)
    starts = (inner - common) // 2, (outer - common) // 2
    return tuple(slice(start, start + common) for start in starts)
