"""The zoo's mechanics: names, files, hashes, configurations. Most tests are rows of the fault table.

A preset is published once into a temporary zoo; each test then damages its own copy of it.
"""

import functools
import hashlib
import json
import os
import pathlib
import pickle
import resource
import shutil
import subprocess
import sys

import h5py
import keras
import numpy as np
import pytest

import star_keras
from star_keras import models
from star_keras.exceptions import (
    ConfigError,
    IntegrityError,
    NonFiniteError,
    OfflineError,
    PresetError,
    ShapeError,
)
from star_keras.models import folders, publishing, registry, resnet, weights

FULL, BARE = "test-resnet8.noise-1", "test-resnet8"
SMALL = ("basic", (1, 1, 1), (8, 16, 32), "padded", "cifar")  # "resnet8": one block a stage
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (4, 32, 32, 3), dtype="uint8")
WEIGHTS, CONFIG = "model.weights.h5", "config.json"
KERNEL = "layers/conv2d/vars/0"


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


# A zoo of one preset


def trained_classifier():
    """A classifier whose every variable is off its initial value."""
    keras.utils.set_random_seed(1)
    model = models.create("resnet8", input_shape=(32, 32, 3), num_classes=10)
    for variable in model.variables:
        noise = RNG.normal(0, 0.05, variable.shape).astype("float32")
        variable.assign(np.abs(variable + noise) + 0.1 if "variance" in variable.path else variable + noise)
    return model


@pytest.fixture(scope="module", autouse=True)
def small_architecture():
    """A row more in the table, for networks that are built in a moment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_architectures", dict(registry._architectures))
        patch.setitem(resnet.VARIANTS, "resnet8", SMALL)
        build, describe = (functools.partial(make, "resnet8") for make in (resnet.ResNet, resnet.describe))
        registry.register("resnet8", build, describe, resnet.OPTIONS)
        yield


@pytest.fixture(scope="module")
def classifier():
    return trained_classifier()


@pytest.fixture(scope="module")
def published(classifier, tmp_path_factory):
    """A catalogue with one preset, as a recipe leaves it."""
    folder = tmp_path_factory.mktemp("published")
    before = registry.CATALOGUE
    (folder / "presets.json").write_text('{"format": 1, "presets": {}, "aliases": {}, "renamed": {}}')
    registry.CATALOGUE = registry.Catalogue.read(folder / "presets.json", folder / "zoo")
    try:
        publishing.publish(
            classifier,
            FULL,
            description="Noise in a ResNet-20, for tests.",
            task="classification",
            training_data="none",
            license="Apache-2.0",
            results={"accuracy": 0.1},
        )
        yield registry.CATALOGUE
    finally:
        registry.CATALOGUE = before


@pytest.fixture(autouse=True)
def zoo(published, tmp_path, monkeypatch):
    """The test's own copy of the zoo."""
    shutil.copytree(published.zoo, tmp_path / "zoo")
    shutil.copy(published.file, tmp_path / "presets.json")
    catalogue = registry.Catalogue.read(tmp_path / "presets.json", tmp_path / "zoo")
    monkeypatch.setattr(registry, "CATALOGUE", catalogue)
    return catalogue


@pytest.fixture
def weights_file(zoo):
    return zoo.zoo / BARE / WEIGHTS


@pytest.fixture
def folder(zoo):
    return zoo.zoo / BARE


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


# Publishing, loading, saving


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


@pytest.mark.parametrize("part", ["pretraining", "head", None])
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


@pytest.mark.fault(20)
def test_a_full_disk_leaves_the_old_model_and_nothing_else(tmp_path, classifier, monkeypatch):
    target = tmp_path / "mine"
    models.save(classifier, target)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folders, "write_text", full)
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


def test_numbers_beyond_half_precision_are_kept_whole(tmp_path):
    model = models.create("resnet8", input_shape=(32, 32, 3))
    large = np.linspace(1, 1e6, 8, dtype="float32")
    model.get_layer("stem_norm").moving_variance.assign(large)
    models.save(model, tmp_path / "mine", float16=True)
    again = models.load(tmp_path / "mine")
    np.testing.assert_array_equal(np.asarray(again.get_layer("stem_norm").moving_variance), large)


