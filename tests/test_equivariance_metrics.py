"""Scores of predicted views, parameters read from features, and their floors."""

import keras
import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import star_keras as sk
from star_keras.evaluation import equivariance_metrics
from star_keras.evaluation.equivariance import prediction_scores
from star_keras.evaluation.regression import ridge, variance_explained
from star_keras.exceptions import ShapeError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (24, 8, 8, 3), dtype="uint8")
SOURCES, TARGETS = RNG.normal(size=(20, 16)), RNG.normal(size=(20, 10, 16))
ACTIONS = RNG.normal(size=(20, 10, 3))


@keras.saving.register_keras_serializable(package="tests")
class Means(keras.layers.Layer):
    """Mean colour over the left and the right half: all a flip and a brightness change move."""

    def call(self, images):
        halves = keras.ops.split(keras.ops.cast(images, "float32"), 2, axis=2)
        return keras.ops.concatenate([keras.ops.mean(half, axis=(1, 2)) for half in halves], axis=1)


def backbone(*layers):
    return keras.Sequential([keras.Input((8, 8, 3)), *layers])


def naive(sources, targets, predictions, actions):
    """One prediction at a time, without ties."""

    def cosine(x, y):
        return x @ y / np.linalg.norm(x) / np.linalg.norm(y)

    ranks, errors, gains, random = [], [], [], []
    for image in range(len(targets)):
        for view in range(targets.shape[1]):
            alike = [cosine(predictions[image, view], target) for target in targets[image]]
            ranks.append(1 + sum(one > alike[view] for one in alike))
            errors.append(np.sum((actions[image, view] - actions[image, np.argmax(alike)]) ** 2))
            random += [np.sum((actions[image, view] - other) ** 2) for other in actions[image]]
            gains.append(alike[view] - cosine(sources[image], targets[image, view]))
    ranks = np.array(ranks)
    return {
        "mrr": np.mean(1 / ranks),
        "hits_at_1": np.mean(ranks <= 1),
        "hits_at_5": np.mean(ranks <= 5),
        "prediction_error": np.mean(errors) / np.mean(random),
        "gain": np.mean(gains),
    }


def test_scores_are_those_of_a_naive_ranking():
    predictions = TARGETS + RNG.normal(size=TARGETS.shape)
    expected = naive(SOURCES, TARGETS, predictions, ACTIONS)
    found = prediction_scores(SOURCES, TARGETS, predictions, ACTIONS)
    assert found == pytest.approx(expected, abs=1e-5)
    assert 0.2 < found["mrr"] < 0.99


def test_perfect_predictions_score_one_and_constant_ones_what_guessing_does():
    perfect = prediction_scores(SOURCES, TARGETS, TARGETS, ACTIONS)
    assert (perfect["mrr"], perfect["hits_at_1"]) == (1, 1)
    assert perfect["prediction_error"] == pytest.approx(0, abs=1e-12)
    same = np.repeat(SOURCES[:, None], 10, axis=1)
    found = prediction_scores(SOURCES, same, same, ACTIONS)
    assert found["mrr"] == pytest.approx(np.mean(1 / np.arange(1, 11)))
    assert (found["hits_at_1"], found["hits_at_5"]) == pytest.approx((0.1, 0.5))
    assert found["prediction_error"] == pytest.approx(1)
    assert found["gain"] == pytest.approx(0, abs=1e-6)


def test_ridge_is_that_of_scikit_learn():
    inputs, targets = RNG.normal(size=(50, 6)) * 7 + 3, RNG.normal(size=(50, 2))
    peer = make_pipeline(StandardScaler(), Ridge(alpha=0.1 * 50)).fit(inputs, targets)
    np.testing.assert_allclose(ridge(inputs, targets, 0.1)(inputs), peer.predict(inputs), atol=1e-10)


def test_variance_explained_pools_columns_and_leaves_constant_ones_out():
    truth = np.array([[0.0, 1.0], [2.0, 1.0]])
    pooled, by_column = variance_explained(truth, np.array([[0.5, 1.0], [1.5, 1.0]]))
    assert pooled == pytest.approx(0.75)  # 1 - (0.25 + 0.25) / (1 + 1)
    assert by_column[0] == pytest.approx(0.75) and np.isnan(by_column[1])


def test_features_that_tell_brightness_explain_it_and_what_ignores_it_does_not():
    jitter = sk.augmentation.ColorJitter(0.4, 0.0, 0.0, 0.0, probability=1.0)
    images = RNG.integers(40, 120, (40, 8, 8, 3), dtype="uint8")
    found = equivariance_metrics(backbone(Means()), images, jitter, views=8)
    assert found.r2_by_column["brightness"] > 0.9
    blind = backbone(keras.layers.Rescaling(0.0), keras.layers.GlobalAveragePooling2D())
    lost = equivariance_metrics(blind, images, jitter, views=8)
    assert lost.r2 < 0.05
    assert lost.mrr == pytest.approx(lost.floors["mrr"])
    assert lost.hits_at_1 == pytest.approx(lost.floors["hits_at_1"])


def test_pixels_predict_where_a_flip_takes_them_to():
    found = equivariance_metrics(backbone(Means()), IMAGES, sk.augmentation.HorizontalFlip(), views=4)
    assert found.predictor == "fitted"
    assert found.gain > 0.001 and found.prediction_error < 0.2


def test_result_does_not_depend_on_the_batch_size_and_repeats_with_its_seed():
    model = sk.models.load("star-resnet20", part="pretraining")
    images = RNG.integers(0, 256, (6, 32, 32, 3), dtype="uint8")
    one, other = (equivariance_metrics(model, images, views=3, batch_size=size) for size in (5, 64))
    assert one.predictor == "own"
    assert one.r2 == pytest.approx(other.r2, abs=1e-3) and one.gain == pytest.approx(other.gain, abs=1e-4)
    assert (one.mrr, one.hits_at_1) == (other.mrr, other.hits_at_1)
    assert equivariance_metrics(model, images, views=3, batch_size=5).to_dict() == one.to_dict()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"augmentation": None}, "`augmentation` is needed for a model without one"),
        ({"predictor": "own"}, "no predictor of its own.*Received"),
        ({"predictor": "mine"}, "`predictor` must be one of"),
        ({"views": 1}, "at least 2 views"),
        ({"images": IMAGES[:3]}, "2 images to fit and 2 to measure. Received: .* of 3 images"),
    ],
)
def test_what_cannot_be_measured_is_refused(change, message):
    arguments = {"images": IMAGES, "augmentation": sk.augmentation.HorizontalFlip(), "views": 3, **change}
    with pytest.raises(ValueError, match=message):
        equivariance_metrics(backbone(Means()), **arguments)


def test_views_must_have_the_size_of_the_backbone():
    with pytest.raises(ShapeError, match=r"Received: an array of shape \(24, 6, 6, 3\)"):
        equivariance_metrics(backbone(Means()), IMAGES, sk.augmentation.RandomResizedCrop(6), views=3)
