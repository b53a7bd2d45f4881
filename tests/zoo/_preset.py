"""What tests of the zoo share: one small preset, edits that damage it, and a watch over files and sockets."""

import gc
import hashlib
import json
import pathlib
import re
import sys

import h5py
import keras
import numpy as np
import pytest

import star_keras
from star_keras import models

FULL, BARE = "test-resnet8.noise-1", "test-resnet8"
SMALL = ("basic", (1, 1, 1), (8, 16, 32), "padded", "cifar")  # "resnet8": one block a stage
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (4, 32, 32, 3), dtype="uint8")
WEIGHTS, CONFIG = "model.weights.h5", "config.json"
KERNEL = "layers/conv2d/vars/0"


def trained_classifier():
    """A classifier whose every variable is off its initial value."""
    keras.utils.set_random_seed(1)
    model = models.create("resnet8", input_shape=(32, 32, 3), num_classes=10)
    for variable in model.variables:
        noise = RNG.normal(0, 0.05, variable.shape).astype("float32")
        variable.assign(np.abs(variable + noise) + 0.1 if "variance" in variable.path else variable + noise)
    return model


def pretraining_model():
    return star_keras.training.STARPretraining(
        backbone=models.create("resnet8", input_shape=(32, 32, 3)),
        augmentation=star_keras.augmentation.star_views(32),
        projector=star_keras.layers.RoutedExperts(
            8, num_experts=2, tasks=("invariant", "equivariant"), hidden_units=(6,)
        ),
    )


def randomise(model):
    for variable in model.variables:
        if "float" in keras.backend.standardize_dtype(variable.dtype):
            low = 0.1 if "variance" in variable.path else -1
            variable.assign(RNG.uniform(low, 1, variable.shape).astype("float32"))


def change_config(folder, **changes):
    """Rewrites entries of a folder's `config.json`; None removes one."""
    content = json.loads((folder / CONFIG).read_text()) | changes
    content = {key: value for key, value in content.items() if value is not None}
    (folder / CONFIG).write_text(json.dumps(content))


def change_weights(folder, edit):
    """Applies `edit` to the open HDF5 file and makes the folder's hash right again."""
    path = folder / WEIGHTS
    with h5py.File(path, "r+") as file:
        edit(file)
    sign(folder)


def sign(folder):
    content = (folder / WEIGHTS).read_bytes()
    change_config(folder, weights={"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()})


def replace(name, **dataset):
    """An edit that puts another dataset in the place of one."""

    def edit(file):
        del file[name]
        file.create_dataset(name, **dataset)

    return edit


class memory_growth:
    """`.mb`: the most memory that was held inside at any moment, beyond what was held before.

    The system forgets its high-water mark first, which an earlier test may have set far above.
    """

    def __enter__(self):
        gc.collect()
        try:
            pathlib.Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            pytest.skip("needs a system that can forget its high-water mark of memory, as Linux can")
        self.before = _high_water_mark()
        return self

    def __exit__(self, *_):
        self.mb = (_high_water_mark() - self.before) / 1024


def _high_water_mark():
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])


# What a process touches: an audit hook sees every file and socket that Python opens.

_touched = None


def _watch(event, arguments):
    if _touched is not None and (event == "open" or event.startswith("socket.")):
        _touched.append((event, *map(str, arguments)))


sys.addaudithook(_watch)


class watching:
    """Collects the files and sockets that are opened inside."""

    def __enter__(self):
        global _touched
        _touched = []
        return _touched

    def __exit__(self, *_):
        global _touched
        _touched = None


def sockets(events):
    return [event for event in events if event[0].startswith("socket.")]


def written(events):
    """Files opened for writing; compiled bytecode of imports aside."""
    modes = [event for event in events if event[0] == "open" and set(event[2]) & set("wxa+")]
    return [event for event in modes if "__pycache__" not in event[1]]
