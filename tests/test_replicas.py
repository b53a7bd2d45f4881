"""Two replicas equal one with the global batch: losses to 1e-5, weights to 2e-5, augmentation on."""

import json
import re

import numpy as np
import pytest
from _elsewhere import TWO_CPUS, run_elsewhere

SCRIPT = """
import json, sys
import numpy as np
import keras

import star_keras as sk

replicas, policy, sizes = int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
keras.config.set_dtype_policy(policy)


def conv(x, filters):
    x = keras.layers.Conv2D(filters, 3, strides=2, use_bias=False)(x)
    return keras.layers.ReLU()(sk.layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x))


def make_model():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Rescaling(1 / 127.5, offset=-1, dtype="float32")(inputs)
    x = conv(conv(x, 8), 16)
    backbone = keras.Model(inputs, keras.layers.GlobalAveragePooling2D(dtype="float32")(x))
    model = sk.training.STARPretraining(
        backbone,
        sk.augmentation.star_views(16),
        sk.layers.RoutedExperts(8, num_experts=4, tasks=("invariant", "equivariant"), hidden_units=(12, 12)),
    )
    model.build((None, 16, 16, 3))
    model.compile(keras.optimizers.SGD(0.02, momentum=0.9, weight_decay=5e-3))
    return model


names = [f"/cpu:{i}" for i in range(replicas)]
strategy = tf.distribute.MirroredStrategy(names) if replicas > 1 else tf.distribute.get_strategy()
with strategy.scope():
    model = make_model()
images = np.random.default_rng(1).integers(0, 256, (sum(sizes), 16, 16, 3), dtype="uint8")
losses = []
if len(set(sizes)) > 1:  # the last batch is smaller
    losses = model.fit(images, batch_size=sizes[0], shuffle=False, verbose=0).history
    losses = [losses[name][0] for name in sorted(losses)]
else:
    for batch in np.split(images, len(sizes)):
        losses.append(model.fit(batch, batch_size=sizes[0], shuffle=False, verbose=0).history["loss"][0])
weights = [np.array(v) for v in model.weights]
np.savez(sys.argv[4], *weights)
print(json.dumps({"losses": losses, "seed": np.array(model.seed_generator.state).tolist()}))
"""


def run(folder, replicas, policy="float32", sizes=(16,) * 5):
    """Losses, seed and weights of a training in a new process."""
    file = folder / f"{replicas}.npz"
    said = run_elsewhere(TWO_CPUS + SCRIPT, replicas, policy, json.dumps(sizes), file)
    with np.load(file) as weights:
        return json.loads(said.splitlines()[-1]), [weights[name] for name in weights.files]


@pytest.mark.slow
def test_two_replicas_equal_one(tmp_path):
    (one, one_weights), (two, two_weights) = run(tmp_path, 1), run(tmp_path, 2)
    np.testing.assert_allclose(one["losses"], two["losses"], rtol=1e-5)
    assert one["seed"] == two["seed"]
    for single, mirrored in zip(one_weights, two_weights, strict=True):
        np.testing.assert_allclose(single, mirrored, atol=2e-5 * max(1.0, np.abs(single).max()))
    assert len(set(np.round(one["losses"], 6))) == 5


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(16, 16, 11), (8, 8, 1)], ids=["uneven", "empty"])
def test_two_replicas_with_uneven_shares_still_take_the_same_steps(tmp_path, sizes, monkeypatch):
    if sizes[-1] == 1:  # of no images, oneDNN makes maps of the shape of the images
        monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    (one, one_weights), (two, two_weights) = run(tmp_path, 1, sizes=sizes), run(tmp_path, 2, sizes=sizes)
    np.testing.assert_allclose(one["losses"], two["losses"], rtol=1e-5)
    for single, mirrored in zip(one_weights, two_weights, strict=True):
        np.testing.assert_allclose(single, mirrored, atol=2e-5 * max(1.0, np.abs(single).max()))


@pytest.mark.slow
def test_two_replicas_train_in_half_precision(tmp_path):
    one, _ = run(tmp_path, 1, "mixed_bfloat16")
    two, weights = run(tmp_path, 2, "mixed_bfloat16")
    np.testing.assert_allclose(one["losses"][0], two["losses"][0], rtol=1e-3)
    assert np.isfinite(two["losses"]).all()
    assert all(np.isfinite(weight).all() for weight in weights)


RECIPE = """
import sys
from star_keras.__main__ import main

recipe = ["pretrain", "star-resnet20", "--smoke", "--folder", "run", "--precision", "float32"]
code = main([*recipe, "--strategy", sys.argv[1]])
print(f"replicas: {tf.distribute.get_strategy().num_replicas_in_sync}")
sys.exit(code)
"""


@pytest.mark.slow
def test_a_recipe_trains_the_same_network_on_all_devices(tmp_path):
    losses = {}
    for strategy in ("one", "mirrored"):
        folder = tmp_path / strategy
        folder.mkdir()
        said = run_elsewhere(TWO_CPUS + RECIPE, strategy, cwd=folder)
        assert said.endswith(f"replicas: {1 + (strategy == 'mirrored')}\n")
        losses[strategy] = [float(loss) for loss in re.findall(r" loss: ([\d.]+)", said)]
    # A random network of this depth doubles what rounding differs by several times a step.
    np.testing.assert_allclose(losses["one"][0], losses["mirrored"][0], rtol=1e-5)
    np.testing.assert_allclose(losses["one"][1], losses["mirrored"][1], rtol=5e-4)
    assert len(losses["one"]) == len(losses["mirrored"]) > 2
