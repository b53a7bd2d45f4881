"""The dual encoder: its contrast, its words, and its files."""

import keras
import numpy as np
import pytest
from keras import ops

import star_keras as sk
from star_keras.exceptions import ConfigError, ShapeError

BACKBONE = {"architecture": "resnet20", "input_shape": [8, 8, 3]}
VOCABULARY = ["a", "ball", "church", "golf", "of", "photo"]
RNG = np.random.default_rng(0)
PAIRS = {
    "images": RNG.integers(0, 256, (6, 8, 8, 3), dtype="uint8"),
    "token_ids": RNG.integers(1, 7, (6, 4)).astype("int32"),
}
LABELS = np.array([0, 1, 0, 2, 1, 0])


def encoder(**options):
    return sk.models.create("dual_encoder", **{"backbone": BACKBONE, "vocabulary": VOCABULARY, **options})


def small_encoder():
    """One around a backbone that compiles in no time."""
    images = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(8, 3, strides=2, activation="relu")(keras.layers.Rescaling(1 / 255)(images))
    return sk.models.DualEncoder(keras.Model(images, keras.layers.Flatten()(x)), VOCABULARY)


def log_softmax(logits):
    logits = logits - logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def naive_loss(images, texts, scale, labels):
    logits = scale * images.astype("float64") @ texts.astype("float64").T
    rows = []
    for i, label in enumerate(labels):
        alike = [j for j, other in enumerate(labels) if other == label]
        rows.append(-np.mean([log_softmax(logits)[i, j] + log_softmax(logits.T)[i, j] for j in alike]) / 2)
    return np.mean(rows)


@pytest.mark.parametrize("labels", [None, LABELS, LABELS[:, None]], ids=["pairs", "labels", "columns"])
def test_the_loss_is_the_symmetric_contrast_over_pairs_of_one_label(labels):
    model = small_encoder()
    model.compile("sgd")
    outputs = model.predict(PAIRS, batch_size=6, verbose=0)
    expected = naive_loss(
        outputs["images"], outputs["texts"], model.logit_scale, range(6) if labels is None else LABELS
    )
    found = model.evaluate(PAIRS, labels, batch_size=6, verbose=0)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_loss_of_two_pairs_is_the_one_worked_by_hand():
    model = small_encoder()
    model.log_scale.assign(np.log(2.0))
    units = ops.convert_to_tensor(np.eye(2, dtype="float32"))
    found = model.compute_loss(y_pred={"images": units, "texts": units})
    np.testing.assert_allclose(found, np.log(1 + np.exp(-2)), rtol=1e-6)
    # All pairs of one label: each text should be as likely as the other, and none is.
    found = model.compute_loss(y=ops.ones(2, dtype="int32"), y_pred={"images": units, "texts": units})
    np.testing.assert_allclose(found, np.log(1 + np.exp(-2)) + 1, rtol=1e-6)


def test_fit_draws_pairs_together_and_the_scale_stays_below_a_hundred():
    model = small_encoder()
    assert model.logit_scale == pytest.approx(1 / 0.07, rel=1e-5)
    model.compile(keras.optimizers.Adam(3e-3))
    losses = model.fit(PAIRS, LABELS, epochs=30, batch_size=6, verbose=0).history["loss"]
    assert losses[-1] < 0.7 * losses[0]
    assert model.logit_scale != pytest.approx(1 / 0.07, rel=1e-5)
    model.log_scale.assign(9.0)
    assert model.logit_scale == pytest.approx(100, rel=1e-5)
    model.fit(PAIRS, LABELS, batch_size=6, verbose=0)  # and comes back from there
    assert float(model.log_scale) <= np.log(100) + 1e-6


def test_it_learns_in_float64_with_a_regulariser():
    images = keras.Input((8, 8, 3))
    project = keras.layers.Dense(4, kernel_regularizer="l2", dtype="float64")
    backbone = keras.Model(images, project(keras.layers.Flatten()(images)))
    model = sk.models.DualEncoder(backbone, VOCABULARY, dtype="float64")
    model.compile("sgd")
    assert np.isfinite(model.fit(PAIRS, verbose=0).history["loss"]).all()


