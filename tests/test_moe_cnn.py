"""Laws of the small mixture of experts behind convolutions, `moe_cnn`."""

import keras
import numpy as np
import pytest

import star_keras as sk
from star_keras.exceptions import ConfigError, ShapeError

RNG = np.random.default_rng(0)


def test_the_network_has_the_layers_of_our_reading():
    model = sk.models.create("moe_cnn", num_classes=10, num_experts=5)
    shapes = {name: tuple(model.get_layer(name).output.shape[1:]) for name in ("conv_1", "conv_2", "code")}
    assert shapes == {"conv_1": (14, 14, 64), "conv_2": (6, 6, 128), "code": (50,)}
    assert model.get_layer("flatten").output.shape[-1] == 4608
    small = sk.models.create("moe_cnn", num_classes=10, input_shape=(28, 28, 3))
    assert small.get_layer("flatten").output.shape[-1] == 3200
    experts = model.get_layer("experts")
    assert (experts.num_experts, experts.hidden_units, experts.router_units) == (5, (100,), (100,))


@pytest.mark.fault(31)
def test_sizes_that_come_to_too_much_together_are_refused_before_anything_is_made():
    with pytest.raises(ConfigError, match="may come to 268435456 weights. Received: 4"):
        sk.models.create("moe_cnn", num_classes=10, num_experts=1024, hidden_units=(65536, 65536))
    backbone = {"architecture": "resnet20", "input_shape": [32, 32, 3]}
    for projector in (
        {"units": 65536, "num_experts": 1024},
        {"units": 8, "num_experts": 2, "router_units": (65536, 65536)},
    ):
        with pytest.raises(ConfigError, match="may come to 268435456 weights"):
            sk.models.create("star", backbone=backbone, projector=projector, predictor={})


def test_the_network_mixes_logits_and_ends_in_probabilities_of_float32():
    images = RNG.integers(0, 256, (4, 14, 14, 3), dtype="uint8")
    model = sk.models.create(
        "moe_cnn", num_classes=7, num_experts=3, input_shape=(14, 14, 3), dtype="mixed_bfloat16"
    )
    experts = model.get_layer("experts")
    code = keras.Model(model.input, experts.input)(images)
    gates = np.asarray(experts.route(code))
    outputs = np.asarray(keras.ops.cast(experts.expert_outputs(code), "float32"))
    logits = np.einsum("be,beu->bu", gates, outputs)
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert model(images).dtype == "float32"
    np.testing.assert_allclose(model(images), expected, atol=5e-3)


def test_the_network_is_saved_and_made_again_by_its_configuration(tmp_path):
    config = dict(
        num_classes=4, num_experts=2, input_shape=(14, 15, 3), hidden_units=[6], router_units=[], top_k=1
    )
    model = sk.models.create("moe_cnn", **config)
    sk.models.save(model, tmp_path / "moe")
    images = RNG.integers(0, 256, (3, 14, 15, 3), dtype="uint8")
    again = sk.models.load(tmp_path / "moe")
    np.testing.assert_allclose(again(images), model(images), atol=1e-6)


def test_the_smallest_images_leave_the_network_one_place():
    model = sk.models.create("moe_cnn", num_classes=3, input_shape=(12, 12, 3))
    assert model.get_layer("flatten").output.shape[-1] == 128
    assert model(np.zeros((2, 12, 12, 3), "uint8")).shape == (2, 3)
    with pytest.raises(ShapeError, match="at least 12 pixels"):
        sk.models.create("moe_cnn", num_classes=3, input_shape=(12, 11, 3))


@pytest.mark.parametrize(
    "error,arguments",
    [
        (ShapeError, dict(num_classes=3, input_shape=(11, 32, 3))),
        (ShapeError, dict(num_classes=3, input_shape=(None, None, 3))),
        (ConfigError, dict()),
        (ConfigError, dict(num_classes=3, num_experts=10**6)),
        (ValueError, dict(num_classes=3, num_experts=2, top_k=3)),
    ],
    ids=str,
)
def test_impossible_networks_are_refused(error, arguments):
    with pytest.raises(error, match="Received|needs"):
        sk.models.create("moe_cnn", **arguments)