def pretraining_model():
    return star_keras.training.STARPretraining(
        backbone=models.create("resnet8", input_shape=(32, 32, 3)),
        augmentation=star_keras.augmentation.star_views(32),
        projector=star_keras.layers.RoutedExperts(
            8, num_experts=2, tasks=("invariant", "equivariant"), hidden_units=(6,)
        ),
    )


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


def randomise(model):
    for variable in model.variables:
        if "float" in keras.backend.standardize_dtype(variable.dtype):
            low = 0.1 if "variance" in variable.path else -1
            variable.assign(RNG.uniform(low, 1, variable.shape).astype("float32"))


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
    pytest.importorskip(backend)
    model = models.create("resnet20", input_shape=(32, 32, 3), num_classes=10)
    randomise(model)
    models.save(model, tmp_path / "mine")
    environment = os.environ | {"KERAS_BACKEND": backend}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "mine"), str(tmp_path / "out.npy")]
    root = pathlib.Path(star_keras.__file__).parents[1]
    subprocess.run(command, check=True, env=environment, cwd=root, timeout=300)
    images = np.random.default_rng(5).integers(0, 256, (4, 32, 32, 3), dtype="uint8")
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), np.asarray(model(images)), atol=1e-5)


def test_the_zoo_of_a_checkout_comes_before_that_of_a_wheel(tmp_path, monkeypatch):
    package = tmp_path / "star_keras" / "models"
    package.mkdir(parents=True)
    monkeypatch.setattr(weights, "__file__", str(package / "weights.py"))
    assert weights.zoo_folder() == tmp_path / "star_keras" / "zoo"
    (tmp_path / "pyproject.toml").touch()
    assert weights.zoo_folder() == tmp_path / "zoo"


# Names


@pytest.mark.fault(1)
def test_an_unknown_preset_is_answered_with_the_closest_names(zoo):
    for name in ("star-resnet18", "star-resnet8", "simclr-resnet8", "moe-cnn"):
        zoo.presets[f"{name}.a-1"] = zoo.presets[FULL]
        zoo.aliases[name] = f"{name}.a-1"
    with pytest.raises(PresetError) as caught:
        models.load("star-resnet81")
    message = str(caught.value)
    assert "The closest names are star-resnet8, star-resnet18, test-resnet8. " in message
    assert "models.list()" in message
    with pytest.raises(PresetError, match=r"are star-resnet8\.a-1, star-resnet18\.a-1, "):
        models.load("star-resnet81.a-1")


@pytest.mark.fault(2)
@pytest.mark.parametrize("name", [None, 7, 1.5, b"test-resnet8", ["test-resnet8"], b"x" * 10_000_000])
def test_names_of_another_type_are_type_errors(name):
    with pytest.raises(TypeError, match=type(name).__name__) as caught:
        models.load(name)
    assert len(str(caught.value)) < 400


@pytest.mark.fault(2)
@pytest.mark.parametrize("name", ["", " ", "x" * 10_000_000, "/" * 10_000_000, "x/" * 5_000_000])
def test_names_without_sense_are_preset_errors_of_readable_length(name):
    with pytest.raises(PresetError) as caught:
        models.load(name)
    assert len(str(caught.value)) < 400