def test_regularisers_of_the_backbone_are_added_to_the_loss():
    def losses(strength):
        inputs = keras.Input((8, 8, 3))
        convolution = keras.layers.Conv2D(
            4, 3, kernel_initializer="ones", kernel_regularizer=keras.regularizers.L2(strength)
        )
        features = keras.layers.GlobalAveragePooling2D()(convolution(inputs))
        keras.utils.set_random_seed(1)
        model = sk.models.DualEncoder(keras.Model(inputs, features), VOCABULARY)
        model.compile("sgd")
        return model.evaluate(PAIRS, verbose=0)

    assert losses(0.5) == pytest.approx(losses(0.0) + 0.5 * 3 * 3 * 3 * 4, rel=1e-5)


def test_embeddings_have_length_one_and_padding_says_nothing():
    model = small_encoder()
    outputs = model(PAIRS)
    for rows in outputs.values():
        np.testing.assert_allclose(np.linalg.norm(ops.convert_to_numpy(rows), axis=1), 1, atol=1e-5)
    short, long = model.encode_texts(["a church"]), model.encode_texts(["a church", "a photo of a golf ball"])
    assert tuple(long.shape) == (2, 64)
    np.testing.assert_allclose(long[:1], short, atol=1e-6)
    nothing = model.text_encoder(np.zeros((1, 3), "int32"))
    assert np.isfinite(ops.convert_to_numpy(nothing)).all()


def test_words_are_numbered_whatever_their_case_and_punctuation():
    model = small_encoder()
    assert sk.models.DualEncoder.words(["A golf-ball.", "a church"]) == ["a", "ball", "church", "golf"]
    np.testing.assert_array_equal(
        model.tokenize(["A golf-ball!", "a photo of a church"]), [[1, 4, 2, 0, 0], [1, 6, 5, 1, 3]]
    )
    assert model.tokenize([]).shape == (0, 0)


@pytest.mark.parametrize("text, word", [("a zebra", "'zebra'"), ("...", "'...'"), ("", "''")])
def test_texts_of_unknown_words_or_none_are_refused(text, word):
    with pytest.raises(ValueError, match="Received: " + word.replace(".", "\\.")):
        small_encoder().encode_texts(["a church", text])


def test_it_is_saved_and_loaded_whole_or_as_its_backbone(tmp_path):
    model = encoder(embedding_units=5, word_units=7)
    sk.models.save(model, tmp_path / "pair")
    assert sk.models.parts(tmp_path / "pair") == ("backbone", "pretraining")
    again = sk.models.load(tmp_path / "pair", part="pretraining")
    for key, rows in again(PAIRS).items():
        np.testing.assert_allclose(rows, model(PAIRS)[key], atol=1e-6)
    assert again.vocabulary == VOCABULARY and again.logit_scale == model.logit_scale
    features = sk.models.load(tmp_path / "pair")(PAIRS["images"])
    np.testing.assert_allclose(features, model.backbone(PAIRS["images"]), atol=1e-6)
    assert sk.models.load(tmp_path / "pair", num_classes=3).output_shape == (None, 3)


@pytest.mark.parametrize(
    "error, changes",
    [
        (ConfigError, {"vocabulary": []}),
        (ConfigError, {"vocabulary": ["two words"]}),
        (ConfigError, {"vocabulary": ["Church"]}),
        (ConfigError, {"vocabulary": ["a", 3]}),
        (ValueError, {"vocabulary": ["a", "of", "a"]}),
        (ConfigError, {"embedding_units": 0}),
        (ConfigError, {"word_units": 5000}),
        (ConfigError, {"backbone": {"architecture": "os.system"}}),
    ],
    ids=str,
)
def test_impossible_dual_encoders_are_refused(error, changes):
    with pytest.raises(error, match="Received"):
        encoder(**changes)


@pytest.mark.parametrize("labels", [np.eye(3)[LABELS], LABELS[:, None, None]], ids=["one-hot", "3 axes"])
def test_labels_that_are_not_one_number_for_each_pair_are_refused(labels):
    model = small_encoder()
    model.compile("sgd")
    with pytest.raises(ShapeError, match=r"one whole number for each pair.*Received: shape .*argmax"):
        model.fit(PAIRS, labels, verbose=0)


def test_images_of_another_size_and_weights_of_pairs_are_refused():
    model = small_encoder()
    with pytest.raises(ShapeError, match="Received"):
        model({**PAIRS, "images": PAIRS["images"][:, :6]})
    model.compile("sgd")
    with pytest.raises(ValueError, match="sample_weight"):
        model.fit(PAIRS, LABELS, sample_weight=np.ones(6), verbose=0)
    with pytest.warns(UserWarning, match="255"):
        model({**PAIRS, "images": PAIRS["images"].astype("float32") / 255})
