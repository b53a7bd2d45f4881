"""Presets are published, listed, loaded by name, changed and saved, under every policy."""

import hashlib
import json
import shutil

import h5py
import keras
import numpy as np
import pytest
from _preset import BARE, CONFIG, FULL, IMAGES, WEIGHTS, trained_classifier, watching

from star_keras import models
from star_keras.exceptions import (
    ConfigError,
    IntegrityError,
    NonFiniteError,
    ShapeError,
)
from star_keras.models import publishing, registry, saving, weights


def test_a_published_preset_loads_by_both_names(classifier):
    expected = np.asarray(classifier.backbone(IMAGES))
    for name in (FULL, BARE):
        backbone = models.load(name)
        assert isinstance(backbone, models.ResNet)
        np.testing.assert_allclose(
            np.asarray(backbone(IMAGES)), expected, atol=2e-3 * np.max(np.abs(expected))
        )
    whole = models.load(BARE, part="classifier")
    np.testing.assert_allclose(np.asarray(whole(IMAGES)), np.asarray(classifier(IMAGES)), atol=2e-3)


def test_the_record_describes_the_file(zoo, weights_file):
    record = models.info(BARE)
    assert record["name"] == FULL
    assert record["bytes"] == weights_file.stat().st_size
    assert record["sha256"] == hashlib.sha256(weights_file.read_bytes()).hexdigest()
    assert record["parts"] == ["backbone", "classifier"]
    assert np.shape(record["embeddings"]) == (8, 16)
    assert models.create(record["architecture"], **record["config"]).output_shape == (None, 10)
    record["results"]["accuracy"] = 1.0
    assert models.info(BARE)["results"] == {"accuracy": 0.1}


