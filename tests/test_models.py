"""Laws of the networks: what they compute, what they accept, how they start."""

import warnings

import keras
import numpy as np
import pytest
from _numpy_resnet import Network, give_numbers, take_numbers

from star_keras import data, models
from star_keras.exceptions import ConfigError, ShapeError
from star_keras.models.resnet import VARIANTS, PaddedShortcut

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (4, 32, 32, 3), dtype="uint8")
POLICIES = ("mixed_bfloat16", "mixed_float16", "float64")


@pytest.fixture(autouse=True)
def untouched_settings():
    yield
    keras.config.set_dtype_policy("float32")
    keras.config.set_image_data_format("channels_last")


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


# What the networks accept


@pytest.mark.fault(46)
@pytest.mark.parametrize(
    "convert",
    [
        lambda x: x.astype("float32"),
        lambda x: x.astype("float64"),
        lambda x: x.astype("float16"),
        lambda x: x.astype("int64"),
        lambda x: np.asfortranarray(x),
        lambda x: np.repeat(x, 2, axis=2)[:, :, ::2],
        lambda x: keras.ops.convert_to_tensor(x),
        lambda x: keras.ops.convert_to_tensor(x.astype("float32")),
        lambda x: x.tolist(),
    ],
    ids=["float32", "float64", "float16", "int64", "fortran", "strided", "tensor", "float tensor", "list"],
)
def test_images_of_every_type_in_0_to_255_mean_the_same(backbone, convert):
    expected = np.asarray(backbone(IMAGES))
    np.testing.assert_array_equal(np.asarray(backbone(convert(IMAGES))), expected)


@pytest.mark.fault(46)
def test_read_only_images_are_read(backbone):
    images = IMAGES.copy()
    images.flags.writeable = False
    np.testing.assert_array_equal(np.asarray(backbone(images)), np.asarray(backbone(IMAGES)))
    np.testing.assert_allclose(backbone.predict(images, verbose=0), np.asarray(backbone(IMAGES)), atol=1e-5)


@pytest.mark.fault(46)
@pytest.mark.parametrize(
    "shape, hint",
    [
        ((2, 3, 32, 32), "moveaxis"),
        ((2, 32, 32, 1), "repeat"),
        ((2, 32, 32), "grey"),
        ((2, 32, 32, 4), r"\.\.\., :3"),
        ((32, 32, 3), "None"),
        ((2, 32, 32, 5), "red, green and blue"),
        ((32,), "four dimensions"),
    ],
    ids=str,
)
@pytest.mark.parametrize("method", ["__call__", "predict", "fit", "evaluate"])
def test_other_layouts_are_refused_with_a_hint(shape, hint, method, backbone):
    with pytest.raises(ShapeError, match=hint):
        getattr(backbone, method)(np.zeros(shape, "uint8"))


@pytest.mark.fault(46)
def test_images_in_0_to_1_are_warned_about(backbone):
    scaled = IMAGES.astype("float32") / 255
    with pytest.warns(UserWarning, match=r"\[0, 255\]"):
        backbone(scaled)
    with pytest.warns(UserWarning, match=r"\[0, 255\]"):
        backbone(keras.ops.convert_to_tensor(scaled))
    with pytest.warns(UserWarning, match=r"\[0, 255\]"):
        backbone.predict(scaled, verbose=0)
    classifier = models.create("resnet20", input_shape=(32, 32, 3), num_classes=2)
    classifier.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
    with pytest.warns(UserWarning, match=r"\[0, 255\]"):
        classifier.fit(scaled, np.zeros(4), verbose=0)


@pytest.mark.fault(46)
@pytest.mark.parametrize("images", [np.zeros((1, 32, 32, 3), "float32"), np.ones((1, 32, 32, 3), "uint8")])
def test_black_and_integer_images_are_not_warned_about(images, backbone):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backbone(images)
        backbone.predict(images, verbose=0)


# Policies and settings


@pytest.mark.fault(58)
@pytest.mark.parametrize("policy", POLICIES)
def test_features_are_finite_float32_under_every_policy(policy):
    expected = None
    for dtype in ("float32", policy):
        keras.utils.set_random_seed(0)
        model = models.create("resnet20", input_shape=(32, 32, 3), num_classes=10, dtype=dtype)
        assert model.get_layer("stage1_block1_conv1").compute_dtype == keras.DTypePolicy(dtype).compute_dtype
        assert model.get_layer("preprocessing").compute_dtype == "float32"
        outputs = model(IMAGES)
        assert keras.backend.standardize_dtype(outputs.dtype) == "float32"
        expected = np.asarray(outputs) if expected is None else expected
        np.testing.assert_allclose(np.asarray(outputs), expected, atol=0.02)
        np.testing.assert_allclose(np.sum(outputs, axis=-1), 1, atol=1e-5)


@pytest.mark.fault(58)
def test_mixed_policies_keep_float32_variables():
    keras.config.set_dtype_policy("mixed_float16")
    model = models.create("resnet20", input_shape=(32, 32, 3))
    assert {keras.backend.standardize_dtype(variable.dtype) for variable in model.variables} == {"float32"}
    assert model.get_layer("stem_conv").compute_dtype == "float16"


