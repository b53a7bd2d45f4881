"""Zero-shot classifiers: classes from prompts, orbits of images, and bad input."""

import types

import keras
import numpy as np
import pytest
from _elsewhere import run_elsewhere
from keras import ops

import star_keras as sk
from star_keras.applications import zero_shot
from star_keras.exceptions import NonFiniteError, ShapeError

NAMES = ["church", "golf ball", "gas pump"]
TEMPLATES = ["a photo of a {}.", "a {}"]
GROUPS = [sk.groups.Cyclic(4), sk.groups.Cyclic(2), sk.groups.Flip("width")]
RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.integers(0, 256, (12, 8, 8, 3), dtype="uint8"), RNG.integers(0, 3, 12)
VECTORS = {text: RNG.normal(size=6) for name in NAMES for text in (f"a photo of a {name}.", f"a {name}")}


def encode_texts(texts):
    return np.array([VECTORS[text] for text in texts])


def image_encoder(units=6, size=(8, 8)):
    images = keras.Input((*size, 3))
    x = keras.layers.Conv2D(5, 3, strides=2, activation="tanh")(keras.layers.Rescaling(1 / 255)(images))
    return keras.Model(images, keras.layers.Dense(units)(keras.layers.Flatten()(x)))


def classifier(logit_scale=20.0, **encoder):
    encoders = zero_shot.Encoders(image_encoder(**encoder), encode_texts, logit_scale)
    return zero_shot.from_prompts(encoders, NAMES, TEMPLATES)


def unit(rows):
    return rows / np.sqrt((rows**2).sum(axis=-1, keepdims=True))


def softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def members(model, group, images=IMAGES):
    """The logits of every member of the orbits, `(order, images, classes)`."""
    return np.stack([model.predict(np.array(moved), verbose=0) for moved in group.orbit(images)])


# Classes from prompts


def test_class_embeddings_of_two_prompts_are_those_worked_by_hand():
    texts = {"a x": [3.0, 4.0], "the x": [0.0, 2.0], "a y": [-1.0, 0.0], "the y": [0.0, 5.0]}
    found = zero_shot.class_embeddings(
        lambda prompts: [texts[prompt] for prompt in prompts], ["x", "y"], ["a {}", "the {}"]
    )
    # x: (0.6, 0.8) and (0, 1), mean (0.3, 0.9); y: (-1, 0) and (0, 1), mean (-0.5, 0.5)
    expected = [[0.3 / np.sqrt(0.9), 0.9 / np.sqrt(0.9)], [-np.sqrt(0.5), np.sqrt(0.5)]]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found.dtype == np.float32


def test_one_template_may_be_a_string_and_the_name_stands_wherever_it_says():
    seen = []
    zero_shot.class_embeddings(lambda texts: seen.extend(texts) or np.ones((1, 2)), ["x", "y"], "{}, or {}")
    assert seen == ["x, or x", "y, or y"]


def test_logits_are_scaled_cosine_similarities():
    model = classifier(logit_scale=20.0)
    prompts = [[template.replace("{}", name) for template in TEMPLATES] for name in NAMES]
    classes = unit(np.array([unit(encode_texts(texts)).mean(axis=0) for texts in prompts]))
    embeddings = unit(model.image_encoder.predict(IMAGES, verbose=0).astype("float64"))
    np.testing.assert_allclose(model.predict(IMAGES, verbose=0), 20 * embeddings @ classes.T, atol=2e-5)
    np.testing.assert_allclose(model.class_embeddings, classes, atol=1e-6)


def test_lengths_of_embeddings_do_not_matter():
    encoder = image_encoder()
    longer = zero_shot.Encoders(encoder, lambda texts: 1000 * encode_texts(texts), 20.0)
    shorter = zero_shot.Encoders(encoder, encode_texts, 20.0)
    first, second = (zero_shot.from_prompts(one, NAMES, TEMPLATES)(IMAGES) for one in (longer, shorter))
    np.testing.assert_allclose(first, second, atol=1e-5)


def test_fit_moves_the_image_encoder_and_leaves_the_classes():
    model = classifier()
    classes, weights = model.class_embeddings.copy(), model.image_encoder.get_weights()
    model.trainable = False
    model.trainable = True  # which makes no class trainable
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(IMAGES, LABELS, verbose=0)
    np.testing.assert_array_equal(model.class_embeddings, classes)
    assert not np.array_equal(model.image_encoder.get_weights()[0], weights[0])


