"""Files have the layout of Keras, hold whole pretraining models, and mean the same on every backend."""

import json

import h5py
import keras
import numpy as np
import pytest
from _elsewhere import run_elsewhere
from _preset import CONFIG, IMAGES, pretraining_model, randomise

from star_keras import models
from star_keras.exceptions import (
    ConfigError,
)
from star_keras.models import registry, weights


def nested_model():
    """Layers inside lists, dicts and models, some of them reachable twice."""
    inner = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(2)])
    inputs = keras.Input((3,))
    x = inner(inputs)
    return keras.Model(inputs, [keras.layers.Dense(2)(x), keras.layers.BatchNormalization()(x)])


class Containers(keras.Model):
    def __init__(self):
        super().__init__()
        self.stack = [keras.layers.Dense(2), [keras.layers.Dense(3), keras.layers.Dense(4)]]
        self.by_name = {"b": keras.layers.Dense(2), "a": self.stack[0]}
        self._hidden = keras.layers.LayerNormalization()

    def build(self, input_shape):
        for layer in (self.stack[0], *self.stack[1], self.by_name["b"], self._hidden):
            layer.build(input_shape)
        self.built = True


def datasets(path):
    found = {}

    def visit(name, item):
        if isinstance(item, h5py.Dataset):
            found[name] = item[()]

    with h5py.File(path) as file:
        file.visititems(visit)
    return found


@pytest.mark.parametrize(
    "make",
    [
        lambda: models.create("resnet18", input_shape=(32, 32, 3)),
        lambda: models.create("resnet8", num_classes=3),
        pretraining_model,
        nested_model,
        Containers,
    ],
    ids=["resnet18", "classifier", "pretraining", "nested", "containers"],
)
def test_files_have_the_layout_of_keras(make, tmp_path):
    model = make()
    if not model.built:
        model.build((None, 32, 32, 3))
    model.save_weights(tmp_path / "keras.weights.h5")
    weights.write(tmp_path / "ours.weights.h5", model)
    theirs, ours = (datasets(tmp_path / f"{name}.weights.h5") for name in ("keras", "ours"))
    assert set(theirs) == set(ours) and theirs
    for path, value in theirs.items():
        np.testing.assert_array_equal(ours[path], value)
    weights.read(tmp_path / "keras.weights.h5", model)


def test_a_group_of_a_file_fills_the_backbone_alone(tmp_path):
    model = pretraining_model()
    model.build((None, 32, 32, 3))
    randomise(model)
    weights.write(tmp_path / "whole.weights.h5", model)
    backbone = models.create("resnet8", input_shape=(32, 32, 3))
    weights.read(tmp_path / "whole.weights.h5", backbone, group="backbone")
    np.testing.assert_array_equal(np.asarray(backbone(IMAGES)), np.asarray(model.backbone(IMAGES)))


SCRIPT = """
import sys, numpy as np
from star_keras import models
model = models.load(sys.argv[1], part="classifier")
images = np.random.default_rng(5).integers(0, 256, (4, 32, 32, 3), dtype="uint8")
np.save(sys.argv[2], np.asarray(model.predict(images, verbose=0)))
"""


@pytest.mark.slow
@pytest.mark.fault(60)
@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_a_saved_model_is_the_same_in_a_new_process_on_every_backend(backend, tmp_path):
    model = models.create("resnet20", input_shape=(32, 32, 3), num_classes=10)
    randomise(model)
    models.save(model, tmp_path / "mine")
    run_elsewhere(SCRIPT, tmp_path / "mine", tmp_path / "out.npy", backend=backend)
    images = np.random.default_rng(5).integers(0, 256, (4, 32, 32, 3), dtype="uint8")
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), np.asarray(model(images)), atol=1e-5)


# Architectures around a backbone


def test_a_pretraining_model_is_saved_whole_and_loaded_in_parts(tmp_path):
    model = pretraining_model()
    model.build((None, 32, 32, 3))
    randomise(model)
    model.seed_generator.state.assign(np.array([7, 11], "uint32"))
    models.save(model, tmp_path / "star")

    backbone = models.load(tmp_path / "star")
    np.testing.assert_array_equal(np.asarray(backbone(IMAGES)), np.asarray(model.backbone(IMAGES)))
    whole = models.load(tmp_path / "star", part="pretraining")
    np.testing.assert_array_equal(np.asarray(whole.seed_generator.state), [7, 11])
    features = model.backbone(IMAGES)
    for task, embeddings in model.projector(features).items():
        np.testing.assert_array_equal(np.asarray(whole.projector(features)[task]), np.asarray(embeddings))
    assert models.load(tmp_path / "star", num_classes=2).output_shape == (None, 2)
    with pytest.raises(ValueError, match="'backbone', 'pretraining'"):
        models.load(tmp_path / "star", part="classifier")


@pytest.mark.fault(29, 30, 31)
@pytest.mark.parametrize(
    "changes, key",
    [
        ({"backbone": None}, "config.backbone"),
        ({"backbone": {"architecture": "os.system"}}, "architecture"),
        ({"backbone": {"input_shape": [32, 32, 3]}}, "architecture"),
        ({"backbone": {"architecture": "resnet20", "depth": -1}}, "config.backbone.depth"),
        ({"projector": {"units": 8, "num_experts": 10**6}}, "config.projector.num_experts"),
        ({"projector": {"units": 8}}, "config.projector.num_experts"),
        ({"projector": [8, 2]}, "config.projector"),
        ({"num_classes": 3}, "config.num_classes"),
    ],
    ids=str,
)
def test_nested_configurations_are_checked_all_the_way_down(changes, key, tmp_path):
    nested = {
        "backbone": {"architecture": "resnet20", "input_shape": [32, 32, 3]},
        "projector": {"units": 8, "num_experts": 2},
        "predictor": {},
    }
    content = {"format": 1, "star_keras": "0.1.0", "architecture": "star", "config": nested | changes}
    content["weights"] = {"bytes": 1, "sha256": 64 * "0"}
    (tmp_path / CONFIG).write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=f"`{key}"):
        models.load(tmp_path)


def test_an_architecture_is_registered_once():
    known = registry.architecture("resnet18")
    with pytest.raises(ValueError, match="taken"):
        registry.register("resnet18", models.create, known.describe, known.options)
    registry.register("resnet18", known.build, known.describe, known.options)
    assert registry.architecture("resnet18") == known
