"""The classifier of images on any side, how its score is trained, and the preset."""

import itertools

import h5py
import keras
import numpy as np
import pytest

import star_keras as sk
from star_keras.exceptions import ConfigError, ShapeError
from star_keras.models import weights

PRESET = "lambda-equitune-resnet20.cifar10-1"
BACKBONE = {"architecture": "resnet20", "input_shape": [8, 8, 3]}
RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.integers(0, 256, (12, 8, 8, 3), dtype="uint8"), RNG.integers(0, 3, 12)


def classifier(**options):
    """A small classifier whose score is far from uniform."""
    arguments = {"backbone": BACKBONE, "num_classes": 3, "hidden_units": [5], **options}
    model = sk.models.create("lambda_equitune", **arguments)
    for variable in model.equitune.score.variables:
        variable.assign(RNG.normal(0, 3, variable.shape))
    return model


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_an_image_and_its_turns_get_one_answer(turns):
    model = classifier()
    turned = model.predict(np.rot90(IMAGES, turns, axes=(1, 2)), verbose=0)
    np.testing.assert_allclose(turned, model.predict(IMAGES, verbose=0), atol=1e-5)
    assert np.ptp(model.equitune.orbit_weights(IMAGES), axis=1).max() > 0.1


def test_outputs_are_probabilities_of_the_weighted_logits():
    model = classifier()
    logits = np.stack([model.equitune.model(np.rot90(IMAGES, k, axes=(1, 2))) for k in range(4)], axis=1)
    mean = np.sum(np.asarray(model.equitune.orbit_weights(IMAGES))[..., None] * logits, axis=1)
    expected = np.exp(mean) / np.exp(mean).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(model(IMAGES), expected, atol=1e-5)
    assert classifier(classifier_activation=None).equitune.model.classifier_activation is None


def test_it_is_saved_in_the_layout_of_keras_and_loaded_again(tmp_path):
    model = classifier()
    sk.models.save(model, tmp_path / "ours")
    again = sk.models.load(tmp_path / "ours")
    np.testing.assert_allclose(again(IMAGES), model(IMAGES), atol=1e-6)
    with pytest.raises(ValueError, match="'classifier'"):
        sk.models.load(tmp_path / "ours", part="backbone")
    model.save_weights(tmp_path / "keras.weights.h5")
    weights.read(tmp_path / "keras.weights.h5", again)
    names = [set(), set()]
    for path, found in zip(("ours/model.weights.h5", "keras.weights.h5"), names, strict=True):
        with h5py.File(tmp_path / path) as file:
            file.visititems(
                lambda name, item, found=found: found.add(name) if hasattr(item, "dtype") else None
            )
    assert names[0] == names[1]


@pytest.mark.parametrize(
    "error,changes",
    [
        (ConfigError, {"backbone": {"architecture": "os.system"}}),
        (ConfigError, {"hidden_units": [2**17]}),
        (ConfigError, {"hidden_units": [2**16] * 3}),
        (ConfigError, {"num_classes": 0}),
        (ShapeError, {"backbone": {"architecture": "resnet20", "input_shape": [8, 12, 3]}}),
    ],
    ids=str,
)
def test_impossible_classifiers_are_refused(error, changes):
    with pytest.raises(error, match="Received"):
        sk.models.create("lambda_equitune", **{"backbone": BACKBONE, "num_classes": 3, **changes})


def test_a_single_width_is_refused():
    backbone = sk.models.create("resnet20", input_shape=(32, 32, 3))
    with pytest.raises(ValueError, match="`hidden_units` must be a tuple.*Received: hidden_units=5"):
        sk.models.LambdaEquiTune(backbone, num_classes=3, hidden_units=5)