def test_it_is_saved_with_its_classes(tmp_path):
    model = classifier()
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.class_names == NAMES and again.logit_scale == 20
    np.testing.assert_allclose(again(IMAGES), model(IMAGES), atol=1e-6)


def test_black_images_of_an_encoder_without_bias_have_finite_logits_and_gradients():
    images = keras.Input((8, 8, 3))
    encoder = keras.Model(images, keras.layers.Dense(6, use_bias=False)(keras.layers.Flatten()(images)))
    model = zero_shot.from_prompts(zero_shot.Encoders(encoder, encode_texts), NAMES, TEMPLATES)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    black = np.zeros((4, 8, 8, 3), "uint8")
    model.fit(black, LABELS[:4], verbose=0)
    np.testing.assert_array_equal(model(black), np.zeros((4, 3)))
    assert np.isfinite(encoder.get_weights()[0]).all()


# Orbits


@pytest.mark.parametrize("group", GROUPS, ids=repr)
@pytest.mark.parametrize("method", ["equitune", "equizero", "lambda"])
def test_all_members_of_an_orbit_get_one_answer(method, group):
    robust = zero_shot.invariant(classifier(), group, method)
    expected = robust.predict(IMAGES, verbose=0)
    for moved in group.orbit(IMAGES):
        np.testing.assert_allclose(robust.predict(np.array(moved), verbose=0), expected, atol=2e-4)
    assert np.abs(np.diff(members(robust.model, group), axis=0)).max() > 0.1


def test_equitune_is_the_mean_of_logits_and_lambda_their_weighted_mean():
    model, group = classifier(), sk.groups.Cyclic(4)
    logits = members(model, group)
    mean = zero_shot.invariant(model, group).predict(IMAGES, verbose=0)
    np.testing.assert_allclose(mean, logits.mean(axis=0), atol=1e-4)
    robust = zero_shot.invariant(model, group, "lambda", hidden_units=(5, 4))
    for variable in robust.score.variables:
        variable.assign(RNG.normal(0, 2, variable.shape))
    weights = ops.convert_to_numpy(robust.orbit_weights(IMAGES))
    assert np.ptp(weights, axis=1).max() > 0.1
    expected = np.einsum("ng,gnk->nk", weights, logits)
    np.testing.assert_allclose(robust.predict(IMAGES, verbose=0), expected, atol=1e-4)