def test_published_weights_are_half_precision_and_load_in_keras_too(weights_file):
    kinds = set()
    with h5py.File(weights_file) as file:
        file.visititems(lambda name, item: kinds.add(getattr(item, "dtype", None)))
    assert kinds == {None, np.dtype("float16")}
    model = models.create("resnet8", input_shape=(32, 32, 3), num_classes=10)
    model.load_weights(weights_file)
    ours = models.load(BARE, part="classifier")
    for one, other in zip(model.get_weights(), ours.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_published_name_is_never_given_again(classifier, zoo):
    facts = {"description": "", "task": "", "training_data": "", "license": "", "results": {}}
    with pytest.raises(ValueError, match="never changes"):
        publishing.publish(classifier, FULL, **facts)
    with pytest.raises(ValueError, match="method-architecture.tag"):
        publishing.publish(classifier, "no tag", **facts)
    with pytest.raises(ValueError, match="JSON"):
        publishing.publish(classifier, "new-resnet8.a-1", **facts | {"results": {"accuracy": np.nan}})
    assert not (zoo.zoo / "new-resnet8").exists()
    with pytest.raises(FileExistsError, match="another preset"):
        publishing.publish(classifier, f"{BARE}.noise-2", **facts)
    publishing.publish(classifier, f"{BARE}.noise-2", folder="second", **facts)
    assert models.list() == [FULL, f"{BARE}.noise-2"]
    assert models.info(BARE)["name"] == f"{BARE}.noise-2"
    again = registry.Catalogue.read(zoo.file, zoo.zoo)
    assert again == registry.CATALOGUE


def test_verification_compares_the_numbers_of_fixed_images(zoo, monkeypatch):
    assert publishing.verify(BARE) < 1e-5
    zoo.presets[FULL]["embeddings"][3][5] += 0.01 * np.max(zoo.presets[FULL]["embeddings"])
    with pytest.raises(IntegrityError, match="embeddings"):
        publishing.verify(BARE)


@pytest.mark.parametrize("size", [(32, 32), (28, 28), (20, 70), (96, 64), (None, None)])
def test_fixed_images_are_whole_pixels_centred_on_black(size):
    images = publishing.fixed_images(size)
    height, width = (side or 32 for side in size)
    assert images.shape == (8, height, width, 3) and images.dtype == np.uint8
    assert images.max() > 200 and np.array_equal(images[..., 0], images[..., 2])
    np.testing.assert_array_equal(images, publishing.fixed_images(size))


def test_list_matches_full_and_bare_names(zoo):
    assert models.list() == models.list("test-*") == models.list(BARE) == models.list(FULL) == [FULL]
    assert models.list("other-*") == []


def test_random_weights_need_neither_disk_nor_network(zoo):
    shutil.rmtree(zoo.zoo)
    models.load(BARE, weights=False)  # whatever is imported lazily has been
    with watching() as events:
        model = models.load(BARE, weights=False)
    assert events == []
    assert model.output_shape == (None, 32)


def test_transfer_puts_a_new_head_on_the_trained_backbone(classifier):
    model = models.load(BARE, num_classes=3)
    assert model.output_shape == (None, 3)
    np.testing.assert_array_equal(np.asarray(model.backbone(IMAGES)), np.asarray(models.load(BARE)(IMAGES)))
    logits = models.load(BARE, num_classes=3, classifier_activation=None, trainable=False, name="mine")
    assert logits.name == "mine" and logits.classifier_activation is None
    assert [variable.path for variable in logits.trainable_variables] == [
        "classifier/kernel",
        "classifier/bias",
    ]
    with pytest.raises(ValueError, match="Leave one"):
        models.load(BARE, num_classes=3, part="classifier")


@pytest.mark.parametrize("part", ["pretraining", "head"])
def test_parts_that_were_not_saved_are_refused(part):
    with pytest.raises(ValueError, match="'backbone', 'classifier'"):
        models.load(BARE, part=part)


def test_overrides_change_what_the_weights_allow(classifier):
    model = models.load(BARE, input_shape=(64, 48, 3), stem="cifar")
    assert model.input_shape == (None, 64, 48, 3)
    open_size = models.load(BARE, input_shape=(None, None, 3))
    np.testing.assert_allclose(
        np.asarray(open_size(IMAGES)), np.asarray(models.load(BARE)(IMAGES)), atol=1e-6
    )
    with pytest.raises(ShapeError, match="conv2d/vars/0"):
        models.load(BARE, stem="imagenet", input_shape=(64, 64, 3))
    with pytest.raises(ConfigError, match="depth"):
        models.load(BARE, depth=20)


@pytest.mark.parametrize("float16", [False, True])
@pytest.mark.parametrize("num_classes", [None, 4])
def test_a_saved_model_loads_equal(float16, num_classes, tmp_path, classifier):
    model = (
        classifier.backbone if num_classes is None else models.Classifier(classifier.backbone, num_classes)
    )
    models.save(model, tmp_path / "mine", float16=float16)
    again = models.load(tmp_path / "mine", part="backbone" if num_classes is None else "classifier")
    expected = np.asarray(model(IMAGES))
    tolerance = 2e-3 * np.max(np.abs(expected)) if float16 else 0
    np.testing.assert_allclose(np.asarray(again(IMAGES)), expected, rtol=0, atol=tolerance)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_what_training_leaves_behind_is_not_saved(tmp_path, classifier):
    model = trained_classifier()
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"], run_eagerly=True)
    model.fit(IMAGES, np.arange(4), verbose=0)
    models.save(model, tmp_path / "mine")
    with h5py.File(tmp_path / "mine" / WEIGHTS) as file:
        assert set(file) == {"layers"}
    again = models.load(tmp_path / "mine", part="classifier")
    np.testing.assert_array_equal(np.asarray(again(IMAGES)), np.asarray(model(IMAGES)))


def test_an_automatic_stem_is_saved_as_what_it_was(tmp_path):
    models.save(models.create("resnet8", input_shape=(64, 64, 3)), tmp_path / "mine")
    assert json.loads((tmp_path / "mine" / CONFIG).read_text())["config"]["stem"] == "imagenet"
    assert models.load(tmp_path / "mine", input_shape=(32, 32, 3)).minimum_size == 16


def test_saving_replaces_only_what_it_is_told_to(tmp_path, classifier):
    target = tmp_path / "mine"
    models.save(classifier, target)
    (target / "README.md").write_text("kept")
    before = (target / CONFIG).read_text()
    with pytest.raises(FileExistsError, match="overwrite=True"):
        models.save(classifier.backbone, target)
    assert (target / CONFIG).read_text() == before
    models.save(classifier.backbone, target, overwrite=True)
    assert (target / "README.md").read_text() == "kept"
    assert models.load(target).output_shape == (None, 32)
    with pytest.raises(ConfigError, match="resnet18"):
        models.save(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_preset_that_cannot_be_published_leaves_the_old_one(tmp_path, classifier, monkeypatch):
    facts = dict(description="A.", task="classification", training_data="none", license="MIT", results={})
    publishing.publish(classifier, "mine.1", **facts)
    before = {path.name: path.read_bytes() for path in (tmp_path / "zoo" / "mine").iterdir()}

    def broken(_):
        raise RuntimeError("no embeddings")

    monkeypatch.setattr(publishing, "embed_fixed_inputs", broken)
    classifier.backbone.set_weights([2 * weight for weight in classifier.backbone.get_weights()])
    with pytest.raises(RuntimeError, match="no embeddings"):
        publishing.publish(classifier, "mine.1", replace=True, **facts)
    assert sorted(path.name for path in (tmp_path / "zoo").iterdir()) == ["mine", "test-resnet8"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "zoo" / "mine").iterdir()} == before


@pytest.mark.fault(20)
def test_a_full_disk_leaves_the_old_model_and_nothing_else(tmp_path, classifier, monkeypatch):
    target = tmp_path / "mine"
    models.save(classifier, target)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving, "write_text", full)
    for place in (target, tmp_path / "new"):
        with pytest.raises(OSError, match="No space"):
            models.save(classifier.backbone, place, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "presets.json", "zoo"]
    assert models.load(target, part="classifier").output_shape == (None, 10)


