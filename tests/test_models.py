"""Laws of the networks: what they compute, what they accept, how they start."""

import keras
import numpy as np
import pytest
from _numpy_resnet import Network, give_numbers, take_numbers

from star_keras import data, models
from star_keras.exceptions import ConfigError, ShapeError
from star_keras.models.resnet import VARIANTS

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (4, 32, 32, 3), dtype="uint8")


@pytest.fixture(scope="module")
def backbone():
    return models.create("resnet20", input_shape=(32, 32, 3))


def count(variables):
    return sum(int(np.prod(variable.shape)) for variable in variables)


def randomised(model):
    """The model with every variable random, so that no scale of 0 hides a part of it."""
    for variable in model.variables:
        value = RNG.normal(0, 0.1, variable.shape)
        if "kernel" not in variable.path:
            value = 1 + value if any(part in variable.path for part in ("gamma", "variance")) else value
        else:
            value *= (0.03 * np.prod(variable.shape[:-1])) ** -0.5 * 2
        variable.assign(value.astype("float32"))
    return model


# What the networks compute


@pytest.mark.parametrize(
    "name, features, parameters",
    [
        ("resnet18", 512, 11_176_512),
        ("resnet34", 512, 21_284_672),
        ("resnet50", 2048, 23_508_032),
        ("resnet20", 64, 269_722 - 650),
        ("resnet32", 64, 464_154 - 650),
        ("resnet56", 64, 853_018 - 650),
    ],
)
def test_sizes_are_those_of_the_papers(name, features, parameters):
    model = models.create(name)
    assert model.output_shape == (None, features)
    assert count(model.trainable_variables) == parameters
    assert count(model.non_trainable_variables) == 2 * sum(
        layer.gamma.shape[0] for layer in model.layers if hasattr(layer, "gamma")
    )


@pytest.mark.parametrize(
    "name, stem, size, reference",
    [
        ("resnet18", "cifar", (20, 16), {}),
        ("resnet18", "strided", (33, 18), {"stem_stride": 2}),
        ("resnet18", "imagenet", (45, 64), {"stem_stride": 2, "pool": True}),
        ("resnet50", "imagenet", (40, 37), {"stem_stride": 2, "pool": True, "bottleneck": True}),
        ("resnet20", "strided", (17, 16), {"stem_stride": 2}),
    ],
)
def test_forward_pass_is_that_of_numpy(name, stem, size, reference):
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    model = randomised(models.create(name, stem=stem, mean=mean, std=std))
    images = RNG.integers(0, 256, (2, *size, 3), dtype="uint8")
    expected = Network(take_numbers(model), mean=mean, std=std, **reference).features(images)
    assert np.max(np.abs(expected)) > 0.1
    np.testing.assert_allclose(
        np.asarray(model(images)), expected, rtol=1e-4, atol=1e-4 * np.max(np.abs(expected))
    )


@pytest.mark.slow
@pytest.mark.parametrize("name, accuracy", [("resnet20", 0.915), ("resnet32", 0.928), ("resnet56", 0.926)])
def test_published_weights_score_what_pytorch_scores(name, accuracy, data_folder):
    with np.load(data_folder / f"weights_{name}_cifar10.npz") as file:
        numbers = dict(file)
    model = models.create(
        name, input_shape=(32, 32, 3), num_classes=10, classifier_activation=None, trainable=False
    )
    give_numbers(model, numbers)
    images, labels, *_ = data.load(data_folder / "cifar10_test1k.npz")
    logits = model.predict(images, batch_size=250, verbose=0)
    np.testing.assert_allclose(logits[:8], Network(numbers).logits(images[:8]), atol=1e-4)
    assert np.mean(logits.argmax(-1) == labels) == pytest.approx(accuracy, abs=1e-9)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet20"])
def test_zero_init_residual_starts_every_block_as_its_shortcut(name):
    model = models.create(name, stem="cifar")
    scales = [layer.gamma for layer in model.layers if hasattr(layer, "gamma")]
    padding = 2 if name == "resnet20" else 0
    blocks = sum(VARIANTS[name][1]) - padding
    assert sum(float(np.max(scale)) == 0 for scale in scales) == blocks
    assert sum(float(np.min(scale)) == 1 for scale in scales) == len(scales) - blocks
    plain = models.create(name, stem="cifar", zero_init_residual=False)
    assert all(float(np.min(layer.gamma)) == 1 for layer in plain.layers if hasattr(layer, "gamma"))


def test_every_channel_of_a_new_narrow_network_is_alive():
    """Zero scales behind a shortcut that pads with zeros would leave half the channels dead for ever."""
    model = models.create("resnet20", input_shape=(32, 32, 3))
    maps = model_outputs(model)
    stem = keras.Model(model.input, model.get_layer("stem_relu").output)
    np.testing.assert_array_equal(maps["P0"], np.asarray(stem(IMAGES)))
    for level in ("P0", "P1", "P2"):
        assert (maps[level].max(axis=(0, 1, 2)) > 0).all(), level


def model_outputs(model):
    outputs = keras.Model(model.input, model.pyramid)(IMAGES)
    return {level: np.asarray(maps) for level, maps in outputs.items()}


