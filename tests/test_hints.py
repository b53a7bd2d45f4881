"""Errors of the first hour: each says what to do instead."""

import keras
import numpy as np
import pytest

import star_keras as sk
from star_keras.exceptions import ConfigError, PresetError, ShapeError

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3)).astype("float32")


def moe():
    return sk.models.create("moe_cnn", num_classes=3, num_experts=2, input_shape=(16, 16, 3))


def star(backbone, augmentation=None):
    projector = sk.layers.RoutedExperts(4, num_experts=2, tasks=("invariant", "equivariant"))
    return sk.training.STARPretraining(backbone, augmentation or sk.augmentation.star_views(16), projector)


# Presets


@pytest.mark.parametrize("weights", ["imagenet", "/no/such/file.weights.h5", 1, 0, [True]])
def test_weights_are_true_or_false(weights):
    with pytest.raises(ConfigError, match=r"`weights` must be True.*`model\.load_weights\(path\)`"):
        sk.models.load("star-resnet20", weights=weights)
    assert sk.models.load("star-resnet20", weights=None).output_shape == (None, 64)


@pytest.mark.parametrize("name", ["lambda-equitune-resnet20", "moe-cifar10"])
def test_a_preset_without_a_backbone_names_those_with_one(name):
    with pytest.raises(ValueError, match=f"{name}.*has none.*star-resnet20") as caught:
        sk.models.load(name, num_classes=3)
    assert "moe-fashion" not in str(caught.value) and "Leave one" not in str(caught.value)
    with pytest.raises(ValueError, match="Leave one"):
        sk.models.load(name, num_classes=3, part="classifier")


def test_an_override_that_the_weights_do_not_fit_is_named():
    with pytest.raises(ShapeError, match=r"input_shape=\(28, 28, 3\).*\[32, 32, 3\].*`weights=") as caught:
        sk.models.load("moe-cifar10", input_shape=(28, 28, 3), name="mine")
    assert "name='mine'" not in str(caught.value)
    assert sk.models.load("moe-cifar10", weights=False, input_shape=(28, 28, 3))
    with pytest.raises(ShapeError, match=r"stem='imagenet'.*'cifar'"):
        sk.models.load("resnet20", num_classes=3, stem="imagenet", input_shape=(64, 64, 3))


def test_names_of_presets_and_of_architectures_are_told_apart():
    with pytest.raises(ConfigError, match=r"preset.*`star_keras\.models\.load\('star-resnet20'\)`"):
        sk.models.create("star-resnet20")
    with pytest.raises(PresetError, match=r"architecture.*`star_keras\.models\.create\('resnet50', "):
        sk.models.load("resnet50")
    with pytest.raises(ConfigError) as caught:
        sk.models.create("resnet21")
    assert "preset" not in str(caught.value)


def test_create_lists_every_architecture():
    named = sk.models.create.__doc__
    for name in sk.models.registry._architectures:
        assert f'"{name}"' in named, name


def test_a_preset_is_loaded_before_it_has_features():
    with pytest.raises(ValueError, match=r"'star-resnet20'.*`star_keras\.models\.load\(name\)`"):
        sk.evaluation.extract_features("star-resnet20", IMAGES)
    with pytest.raises(ValueError, match="must be a Keras model or layer"):
        sk.evaluation.extract_features(lambda images: images, IMAGES)


# Shapes of images


@pytest.mark.parametrize(
    ("shape", "hint"),
    [((28, 28, 1), r"star_keras\.data\.to_rgb"), ((3, 32, 32), "channels last"), ((8, 8, 4), "red, green")],
)
def test_the_shape_of_images_is_explained(shape, hint):
    with pytest.raises(ConfigError, match=rf"`input_shape` must be \(height, width, 3\).*{hint}"):
        sk.models.create("resnet20", input_shape=shape)


def test_grey_images_that_are_symbolic_are_joined_by_a_layer():
    images = keras.Input((16, 16, 1))
    with pytest.raises(ShapeError, match=r"`keras\.layers\.Concatenate\(\)\(\[images, images, images\]\)`"):
        moe()(images)
    assert moe()(keras.layers.Concatenate()([images, images, images])).shape == (None, 3)


def test_a_data_set_without_batches_is_told_as_such():
    with pytest.raises(ShapeError, match=r"images\[None\].*`\.batch\(n\)` a data set"):
        moe()(IMAGES[0])


# Parts of a training


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", None])
def test_star_refuses_a_classifier(activation):
    model = sk.models.create(
        "resnet20", input_shape=(16, 16, 3), num_classes=3, classifier_activation=activation
    )
    with pytest.raises(ValueError, match=r"ends in features.*`classifier\.backbone`"):
        star(model)
    assert star(model.backbone).backbone is model.backbone


def test_star_refuses_what_ends_in_a_softmax():
    with pytest.raises(ValueError, match=r"ends in features.*MoECNN"):
        star(moe())


@pytest.mark.parametrize("augmentation", [keras.layers.RandomFlip(), keras.Sequential([])])
def test_star_names_where_augmentations_are(augmentation):
    backbone = sk.models.create("resnet20", input_shape=(16, 16, 3))
    with pytest.raises(ValueError, match=r"`augmentation` must be.*star_keras\.augmentation.*Received: "):
        star(backbone, augmentation)


def test_star_compares_the_size_of_the_views_with_the_backbone():
    for size in (16, None):
        backbone = sk.models.create("resnet20", input_shape=(size, size, 3))
        predictor = sk.layers.EquivariantPredictor((4,), 4)
        parts = backbone, sk.augmentation.star_views(32), sk.layers.Projector(4), predictor
        if size is None:
            sk.training.STARPretraining(*parts)
            continue
        with pytest.raises(ShapeError, match=r"32 x 32.*16 x 16.*`star_views\(16\)`"):
            sk.training.STARPretraining(*parts)


def test_the_regularised_model_is_not_exported_but_its_classifier(tmp_path):
    model = sk.training.SoftNearestNeighborRegularization(moe(), ("code",))
    with pytest.raises(ValueError, match=r"`model\.model\.export\(path\)`"):
        model.export(tmp_path / "exported")


@pytest.mark.parametrize("word", ["equitune", "equizero", "lambda-equitune"])
def test_the_words_of_the_papers_are_translated(word):
    with pytest.raises(ValueError, match='equitune is "mean", lambda-equitune "lambda", equizero "argmin"'):
        sk.layers.EquiTune(moe(), sk.groups.Cyclic(4), weighting=word)