def test_equizero_takes_the_member_most_similar_to_a_class():
    model, group = classifier(), sk.groups.Cyclic(4)
    logits = members(model, group)
    chosen = logits.max(axis=-1).argmax(axis=0)
    expected = logits[chosen, np.arange(len(IMAGES))]
    found = zero_shot.invariant(model, group, "equizero").predict(IMAGES, verbose=0)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_equizero_learns_by_the_gradient_of_the_mean_at_what_it_chose():
    group, rate = sk.groups.Cyclic(4), 0.1
    model = classifier(logit_scale=2.0)
    robust = zero_shot.invariant(model, group, "equizero")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    upstream = (softmax(robust.predict(IMAGES, verbose=0)) - np.eye(3)[LABELS]) / len(IMAGES)
    reference = zero_shot.ZeroShotClassifier.from_config(model.get_config())
    reference.set_weights(model.get_weights())
    robust.compile(keras.optimizers.SGD(rate), loss)
    robust.fit(IMAGES, LABELS, batch_size=len(IMAGES), verbose=0)

    # The same step by a loss that is linear in the mean: the inner product with the upstream gradient.
    mean = zero_shot.invariant(reference, group)
    mean.compile(keras.optimizers.SGD(rate), lambda gradient, logits: ops.sum(gradient * logits, axis=-1))
    mean.fit(IMAGES, len(IMAGES) * upstream, batch_size=len(IMAGES), verbose=0)
    for found, expected in zip(model.get_weights(), reference.get_weights(), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_logits_and_log_probabilities_combine_to_the_same_probabilities(scale):
    model, group = classifier(logit_scale=scale), sk.groups.Cyclic(4)
    logits = members(model, group).astype("float64")
    log_probabilities = np.log(softmax(logits / scale) if scale == 1 else np.maximum(softmax(logits), 1e-300))
    found = softmax(zero_shot.invariant(model, group).predict(IMAGES, verbose=0))
    np.testing.assert_allclose(found, softmax(log_probabilities.mean(axis=0)), atol=2e-5)
    combined = sk.layers.EquiTune(model, group, combine="log_probs")
    np.testing.assert_allclose(softmax(combined.predict(IMAGES, verbose=0)), found, atol=2e-5)


def test_a_great_scale_decides_no_ties_by_rounding():
    model, group = classifier(logit_scale=1e4), sk.groups.Cyclic(4)
    logits = members(model, group)
    assert (softmax(logits).max(axis=-1) == 1).any()  # probabilities are saturated, logits are not
    chosen = logits.max(axis=-1).argmax(axis=0)
    weights = ops.convert_to_numpy(zero_shot.invariant(model, group, "equizero").orbit_weights(IMAGES))
    np.testing.assert_array_equal(weights, np.eye(4)[chosen])


def test_two_stages_train_the_score_first_and_then_the_encoder_below_a_score_that_stays():
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model, group = classifier(), sk.groups.Cyclic(4)
    robust = zero_shot.invariant(model, group, "lambda", frozen_features=True)
    encoder, score = model.image_encoder.get_weights(), robust.score.get_weights()
    model.trainable = False
    robust.compile("sgd", loss)
    robust.fit(IMAGES, LABELS, verbose=0)
    for before, after in zip(encoder, model.image_encoder.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    assert not np.array_equal(score[0], robust.score.get_weights()[0])

    model.trainable, robust.score.trainable = True, False
    weights = ops.convert_to_numpy(robust.orbit_weights(IMAGES))
    robust.compile(keras.optimizers.SGD(0.1), loss)
    robust.fit(IMAGES, LABELS, verbose=0)
    assert not np.array_equal(encoder[0], model.image_encoder.get_weights()[0])
    np.testing.assert_allclose(ops.convert_to_numpy(robust.orbit_weights(IMAGES)), weights, atol=1e-6)


def test_jointly_both_move_and_the_weights_with_them():
    robust = zero_shot.invariant(classifier(), sk.groups.Cyclic(4), "lambda")
    before = robust.model.get_weights()[0], robust.score.get_weights()[0]
    weights = ops.convert_to_numpy(robust.orbit_weights(IMAGES))
    robust.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    robust.fit(IMAGES, LABELS, verbose=0)
    assert not np.array_equal(before[0], robust.model.get_weights()[0])
    assert not np.array_equal(before[1], robust.score.get_weights()[0])
    assert np.abs(ops.convert_to_numpy(robust.orbit_weights(IMAGES)) - weights).max() > 1e-4


# Bad input


@pytest.mark.parametrize(
    "changes, error, words",
    [
        ({"templates": ["a photo"]}, ValueError, "`{}`"),
        ({"templates": []}, ValueError, "templates=\\[\\]"),
        ({"templates": ["a {}", "a {}"]}, ValueError, "distinct"),
        ({"class_names": []}, ValueError, "class_names=\\[\\]"),
        ({"class_names": ["church", ""]}, ValueError, "class_names"),
        ({"class_names": ["church", 3]}, ValueError, "class_names"),
        ({"class_names": ["church", "dog", "church"]}, ValueError, "'church' more than once"),
        ({"encode_texts": lambda texts: np.ones((1, 2))}, ShapeError, "for 2 texts"),
        ({"encode_texts": lambda texts: np.ones(len(texts))}, ShapeError, "one vector"),
        ({"encode_texts": lambda texts: np.full((2, 3), np.nan)}, NonFiniteError, "length nan"),
        ({"encode_texts": lambda texts: np.full((2, 3), np.inf)}, NonFiniteError, "length inf"),
        ({"encode_texts": lambda texts: np.zeros((2, 3))}, NonFiniteError, "length 0"),
        ({"encode_texts": lambda texts: np.array([[1.0], [-1.0]])}, NonFiniteError, "'church'"),
    ],
)
def test_prompts_that_describe_no_classes_are_refused(changes, error, words):
    arguments = {"encode_texts": encode_texts, "class_names": NAMES, "templates": TEMPLATES, **changes}
    with pytest.raises(error, match=words) as raised:
        zero_shot.class_embeddings(**arguments)
    assert "Received" in str(raised.value)


def test_encoders_that_do_not_meet_are_refused():
    with pytest.raises(ShapeError, match="5 numbers for an image and of 6"):
        classifier(units=5)
    maps = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(6, 3)])
    for encoder in (maps, keras.layers.Dense(6)):
        with pytest.raises(ShapeError, match="Received"):
            zero_shot.from_prompts(zero_shot.Encoders(encoder, encode_texts), NAMES, TEMPLATES)
    for scale in (0.0, -1.0, np.nan, np.inf, "x", None):
        with pytest.raises(ValueError, match="logit_scale.*Received"):
            classifier(logit_scale=scale)