def test_kernels_start_within_the_bounds_of_torch():
    keras.utils.set_random_seed(0)
    model = models.create("resnet18", input_shape=(32, 32, 3), num_classes=10)
    kernels = [layer.kernel for layer in model.layers if hasattr(layer, "kernel")]
    assert len(kernels) == 21
    for kernel in kernels:
        bound = np.prod(kernel.shape[:-1]) ** -0.5
        value = np.abs(np.asarray(kernel))
        assert 0.99 * bound < value.max() <= bound * (1 + 1e-7)
        assert value.mean() == pytest.approx(bound / 2, rel=3 / value.size**0.5)


def test_batch_norms_are_those_of_torch():
    model = models.create("resnet50")
    norms = [layer for layer in model.layers if hasattr(layer, "gamma")]
    assert len(norms) == 53
    assert {(norm.momentum, norm.epsilon, norm.unbiased) for norm in norms} == {(0.9, 1e-5, True)}


# Shapes


@pytest.mark.parametrize(
    "name, stem, strides",
    [
        ("resnet18", "cifar", {"P0": 1, "P1": 2, "P2": 4, "P3": 8}),
        ("resnet18", "strided", {"P1": 2, "P2": 4, "P3": 8, "P4": 16}),
        ("resnet50", "imagenet", {"P2": 4, "P3": 8, "P4": 16, "P5": 32}),
        ("resnet20", "cifar", {"P0": 1, "P1": 2, "P2": 4}),
    ],
)
def test_pyramid_levels_have_the_strides_of_their_names(name, stem, strides):
    model = models.create(name, input_shape=(64, 96, 3), stem=stem)
    assert {level: 64 // maps.shape[1] for level, maps in model.pyramid.items()} == strides
    for level, maps in model.pyramid.items():
        assert 64 // maps.shape[1] == 96 // maps.shape[2] == 2 ** int(level[1:])
    extractor = keras.Model(model.input, model.pyramid)
    outputs = extractor(np.zeros((1, 64, 96, 3), "uint8"))
    assert set(outputs) == set(strides)


@pytest.mark.parametrize(
    "name, shape, stride",
    [
        ("resnet18", (48, 48, 3), 1),
        ("resnet18", (49, 49, 3), 4),
        ("resnet20", (96, 96, 3), 4),
        ("resnet18", (None, None, 3), 4),
        ("resnet20", (None, None, 3), 1),
    ],
)
def test_the_automatic_stem_goes_by_the_shorter_side(name, shape, stride):
    model = models.create(name, input_shape=shape)
    assert model.minimum_size == stride * (8 if name == "resnet18" else 4)
    assert model.stem == "auto"


@pytest.mark.fault(47)
@pytest.mark.parametrize("size", [(32, 32), (33, 47), (4, 4), (61, 5)])
def test_an_open_size_takes_every_size_from_the_total_stride_on(size):
    model = models.create("resnet20")
    images = RNG.integers(0, 256, (2, *size, 3), dtype="uint8")
    fixed = models.create("resnet20", input_shape=(*size, 3), stem="cifar")
    fixed.set_weights(model.get_weights())
    np.testing.assert_array_equal(np.asarray(model(images)), np.asarray(fixed(images)))


@pytest.mark.fault(47)
@pytest.mark.parametrize("size", [(1, 1), (10_000, 3), (3, 32)])
def test_images_smaller_than_the_total_stride_are_refused_with_the_minimum(size):
    with pytest.raises(ShapeError, match="at least 4 pixels"):
        models.create("resnet20")(np.zeros((1, *size, 3), "uint8"))
    with pytest.raises((ShapeError, ConfigError), match="4 pixels|4096"):
        models.create("resnet20", input_shape=(*size, 3), stem="cifar")


@pytest.mark.fault(47)
def test_another_size_than_the_models_is_refused_with_a_way_out(backbone):
    with pytest.raises(ShapeError, match=r"\(None, None, 3\)"):
        backbone(np.zeros((1, 64, 64, 3), "uint8"))


# What stays frozen


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("resnet20", {}),
        ("resnet20", {"num_classes": 3}),
        ("moe_cnn", {"num_classes": 3}),
        (
            "lambda_equitune",
            {"num_classes": 3, "backbone": {"architecture": "resnet20", "input_shape": (32, 32, 3)}},
        ),
    ],
    ids=["backbone", "classifier", "moe_cnn", "lambda_equitune"],
)
def test_a_frozen_model_made_again_is_frozen_to_its_last_layer_and_its_statistics(name, config):
    size = {} if "backbone" in config else {"input_shape": (32, 32, 3)}
    frozen = models.create(name, trainable=False, **size, **config)
    again = type(frozen).from_config(frozen.get_config())
    for model in (frozen, again):
        assert not model.trainable and not any(layer.trainable for layer in model.layers)
        before = [np.array(variable) for variable in model.non_trainable_variables]
        model(IMAGES, training=True)
        for was, now in zip(before, model.non_trainable_variables, strict=True):
            np.testing.assert_array_equal(was, np.array(now))
    again.trainable = True
    assert all(layer.trainable for layer in again.layers)