@pytest.mark.fault(3)
@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "C:\\x", "a/b\0c", "~", "~/x", "%2e%2e/", "/no/such/folder", "a" * 300 + "/b"],
)
def test_paths_that_lead_nowhere_are_preset_errors_and_leave_no_trace(name, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with watching() as events, pytest.raises(PresetError):
        models.load(name)
    assert not written(events) and not list((tmp_path / "empty").iterdir())


@pytest.mark.fault(4)
def test_capitals_and_space_around_a_name_do_not_matter():
    for name in ("TEST-ResNet8", f"  {BARE}", f"{BARE}\n", f"\t{FULL.upper()} "):
        assert models.info(name)["name"] == FULL
    for name in ("test-resnet８", "test-reſnet8", "test -resnet8", "tеst-resnet8", f"{BARE}\u00a0"):
        with pytest.raises(PresetError, match=f"closest names are {BARE}"):
            models.load(name)


@pytest.mark.fault(5)
def test_renamed_presets_warn_and_withdrawn_ones_say_why(zoo):
    zoo.renamed["old-resnet8"] = FULL
    with pytest.warns(DeprecationWarning, match=FULL):
        assert models.load("old-resnet8").output_shape == (None, 32)
    zoo.presets["bad-resnet8.a-1"] = zoo.presets[FULL] | {
        "withdrawn": {"since": "0.2.0", "reason": "It was trained on test images."},
        "weights": None,
    }
    zoo.aliases["bad-resnet8"] = "bad-resnet8.a-1"
    for name in ("bad-resnet8", "bad-resnet8.a-1"):
        with pytest.raises(PresetError, match=r"0\.2\.0: It was trained on test images"):
            models.load(name)
    assert models.list() == [FULL]
    assert models.info("bad-resnet8")["withdrawn"]["since"] == "0.2.0"


@pytest.mark.fault(6)
def test_a_preset_wins_over_a_folder_of_its_name(tmp_path, monkeypatch):
    models.save(models.create("resnet8", input_shape=(16, 16, 3)), tmp_path / BARE)
    monkeypatch.chdir(tmp_path)
    assert models.load(BARE).input_shape == (None, 32, 32, 3)
    for path in (f"./{BARE}", pathlib.Path(BARE), f"{BARE}/", str(tmp_path / BARE)):
        assert models.load(path).input_shape == (None, 16, 16, 3)


@pytest.mark.fault(7)
@pytest.mark.parametrize("signed", [True, False])
def test_weights_of_another_backbone_are_listed_and_refused(signed, folder, tmp_path):
    models.save(models.create("resnet20", input_shape=(32, 32, 3), num_classes=10), tmp_path / "other")
    shutil.copy(tmp_path / "other" / WEIGHTS, folder / WEIGHTS)
    if not signed:
        with pytest.raises(IntegrityError, match="bytes"):
            models.load(folder)
        return
    sign(folder)
    with pytest.raises(ShapeError, match="and [0-9]+ more") as caught:
        models.load(folder)
    assert str(caught.value).count(";") == 5


# Files


@pytest.mark.fault(8)
@pytest.mark.parametrize("size", [0, 1, 100, "half", "all but one"])
@pytest.mark.parametrize("by", ["preset", "folder"])
def test_truncated_files_are_refused_before_they_are_opened(size, by, weights_file, monkeypatch):
    content = weights_file.read_bytes()
    size = {"half": len(content) // 2, "all but one": len(content) - 1}.get(size, size)
    weights_file.write_bytes(content[:size])

    def opened(*_, **__):
        raise AssertionError("opened")

    monkeypatch.setattr(h5py, "File", opened)
    with pytest.raises(IntegrityError, match=f"Received: {size} bytes"):
        models.load(BARE if by == "preset" else weights_file.parent)


@pytest.mark.fault(8)
@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.99])
def test_truncated_files_without_a_hash_are_integrity_errors_too(share, folder):
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: int(share * len(content))])
    change_config(folder, weights=None)
    with pytest.raises(IntegrityError, match="whole HDF5 file"):
        models.load(folder)


