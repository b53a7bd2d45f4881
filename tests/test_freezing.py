"""Layers that were frozen one by one are frozen in a copy, in a file and what is trained after it."""

import keras
import numpy as np
import pytest

from star_keras import models

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), dtype="uint8")
BACKBONE = {"architecture": "resnet20", "input_shape": (16, 16, 3)}


def classifier(frozen):
    model = models.create("resnet20", input_shape=(16, 16, 3), num_classes=3)
    for layer in model.layers[:-1] if frozen == "all but the head" else model.layers[4:9]:
        layer.trainable = False
    return model


def backbone():
    model = models.create("resnet20", input_shape=(16, 16, 3))
    for layer in model.layers[:10]:
        layer.trainable = False
    return model


def frozen_backbone():
    model = models.create("resnet20", input_shape=(16, 16, 3), num_classes=3)
    model.backbone.trainable = False
    return model


def mixture():
    model = models.create("moe_cnn", input_shape=(16, 16, 3), num_classes=3, num_experts=2)
    model.get_layer("conv_1").trainable = False
    return model


def on_any_side(part):
    model = models.create("lambda_equitune", backbone=BACKBONE, num_classes=3)
    getattr(model.equitune, part).trainable = False
    return model


def q_network():
    network = {"architecture": "q_network", "state_size": 2, "num_actions": 2, "hidden_units": [4]}
    mirror = [[[1, 0], [0, 1]], [[-1, 0], [0, -1]]]
    options = {"weighting": "lambda", "score_units": [3]}
    model = models.create(
        "equitune_q_network", network=network, states=mirror, actions=[[0, 1], [1, 0]], **options
    )
    model.equitune.score.trainable = False
    return model


CASES = {
    "head": lambda: classifier("all but the head"),
    "middle": lambda: classifier("middle"),
    "backbone": backbone,
    "frozen backbone": frozen_backbone,
    "mixture": mixture,
    "score": lambda: on_any_side("score"),
    "all but the score": lambda: on_any_side("model"),
    "q network": q_network,
}


def trained(model):
    """Paths, without names that Keras numbers, of what is trained."""
    return [variable.path.split("/")[-2:] for variable in model.trainable_variables]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_file_and_a_copy_train_what_the_model_trains(case, tmp_path):
    model = case()
    some = len(model.trainable_variables)
    assert 0 < some < len(model.weights)
    model.save(tmp_path / "model.keras")
    for other in (
        keras.models.load_model(tmp_path / "model.keras"),
        type(model).from_config(model.get_config()),
    ):
        assert len(other.trainable_variables) == some
        assert [weight.trainable for weight in other.weights] == [
            weight.trainable for weight in model.weights
        ]
    for layer in (*model.layers, getattr(model, "backbone", model)):
        layer.trainable = False
        layer.trainable = True
    model.save(tmp_path / "free.keras")
    free = keras.models.load_model(tmp_path / "free.keras")
    assert len(free.trainable_variables) == len(model.trainable_variables) > some


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_with_frozen_parts_it_is_thawed_and_frozen_as_a_whole(case):
    model = case()
    statistics = [weight for weight in model.weights if weight.name.startswith("moving_")]
    assert model.trainable
    model.trainable = True
    assert len(model.trainable_variables) == len(model.weights) - len(statistics)
    model.trainable = False
    assert not model.trainable_variables


def test_training_goes_on_with_its_optimizer_and_leaves_frozen_layers_alone(tmp_path):
    model = classifier("all but the head")
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(IMAGES, np.arange(6) % 3, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert len(loaded.optimizer.variables) == len(model.optimizer.variables)
    before = loaded.get_layer("stem_conv").get_weights()[0]
    loaded.fit(IMAGES, np.arange(6) % 3, verbose=0)
    np.testing.assert_array_equal(loaded.get_layer("stem_conv").get_weights()[0], before)
