"""Pretraining, stopping and going on, on each backend with the other two not installed."""

import json

import pytest
from _elsewhere import run_elsewhere

SCRIPT = """
import importlib.machinery
import sys

backend, folder = sys.argv[1:]
others = {"tensorflow", "jax", "torch"} - {backend}

# Finding one of them now fails as if it were not installed.
finder = importlib.machinery.PathFinder
find = finder.find_spec
finder.find_spec = lambda name, *rest: None if name.split(".")[0] in others else find(name, *rest)

import json
import numpy as np
import keras
import star_keras as sk

assert keras.backend.backend() == backend
if backend == "tensorflow":
    # Three passes give three gradients to sum, and TensorFlow begins with whichever thread is done first.
    import tensorflow as tf

    tf.config.threading.set_inter_op_parallelism_threads(1)
images = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), dtype="uint8")


def make_model(seed):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Rescaling(1 / 255, dtype="float32")(inputs)
    x = sk.layers.BatchNormalization()(keras.layers.Conv2D(8, 3, strides=2)(x))
    backbone = keras.Model(inputs, keras.layers.GlobalAveragePooling2D(dtype="float32")(x))
    model = sk.training.STARPretraining(
        backbone,
        sk.augmentation.star_views(16),
        sk.layers.RoutedExperts(6, num_experts=3, tasks=("invariant", "equivariant"), hidden_units=(5,)),
    )
    model.build(images.shape)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9, weight_decay=5e-3))
    return model


def fit(name, epochs, seed=0):
    model, resume = make_model(seed), sk.callbacks.Resume(f"{folder}/{name}")
    model.fit(resume.batches(images, 4), epochs=epochs, initial_epoch=resume.epoch, shuffle=False,
              callbacks=[resume], verbose=0)
    return model, resume.history


straight, history = fit("straight", 3)
fit("broken", 1)
resumed, resumed_history = fit("broken", 3, seed=5)
assert history == resumed_history, (history, resumed_history)
for one, other in zip(straight.variables, resumed.variables, strict=True):
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(one.value), keras.ops.convert_to_numpy(other.value), err_msg=one.path
    )
seed = keras.ops.convert_to_numpy(straight.seed_generator.state.value).tolist()
evaluations = [straight.evaluate(images, batch_size=4, verbose=0, return_dict=True) for _ in range(2)]
assert evaluations[0] == evaluations[1]
assert seed == keras.ops.convert_to_numpy(straight.seed_generator.state.value).tolist()
backbone = sk.models.create("resnet20", input_shape=(32, 32, 3))
sk.models.save(backbone, f"{folder}/saved")
images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype="uint8")
loaded = sk.models.load(f"{folder}/saved").predict(images, verbose=0)
np.testing.assert_allclose(loaded, backbone.predict(images, verbose=0), atol=1e-5)
assert not others & set(sys.modules)
print(json.dumps({"loss": history["loss"]}))
"""


@pytest.mark.slow
@pytest.mark.fault(60)
@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_pretrains_stops_and_goes_on_with_no_other_backend_installed(backend, tmp_path):
    said = run_elsewhere(SCRIPT, backend, tmp_path, backend=backend)
    losses = json.loads(said.splitlines()[-1])["loss"]
    assert len(losses) == 3
    assert all(0 < loss < 20 for loss in losses)