@pytest.mark.fault(9, 10)
@pytest.mark.parametrize("by", ["preset", "folder"])
def test_one_flipped_bit_is_refused_with_both_hashes(by, weights_file, zoo):
    assert models.load(BARE)  # the hash of the good file is remembered, and must not help the bad one
    content = bytearray(weights_file.read_bytes())
    right = hashlib.sha256(content).hexdigest()
    content[len(content) // 2] ^= 1
    weights_file.write_bytes(content)
    with pytest.raises(IntegrityError, match=right[:12]) as caught:
        models.load(BARE if by == "preset" else weights_file.parent)
    assert hashlib.sha256(content).hexdigest()[:12] in str(caught.value)


def test_a_file_is_hashed_once(weights_file):
    models.load(BARE)
    with watching() as events:
        models.load(BARE)
    assert len([event for event in events if event[1] == str(weights_file)]) == 1


@pytest.mark.fault(20)
def test_loading_writes_nothing(zoo):
    before = {path: path.stat().st_mtime_ns for path in zoo.zoo.rglob("*")}
    models.load(BARE)
    with watching() as events:
        models.load(BARE, part="classifier")
        models.load(zoo.zoo / BARE)
    assert not written(events)
    assert before == {path: path.stat().st_mtime_ns for path in zoo.zoo.rglob("*")}


@pytest.mark.fault(25)
def test_loading_opens_no_socket():
    with watching() as events:
        models.load(BARE)
    assert [event for event in events if event[0] == "open"] and not sockets(events)


SHIPPED = registry.CATALOGUE


@pytest.mark.slow
@pytest.mark.fault(25)
@pytest.mark.parametrize("name", registry.list_presets())
def test_shipped_presets_are_whole_and_need_no_network(name, monkeypatch):
    monkeypatch.setattr(registry, "CATALOGUE", SHIPPED)
    with watching() as events:
        assert publishing.verify(name) <= 1e-3
    assert not sockets(events) and not written(events)


@pytest.mark.fault(26)
def test_a_missing_file_is_an_error_and_never_random_weights(zoo, weights_file):
    weights_file.unlink()
    with pytest.raises(OfflineError) as caught:
        models.load(BARE)
    record = zoo.presets[FULL]
    for fact in (WEIGHTS, str(record["bytes"]), record["sha256"], str(weights_file.parent), "weights=False"):
        assert fact in str(caught.value)
    change_config(weights_file.parent, weights=None)
    with pytest.raises(IntegrityError, match=WEIGHTS):
        models.load(weights_file.parent)
    (weights_file.parent / CONFIG).unlink()
    with pytest.raises(IntegrityError, match=CONFIG):
        models.load(weights_file.parent)


@pytest.mark.fault(38)
@pytest.mark.parametrize(
    "suffix, hint",
    [
        (".keras", "load_model"),
        (".pth", "weights_only=True"),
        (".PT", "weights_only=True"),
        (".pkl", "run code"),
        (".npz", "allow_pickle=False"),
        (".h5", "load_weights"),
        (".zip", "not opened"),
    ],
)
def test_other_file_types_are_refused_with_a_way_out(suffix, hint, tmp_path):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(pickle.dumps(IMAGES))
    for given in (path, str(path), f"model{suffix}"):
        with watching() as events, pytest.raises(IntegrityError, match=hint):
            models.load(given)
        assert not [event for event in events if event[1] == str(path)]


@pytest.mark.fault(39)
def test_a_newer_format_says_what_it_needs_before_anything_else(folder):
    change_config(folder, format=7, star_keras="9.1.0", surprise=[1], architecture="resnet800")
    with pytest.raises(ConfigError, match=r"needs star_keras >= 9\.1\.0"):
        models.load(folder)


# Configurations


@pytest.mark.fault(29)
@pytest.mark.parametrize(
    "changes",
    [
        {"module": "os", "class_name": "system", "config": {"command": "true"}},
        {"architecture": "os.system"},
        {"architecture": "Lambda"},
        {"architecture": "TFSMLayer", "config": {"filepath": "/tmp"}},
        {"architecture": "keras.config.enable_unsafe_deserialization"},
        {"architecture": {"module": "antigravity", "class_name": "system"}},
        {"config": {"registered_name": "antigravity>x"}},
        {"architecture": None},
    ],
    ids=str,
)
def test_nothing_in_a_configuration_names_code(changes, folder):
    change_config(folder, **changes)
    before = set(sys.modules)
    with pytest.raises(ConfigError):
        models.load(folder)
    assert set(sys.modules) == before


@pytest.mark.fault(30, 31, 32)
@pytest.mark.parametrize(
    "config, key",
    [
        ({"surprise": 1}, "config.surprise"),
        ({"num_classes": True}, "config.num_classes"),
        ({"num_classes": "3"}, "config.num_classes"),
        ({"num_classes": 3.0}, "config.num_classes"),
        ({"num_classes": 0}, "config.num_classes"),
        ({"num_classes": 10**9}, "config.num_classes"),
        ({"zero_init_residual": 1}, "config.zero_init_residual"),
        ({"stem": "huge"}, "config.stem"),
        ({"stem": ["cifar"]}, "config.stem"),
        ({"input_shape": [32, 32]}, "config.input_shape"),
        ({"input_shape": [0, 32, 3]}, "config.input_shape"),
        ({"input_shape": [10**9, 10**9, 3]}, "config.input_shape"),
        ({"input_shape": [32, 32, 10**6]}, "config.input_shape"),
        ({"input_shape": [32, -1, 3]}, "config.input_shape"),
        ({"mean": [0.5, 0.5]}, "config.mean"),
        ({"std": [0, 1, 1]}, "config.std"),
        ({"name": ".."}, "config.name"),
        ({"classifier_activation": "softmax"}, "config.classifier_activation"),
        ({"classifier_activation": "os.system", "num_classes": 3}, "config.classifier_activation"),
        ([], "config"),
    ],
    ids=str,
)
def test_wrong_configurations_are_refused_by_key_before_anything_is_built(config, key, folder):
    change_config(folder, config=config)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ConfigError) as caught:
        models.load(folder)
    assert f"`{key}" in str(caught.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # KiB


@pytest.mark.fault(30)
@pytest.mark.parametrize(
    "text, message",
    [
        ('{"format": 1, "format": 1}', "`format` is given more than once"),
        ('{"format": NaN}', "finite"),
        ('{"format": -Infinity}', "finite"),
        ('{"format": 1e400}', "finite"),
        ('{"format": ' + "9" * 5000 + "}", "plain JSON"),
        ('{"format": ' + "[" * 100_000, "plain JSON"),
        ('{"format": ' + "[" * 50 + "]" * 50 + "}", "deep"),
        ('{"a": ' * 50 + "1" + "}" * 50, "deep"),
        ("[]", "JSON object"),
        ("", "plain JSON"),
        ("{'format': 1}", "plain JSON"),
        ("\xff", "plain JSON"),
        ("{}", "`format`"),
        ('{"format": true}', "`format`"),
        ('{"format": "1"}', "`format`"),
        ('{"format": 1, "star_keras": "../x"}', "`star_keras`"),
        ('{"format": 1, "star_keras": "0.1.0", "architecture": "resnet8"}', "`config`"),
        ('{"format": 1, "weights": {"bytes": 1}}', "sha256"),
        (" " * 1_000_001, "1000001 bytes"),
    ],
    ids=range(19),
)
def test_files_that_are_not_plain_small_json_are_refused(text, message, folder):
    (folder / CONFIG).write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=message) as caught:
        models.load(folder)
    assert len(str(caught.value)) < 600