@pytest.mark.fault(59)
@pytest.mark.parametrize("policy", ["float16", "bfloat16", "int8", "int32", "nothing", "int8_from_float32"])
@pytest.mark.parametrize("make", [models.create, models.ResNet])
def test_policies_that_cannot_hold_batch_statistics_are_refused(policy, make):
    with pytest.raises(ValueError, match="policy|dtype"):
        make("resnet20", dtype=policy)


@pytest.mark.fault(60)
def test_the_global_data_format_changes_nothing(backbone):
    keras.config.set_image_data_format("channels_first")
    model = models.create("resnet20", input_shape=(32, 32, 3))
    model.set_weights(backbone.get_weights())
    np.testing.assert_array_equal(np.asarray(model(IMAGES)), np.asarray(backbone(IMAGES)))


@pytest.mark.fault(60)
@pytest.mark.parametrize("options", [{"jit_compile": True}, {"run_eagerly": True}], ids=str)
def test_compiled_and_eager_predictions_agree(options, backbone):
    model = models.create("resnet20", input_shape=(32, 32, 3))
    model.set_weights(backbone.get_weights())
    model.compile(**options)
    np.testing.assert_allclose(model.predict(IMAGES, verbose=0), np.asarray(backbone(IMAGES)), atol=1e-5)


# Classifiers


def test_classifiers_end_in_probabilities_or_logits():
    model = models.create("resnet20", input_shape=(32, 32, 3), num_classes=10)
    logits = models.create("resnet20", input_shape=(32, 32, 3), num_classes=10, classifier_activation=None)
    logits.set_weights(model.get_weights())
    raw = np.asarray(logits(IMAGES), "float64")
    expected = np.exp(raw) / np.exp(raw).sum(-1, keepdims=True)
    np.testing.assert_allclose(np.asarray(model(IMAGES)), expected, atol=1e-6)
    features = np.asarray(model.backbone(IMAGES), "float64")
    head = model.get_layer("classifier")
    np.testing.assert_allclose(raw, features @ np.asarray(head.kernel) + np.asarray(head.bias), atol=1e-5)


def test_a_classifier_trains_its_head_alone_on_a_frozen_backbone():
    model = models.create("resnet20", input_shape=(32, 32, 3), num_classes=2)
    model.backbone.trainable = False
    assert [variable.path for variable in model.trainable_variables] == [
        "classifier/kernel",
        "classifier/bias",
    ]
    before = model.backbone.get_weights()
    model.compile(keras.optimizers.Adam(0.1), "sparse_categorical_crossentropy", run_eagerly=True)
    images = np.repeat(np.arange(2, dtype="uint8") * 255, 32 * 32 * 3).reshape(2, 32, 32, 3)
    losses = model.fit(images, np.array([0, 1]), epochs=10, verbose=0).history["loss"]
    assert losses[-1] < losses[0] - 0.1
    for old, new in zip(before, model.backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_layers_of_the_backbone_are_within_reach_of_the_classifier():
    model = models.create("resnet20", input_shape=(32, 32, 3), num_classes=2)
    assert model.get_layer("stage3_block3_add") is model.backbone.get_layer("stage3_block3_add")
    assert count(model.variables) == count(model.backbone.variables) + 130


@pytest.mark.parametrize("num_classes", [0, -1, True, 2.5, "3"])
def test_a_number_of_classes_is_a_positive_integer(num_classes, backbone):
    with pytest.raises(ValueError, match="num_classes"):
        models.create("resnet20", num_classes=num_classes)
    with pytest.raises(ValueError, match="num_classes"):
        models.Classifier(backbone, num_classes)


@pytest.mark.parametrize("num_classes", [None, 5])
def test_a_model_is_its_configuration(num_classes):
    model = models.create(
        "resnet20",
        input_shape=(16, 24, 3),
        stem="strided",
        mean=(0.1, 0.2, 0.3),
        num_classes=num_classes,
        name="mine",
        dtype="mixed_bfloat16",
    )
    again = type(model).from_config(model.get_config())
    assert again.get_config() == model.get_config()
    assert again.name == "mine" and again.dtype_policy == model.dtype_policy
    assert [layer.name for layer in again.layers] == [layer.name for layer in model.layers]
    assert not models.create("resnet20", num_classes=num_classes, trainable=False).trainable_variables


def test_the_padded_shortcut_keeps_every_second_pixel_between_zero_channels():
    x = RNG.normal(size=(2, 5, 4, 2)).astype("float32")
    y = np.asarray(PaddedShortcut(8)(x))
    np.testing.assert_array_equal(y[..., 3:5], x[:, ::2, ::2])
    assert y.shape == (2, 3, 2, 8) and not y[..., :3].any() and not y[..., 5:].any()


@pytest.mark.parametrize("name", ["resnet81", "", None, 7, "ResNet18"])
def test_unknown_architectures_are_refused_with_the_known_ones(name):
    with pytest.raises(ConfigError, match="resnet18"):
        models.create(name)