def test_fit_trains_the_score_alone_when_the_classifier_is_frozen():
    model = classifier()
    model.equitune.model.trainable = False
    frozen, score = model.equitune.model.get_weights(), model.equitune.score.get_weights()
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(IMAGES, LABELS, batch_size=6, verbose=0)
    for before, after in zip(frozen, model.equitune.model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    assert not np.array_equal(score[0], model.equitune.score.get_weights()[0])


def test_the_score_learns_from_what_the_model_said_once_as_from_the_wrapper():
    model = classifier()
    wrapper, start = model.equitune, model.equitune.score.get_weights()
    features, outputs = sk.recipes.orbit_outputs(wrapper, IMAGES)
    history = sk.recipes.learn_orbit_weights(wrapper, features, outputs, LABELS, epochs=3, batch_size=12)
    learned = wrapper.score.get_weights()
    assert history["loss"][-1] < history["loss"][0]

    wrapper.score.set_weights(start)
    wrapper.model.trainable = False
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for layer in wrapper.model.layers:
        assert not layer.trainable
    wrapper.compile(keras.optimizers.Adam(1e-3), loss)
    turned = np.stack([np.rot90(image, k) for image, k in zip(IMAGES, itertools.cycle(range(4)))])
    whole = wrapper.fit(turned, LABELS, batch_size=12, epochs=3, verbose=0, shuffle=False).history
    np.testing.assert_allclose(whole["loss"], history["loss"], rtol=1e-4)
    for cached, direct in zip(learned, wrapper.score.get_weights(), strict=True):
        np.testing.assert_allclose(cached, direct, atol=2e-4)


# The preset


@pytest.fixture(scope="module")
def preset():
    return sk.models.load("lambda-equitune-resnet20")


def test_the_preset_is_invariant_and_gives_the_stored_numbers(preset):
    assert sk.models.info("lambda-equitune-resnet20")["name"] == PRESET
    assert sk.models.info(PRESET)["parts"] == ["classifier"]
    assert sk.models.verify(PRESET) < 1e-3
    images = sk.data.to_rgb(sk.data.load("fashion_mnist").images[:8], 32)
    upright = preset.predict(images, verbose=0)
    np.testing.assert_allclose(upright.sum(axis=1), 1, atol=1e-5)
    for turns in (1, 2, 3):
        turned = preset.predict(np.rot90(images, turns, axes=(1, 2)), verbose=0)
        np.testing.assert_allclose(turned, upright, atol=1e-5)


def test_the_preset_is_the_pretrained_classifier_with_another_end(preset):
    pretrained = sk.models.load("resnet20.cifar10-1", part="classifier")
    for ours, theirs in zip(preset.equitune.model.get_weights(), pretrained.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_preset_reads_turned_images_that_the_pretrained_classifier_does_not(preset, data_folder):
    test = sk.data.load("cifar10_test1k")
    images, labels = test.images[:200], test.labels[:200]
    turned = np.stack([np.rot90(image, 1 + row % 3) for row, image in enumerate(images)])
    pretrained = sk.models.load("resnet20.cifar10-1", part="classifier")
    found, alone = (
        np.mean(one.predict(turned, verbose=0).argmax(axis=-1) == labels) for one in (preset, pretrained)
    )
    assert found > 0.7 and alone < 0.5


def test_weights_are_not_learned_apart_for_what_is_averaged_otherwise():
    score = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    inner = keras.Sequential(
        [keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(4, name="last")]
    )
    wrapper = sk.layers.EquiTune(
        inner, sk.groups.Cyclic(4), weighting="lambda", score=score, features="last", combine="log_probs"
    )
    features = np.zeros((3, 4, 4), "float32")
    with pytest.raises(
        ValueError, match="Received: weighting='lambda', output_group=None, combine='log_probs'"
    ):
        sk.recipes.learn_orbit_weights(wrapper, features, features, np.zeros(3, "int32"), epochs=1)
    mean = sk.layers.EquiTune(inner, sk.groups.Cyclic(4))
    with pytest.raises(ValueError, match="Received: weighting='mean'"):
        sk.recipes.learn_orbit_weights(mean, features, features, np.zeros(3, "int32"), epochs=1)