@pytest.mark.fault(31)
def test_bounds_hold_for_create_as_well():
    for config in (
        {"num_classes": 10**9},
        {"input_shape": (10**9, 10**9, 3)},
        {"depth": -1},
        {"width": 10**9},
    ):
        with pytest.raises(ConfigError):
            models.create("resnet8", **config)


@pytest.mark.fault(32)
@pytest.mark.parametrize("name", ["..", "/abs", "", "x" * 10_000, "a/b", 7])
def test_names_of_models_are_plain(name):
    if name == "":
        assert models.create("resnet8", name=name).name == "resnet8"
        return
    with pytest.raises(ConfigError, match="name"):
        models.create("resnet8", name=name)


# What is inside a weights file


def external_link(file):
    del file[KERNEL]
    file[KERNEL] = h5py.ExternalLink("canary.h5", "/secret")


def soft_link(file):
    file["elsewhere"] = file[KERNEL][()]
    del file[KERNEL]
    file[KERNEL] = h5py.SoftLink("/elsewhere")


def external_link_of_a_parent(file):
    del file["layers/conv2d"]
    file["layers/conv2d"] = h5py.ExternalLink("canary.h5", "/conv2d")


def external_dataset(file):
    shape = file[KERNEL].shape
    del file[KERNEL]
    file.create_dataset(KERNEL, shape, "f4", external=[("canary.h5", 0, h5py.h5f.UNLIMITED)])