def test_images_of_another_size_are_refused():
    model = classifier()
    for images in (IMAGES[:, :6], IMAGES[..., :1], IMAGES[0]):
        with pytest.raises(ShapeError, match="Received"):
            model(images)
        with pytest.raises(ShapeError, match="Received"):
            model.predict(images, verbose=0)


def test_quarter_turns_need_square_images_and_half_turns_do_not():
    model = classifier(size=(8, 12))
    with pytest.raises(ShapeError, match="square"):
        zero_shot.invariant(model, sk.groups.Cyclic(4))
    images = RNG.integers(0, 256, (2, 8, 12, 3), dtype="uint8")
    robust = zero_shot.invariant(model, sk.groups.Cyclic(2))
    np.testing.assert_allclose(robust(images[:, ::-1, ::-1]), robust(images), atol=1e-4)


def test_unknown_methods_and_other_models_are_refused():
    with pytest.raises(ValueError, match="method.*Received"):
        zero_shot.invariant(classifier(), GROUPS[0], "mean")
    with pytest.raises(ValueError, match="ZeroShotClassifier.*Received"):
        zero_shot.invariant(image_encoder(), GROUPS[0])


@pytest.mark.parametrize(
    "method, options, words",
    [
        ("equitune", {"proxy": "confidence"}, "`proxy`.*\"equizero\".*Received: proxy='confidence'"),
        ("lambda", {"proxy": "nonsense"}, '`proxy`.*"equizero"'),
        ("equizero", {"frozen_features": True}, '`frozen_features`.*"lambda".*True'),
        ("equitune", {"hidden_units": -3}, '`hidden_units`.*"lambda".*-3'),
        ("equizero", {"proxy": "nonsense"}, "`score`.*nonsense"),
        ("lambda", {"hidden_units": 5}, "`hidden_units`.*hidden_units=5"),
        ("lambda", {"hidden_units": (-3,)}, "`hidden_units`.*-3"),
    ],
)
def test_options_of_another_method_or_out_of_range_are_refused(method, options, words):
    with pytest.raises(ValueError, match=words):
        zero_shot.invariant(classifier(), GROUPS[0], method, **options)


def test_what_has_no_two_encoders_is_refused():
    with pytest.raises(ValueError, match="`encoders`.*Received: .*without encode_texts, logit_scale"):
        zero_shot.from_prompts(types.SimpleNamespace(image_encoder=image_encoder()), NAMES)


# Other backends


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_it_runs_on_other_backends(backend):
    script = """
import keras, numpy as np, star_keras as sk
inputs = keras.Input((8, 8, 3))
backbone = keras.Model(inputs, keras.layers.Dense(5)(keras.layers.GlobalAveragePooling2D()(inputs[:, :4])))
encoders = sk.models.DualEncoder(backbone, ["a", "photo", "of", "church", "ball"])
images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype="uint8")
tokens = encoders.tokenize(["a church", "a ball"] * 2)
encoders.compile("sgd")
encoders.fit({"images": images, "token_ids": tokens}, np.array([0, 1, 0, 1]), verbose=0)
model = sk.applications.zero_shot.from_prompts(encoders, ["church", "ball"])
robust = sk.applications.zero_shot.invariant(model, sk.groups.Cyclic(4), "equizero")
robust.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
robust.fit(images, np.array([0, 1, 0, 1]), verbose=0)
turned = keras.ops.convert_to_numpy(robust(np.rot90(images, axes=(1, 2)).copy()))
np.testing.assert_allclose(turned, keras.ops.convert_to_numpy(robust(images)), atol=1e-3)
"""
    run_elsewhere(script, backend=backend)
