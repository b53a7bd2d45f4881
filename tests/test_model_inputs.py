"""What the networks accept, under which policies, and with which heads."""

import warnings

import keras
import numpy as np
import pytest

from star_keras import callbacks, models, training
from star_keras.augmentation import star_views
from star_keras.exceptions import ConfigError, NonFiniteError, ShapeError
from star_keras.groups import Cyclic
from star_keras.layers import EquiTune, Projector
from star_keras.models.resnet import PaddedShortcut

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (4, 32, 32, 3), dtype="uint8")
POLICIES = ("mixed_bfloat16", "mixed_float16", "float64")


@pytest.fixture(scope="module")
def backbone():
    return models.create("resnet20", input_shape=(32, 32, 3))


def count(variables):
    return sum(int(np.prod(variable.shape)) for variable in variables)


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
        ((2, 32, 32, 1), r"grey.*star_keras.data.to_rgb\(images, 32\)"),
        ((2, 32, 32), r"grey.*star_keras.data.to_rgb\(images, 32\)"),
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


@pytest.mark.fault(40, 46)
@pytest.mark.parametrize("act", ["fit", "evaluate"])
@pytest.mark.parametrize("kind", ["star", "neighbors", "equitune", "image model"])
def test_wrapped_models_look_at_arrays_before_they_train(kind, act, backbone):
    model = {
        "star": lambda: training.STARPretraining(backbone, star_views(32), Projector(4)),
        "neighbors": lambda: training.SoftNearestNeighborRegularization(backbone, "stem_conv"),
        "equitune": lambda: EquiTune(backbone, Cyclic(4)),
        "image model": lambda: backbone,
    }[kind]()
    scaled, broken = IMAGES.astype("float32") / 255, IMAGES.astype("float32")
    broken[2, 3, 4, 0] = np.nan
    # A model that is not compiled goes no further than its look at the images.
    with pytest.warns(UserWarning, match=r"\[0, 255\]"), pytest.raises(ValueError, match="compile"):
        getattr(model, act)(scaled, np.zeros(4))
    with pytest.raises(NonFiniteError, match="in image 2"):
        getattr(model, act)(broken, np.zeros(4))


@pytest.mark.fault(40)
def test_a_pixel_that_is_nan_is_named_where_a_relu_would_hide_it(backbone):
    broken = np.zeros((300, 32, 32, 3), "float32")
    broken[257, 0, 0, 0] = np.inf
    with pytest.raises(NonFiniteError, match="in image 257"):
        backbone.predict(broken, verbose=0)
    with pytest.raises(NonFiniteError, match="in image 257"):
        backbone(keras.ops.convert_to_tensor(broken))
    batches = callbacks.Resume("unused").batches(broken[250:], batch_size=50)
    model = training.STARPretraining(backbone, star_views(32), Projector(4))
    with pytest.raises(NonFiniteError, match="in image"):
        model.fit(batches)


@pytest.mark.fault(41)
@pytest.mark.parametrize("act", ["fit", "evaluate", "predict"])
def test_no_images_are_told_as_such(act, backbone):
    for model in (backbone, training.STARPretraining(backbone, star_views(32), Projector(4))):
        with pytest.raises(ValueError, match="at least one row"):
            getattr(model, act)(IMAGES[:0])


def test_a_head_needs_features_and_a_regularised_model_one_output():
    inputs = keras.Input((8, 8, 3))
    maps = keras.layers.Conv2D(4, 3, name="maps")(inputs)
    with pytest.raises(ShapeError, match="GlobalAveragePooling2D"):
        models.Classifier(keras.Model(inputs, maps), num_classes=2)
    with pytest.raises(ValueError, match="one output.*Received: 2"):
        training.SoftNearestNeighborRegularization(keras.Model(inputs, [maps, maps]), "maps")


def test_one_input_may_be_given_by_its_name_or_in_a_list(backbone):
    expected = backbone.predict(IMAGES, verbose=0)
    for inputs in ({"images": IMAGES}, [IMAGES]):
        np.testing.assert_array_equal(backbone.predict(inputs, verbose=0), expected)
    np.testing.assert_allclose(backbone(inputs=IMAGES), expected, atol=1e-5)


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


def test_a_number_of_classes_may_come_from_numpy(backbone):
    assert type(models.Classifier(backbone, np.int64(3)).num_classes) is int


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


@pytest.mark.parametrize(
    "inner", [{"architecture": "gpt", "vocabulary_size": 9}, {"architecture": "resnet20", "num_classes": 3}]
)
def test_what_is_no_backbone_is_refused_where_one_is_asked_for(inner):
    with pytest.raises(ConfigError, match="`backbone`.*the configuration of a backbone"):
        models.create("star", backbone=inner, projector={"units": 8, "num_experts": 2}, predictor={})