def virtual_dataset(file):
    layout = h5py.VirtualLayout(file[KERNEL].shape, "f4")
    layout[...] = h5py.VirtualSource("canary.h5", "secret", shape=file[KERNEL].shape)
    del file[KERNEL]
    file.create_virtual_dataset(KERNEL, layout)


def circle(file):
    file["layers/conv2d/again"] = file["layers"]


def named_type(file):
    file["layers/type"] = np.dtype("f4")


@pytest.mark.fault(33)
@pytest.mark.parametrize(
    "edit",
    [
        external_link,
        soft_link,
        external_link_of_a_parent,
        external_dataset,
        virtual_dataset,
        circle,
        named_type,
    ],
)
@pytest.mark.parametrize("reader", ["folder", "file"])
def test_what_leads_out_of_a_file_is_refused_unread(edit, reader, folder, classifier):
    canary = folder / "canary.h5"
    with h5py.File(canary, "w") as file:
        file["secret"] = np.zeros((3, 3, 3, 8), "f4")
        file["conv2d/vars/0"] = file["secret"][()]
    change_weights(folder, edit)
    os.utime(canary, ns=(10**9, 2 * 10**9))
    before = classifier.get_weights()
    with pytest.raises(IntegrityError, match="Do not trust"):
        models.load(folder) if reader == "folder" else weights.read(folder / WEIGHTS, classifier)
    assert canary.stat().st_atime_ns == 10**9
    for old, new in zip(before, classifier.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.fault(34)
@pytest.mark.parametrize(
    "dataset",
    [
        {"shape": (2**26, 2**27), "dtype": "f4", "chunks": (1024, 1024)},
        {"shape": (10**10,), "dtype": "f4", "chunks": (2**20,)},
        {"shape": (2**25,), "dtype": "f4", "chunks": (2**20,), "compression": "gzip", "fillvalue": 1.0},
    ],
    ids=["32 PB", "40 GB", "compressed"],
)
def test_declared_sizes_are_compared_before_anything_is_read(dataset, folder):
    change_weights(folder, replace(KERNEL, **dataset))
    models.create("resnet8", num_classes=10)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ShapeError, match="instead of"):
        models.load(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


@pytest.mark.fault(35)
@pytest.mark.parametrize(
    "dataset",
    [
        {"dtype": h5py.string_dtype()},
        {"dtype": h5py.vlen_dtype("f4")},
        {"dtype": h5py.ref_dtype},
        {"dtype": "complex64"},
        {"dtype": "int64"},
        {"dtype": "uint8"},
        {"dtype": "bool"},
        {"dtype": "S8"},
        {"dtype": "V2"},
        {"dtype": "V8"},
        {"dtype": [("a", "f4")]},
    ],
    ids=lambda dataset: str(dataset["dtype"]),
)
def test_anything_but_floating_point_is_refused(dataset, folder, classifier):
    change_weights(folder, replace(KERNEL, shape=(3, 3, 3, 8), **dataset))
    with pytest.raises(IntegrityError, match="plain arrays of numbers"):
        weights.read(folder / WEIGHTS, classifier)


@pytest.mark.fault(35)
def test_unknown_filters_are_refused(folder):
    change_weights(
        folder, replace(KERNEL, shape=(3, 3, 3, 8), dtype="f4", chunks=(3, 3, 3, 8), compression="lzf")
    )
    with pytest.raises(IntegrityError, match="filter"):
        models.load(folder)


@pytest.mark.fault(35)
@pytest.mark.parametrize("dtype, tolerance", [("f2", 1e-3), ("bfloat16", 8e-3), (">f4", 0), ("f8", 0)])
def test_floating_point_numbers_are_converted(dtype, tolerance, folder, classifier, caplog):
    caplog.set_level("INFO", "star_keras")
    value = np.asarray(classifier.get_layer("stem_conv").kernel)
    stored = value if dtype == "bfloat16" else value.astype(dtype)
    if dtype == "bfloat16":
        stored = (value.view("<u4") >> 16).astype("<u2").view("V2")

    def edit(file):
        del file[KERNEL]
        file[KERNEL] = stored
        if dtype == "bfloat16":
            file[KERNEL].attrs["dtype"] = "bfloat16"

    change_weights(folder, edit)
    loaded = models.load(folder).get_layer("stem_conv").kernel
    np.testing.assert_allclose(np.asarray(loaded), value, rtol=tolerance, atol=0)
    assert any(KERNEL in record.getMessage() for record in caplog.records)


def rename(old, new):
    return lambda file: file.move(old, new)


def transpose(file):
    value = file["layers/dense/vars/0"][()]
    del file["layers/dense/vars/0"]
    file["layers/dense/vars/0"] = value.T


@pytest.mark.fault(36)
@pytest.mark.parametrize(
    "edit, message",
    [
        (
            rename(KERNEL, "layers/conv2d/vars/9"),
            "conv2d/vars/0 is missing; layers/conv2d/vars/9 is left over",
        ),
        (lambda file: file.create_dataset("layers/more/vars/0", data=1.0), "more/vars/0 is left over"),
        (transpose, r"dense/vars/0 has shape \(10, 32\) instead of \(32, 10\)"),
        (replace(KERNEL, shape=(3, 3, 3, 9), dtype="f4"), r"\(3, 3, 3, 9\) instead of \(3, 3, 3, 8\)"),
        (replace(KERNEL, shape=(3, 3, 24), dtype="f4"), "instead of"),
        (replace(KERNEL, dtype=h5py.Empty("f4").dtype, shape=None), "shape None"),
    ],
    ids=["renamed", "extra", "transposed", "off by one", "other rank", "empty"],
)
def test_variables_that_do_not_fit_are_listed_and_nothing_is_assigned(edit, message, folder, classifier):
    change_weights(folder, edit)
    before = classifier.get_weights()
    with pytest.raises(ShapeError, match=message):
        weights.read(folder / WEIGHTS, classifier)
    for old, new in zip(before, classifier.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.fault(37)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_broken_numbers_are_refused_by_name_and_nothing_is_assigned(value, folder, classifier):
    def edit(file):
        broken = file["layers/dense/vars/0"][()]
        broken[3, 4] = value
        file["layers/dense/vars/0"][...] = broken

    change_weights(folder, edit)
    before = classifier.get_weights()
    with pytest.raises(NonFiniteError, match="layers/dense/vars/0"):
        weights.read(folder / WEIGHTS, classifier)
    with pytest.raises(NonFiniteError, match="layers/dense/vars/0"):
        models.load(folder)
    for old, new in zip(before, classifier.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.fault(37)
def test_numbers_that_overflow_their_variable_are_refused(folder):
    change_weights(folder, replace(KERNEL, data=np.full((3, 3, 3, 8), 1e300)))
    with pytest.raises(NonFiniteError, match=KERNEL):
        models.load(folder)


# Policies


@pytest.mark.fault(58)
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("where", ["global", "argument"])
def test_a_preset_follows_the_policy_and_keeps_float32_variables(policy, where):
    expected = np.asarray(models.load(BARE)(IMAGES))
    try:
        if where == "global":
            keras.config.set_dtype_policy(policy)
            model = models.load(BARE)
        else:
            model = models.load(BARE, dtype=policy)
    finally:
        keras.config.set_dtype_policy("float32")
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
    (tmp_path / CONFIG).write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=f"`{key}"):
        models.load(tmp_path)


def test_an_architecture_is_registered_once():
    known = registry.architecture("resnet18")
    with pytest.raises(ValueError, match="taken"):
        registry.register("resnet18", models.create, known.describe, known.options)
    registry.register("resnet18", known.build, known.describe, known.options)
    assert registry.architecture("resnet18") == known