@pytest.mark.fault(37)
def test_broken_numbers_are_not_saved(tmp_path):
    model = models.create("resnet8", input_shape=(32, 32, 3))
    model.get_layer("stem_norm").gamma.assign(np.full(8, np.nan, "float32"))
    with pytest.raises(NonFiniteError, match="batch_normalization/vars/0"):
        models.save(model, tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


@pytest.mark.filterwarnings("ignore:Layer InputLayer does not:UserWarning")
def test_a_quantised_model_is_not_saved(tmp_path):
    model = models.create("q_network", state_size=3, num_actions=2)
    model.quantize("int8")
    with pytest.raises(ConfigError, match="save the model before `quantize`"):
        models.save(model, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_numbers_beyond_half_precision_are_kept_whole(tmp_path):
    model = models.create("resnet8", input_shape=(32, 32, 3))
    large = np.linspace(1, 1e6, 8, dtype="float32")
    model.get_layer("stem_norm").moving_variance.assign(large)
    models.save(model, tmp_path / "mine", float16=True)
    again = models.load(tmp_path / "mine")
    np.testing.assert_array_equal(np.asarray(again.get_layer("stem_norm").moving_variance), large)


def test_the_zoo_of_a_checkout_comes_before_that_of_a_wheel(tmp_path, monkeypatch):
    package = tmp_path / "star_keras" / "models"
    package.mkdir(parents=True)
    monkeypatch.setattr(weights, "__file__", str(package / "weights.py"))
    assert weights.zoo_folder() == tmp_path / "star_keras" / "zoo"
    (tmp_path / "pyproject.toml").touch()
    assert weights.zoo_folder() == tmp_path / "zoo"


# Policies


@pytest.mark.fault(58)
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("where", ["global", "argument"])
def test_a_preset_follows_the_policy_and_keeps_float32_variables(policy, where):
    expected = np.asarray(models.load(BARE)(IMAGES))
    if where == "global":
        keras.config.set_dtype_policy(policy)
        model = models.load(BARE)
    else:
        model = models.load(BARE, dtype=policy)
    assert model.get_layer("stem_conv").compute_dtype == policy.removeprefix("mixed_")
    assert {keras.backend.standardize_dtype(variable.dtype) for variable in model.variables} == {"float32"}
    features = model(IMAGES)
    assert keras.backend.standardize_dtype(features.dtype) == "float32"
    np.testing.assert_allclose(np.asarray(features), expected, atol=0.05 * np.max(np.abs(expected)))


@pytest.mark.fault(59)
def test_a_preset_is_refused_under_policies_without_room_for_its_numbers():
    for policy in ("float16", "bfloat16", "int8"):
        with pytest.raises(ValueError, match="policy"):
            models.load(BARE, dtype=policy)
