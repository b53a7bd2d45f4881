"""Scores of predicted views, parameters read from features, and their floors."""

import keras
import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

import star_keras as sk
from star_keras.evaluation import equivariance_metrics
from star_keras.evaluation.equivariance import prediction_scores
from star_keras.evaluation.regression import ridge, ridge_by_groups, variance_explained
from star_keras.exceptions import NonFiniteError, ShapeError

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


def peer_of_ridge(penalty, inputs, targets):
    return make_pipeline(StandardScaler(), Ridge(penalty * len(inputs))).fit(inputs, targets)


def test_ridge_is_that_of_scikit_learn():
    inputs, targets = RNG.normal(size=(50, 6)) * 7 + 3, RNG.normal(size=(50, 2))
    expected = peer_of_ridge(0.1, inputs, targets).predict(inputs)
    np.testing.assert_allclose(ridge(inputs, targets, 0.1)(inputs), expected, atol=1e-10)


def test_the_penalty_of_each_column_is_the_best_on_the_last_fifth_of_the_groups():
    inputs, targets = RNG.normal(size=(30, 4, 60)), RNG.normal(size=(30, 4, 3))
    targets[..., 0] += 3 * inputs[..., 0]
    answers = ridge_by_groups(inputs, targets)(inputs.reshape(-1, 60))
    inputs, targets = inputs.reshape(-1, 60), targets.reshape(-1, 3)
    kept, penalties = 24 * 4, np.logspace(-3, 4, 15)
    errors = np.array(
        [
            np.sum(
                (peer_of_ridge(p, inputs[:kept], targets[:kept]).predict(inputs[kept:]) - targets[kept:])
                ** 2,
                0,
            )
            for p in penalties
        ]
    )
    chosen = penalties[errors.argmin(axis=0)]
    assert chosen[0] < 1 < chosen[1:].min()
    for column, penalty in enumerate(chosen):
        expected = peer_of_ridge(penalty, inputs, targets[:, column]).predict(inputs)
        np.testing.assert_allclose(answers[:, column], expected, atol=1e-9)


def test_wide_features_that_ignore_the_view_explain_about_nothing():
    features, actions = RNG.normal(size=(200, 90)), RNG.normal(size=(200, 6, 3))
    inputs, rows = np.repeat(features[:, None], 6, axis=1), slice(100, 200)
    truth = actions[rows].reshape(-1, 3)
    fixed = ridge(inputs[:100].reshape(-1, 90), actions[:100].reshape(-1, 3))
    assert variance_explained(truth, fixed(inputs[rows].reshape(-1, 90)))[0] < -0.5
    chosen = ridge_by_groups(inputs[:100], actions[:100])
    assert variance_explained(truth, chosen(inputs[rows].reshape(-1, 90)))[0] == pytest.approx(0, abs=0.02)


def test_variance_explained_pools_columns_and_leaves_constant_ones_out():
    truth = np.array([[0.0, 1.0], [2.0, 1.0]])
    pooled, by_column = variance_explained(truth, np.array([[0.5, 1.0], [1.5, 1.0]]))
    assert pooled == pytest.approx(0.75)  # 1 - (0.25 + 0.25) / (1 + 1)
    assert by_column[0] == pytest.approx(0.75) and np.isnan(by_column[1])


def test_both_predictors_and_r2_are_those_of_a_protocol_written_out():
    """One image and one view at a time, with the regressions of scikit-learn, where no views all but tie."""
    keras.utils.set_random_seed(1)
    network, augmentation = backbone(Means()), sk.augmentation.star_views(8)
    experts = sk.layers.RoutedExperts(8, 2, tasks=("invariant", "equivariant"), hidden_units=(6,))
    model = sk.training.STARPretraining(network, augmentation, experts)
    model.build(IMAGES.shape)
    images = IMAGES[np.random.default_rng(7).permutation(24)]  # the first half is for fitting
    parameters = augmentation.sample(24 * 3, (8, 8, 3), 7)
    own = {name: np.zeros((24, *shape)) for name, shape in {"source": (8,), "view": (3, 8)}.items()}
    own["prediction"], features, views = np.zeros((24, 3, 8)), np.zeros((24, 6)), np.zeros((24, 3, 6))
    for i, image in enumerate(images[:, None]):
        features[i] = network(image)
        source = experts(network(image))["equivariant"]
        own["source"][i] = source
        for view in range(3):
            row = {name: values[3 * i + view][None] for name, values in parameters.items()}
            views[i, view] = network(augmentation.apply(image, row))
            own["view"][i, view] = experts(views[i, view][None].astype("float32"))["equivariant"]
            own["prediction"][i, view] = model.predictor(source, augmentation.encode(row))
    mean, std = augmentation.moments((8, 8, 3))
    actions = (np.asarray(augmentation.encode(parameters)) - mean).reshape(24, 3, -1) / std

    expected = naive(*(own[name][12:] for name in ("source", "view", "prediction")), actions[12:])
    found = equivariance_metrics(model, IMAGES, predictor="own", views=3, seed=7).to_dict()
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-4)

    components = PCA().fit(features[:12]).transform(features)
    moved = (components[:, None, :, None] * actions[:, :, None]).reshape(72, -1)
    inputs = np.c_[PolynomialFeatures(2, include_bias=False).fit_transform(actions.reshape(72, -1)), moved]
    shifts = (views - features[:, None]).reshape(72, -1)
    predictions = features[:, None] + peer_of_ridge(1e-3, inputs[:36], shifts[:36]).predict(inputs).reshape(
        24, 3, 6
    )
    expected = naive(features[12:], views[12:], predictions[12:], actions[12:])
    found = equivariance_metrics(model, IMAGES, predictor="fitted", views=3, seed=7)
    assert {name: found.to_dict()[name] for name in expected} == pytest.approx(expected, abs=1e-3)

    pairs = np.concatenate([features[:, None].repeat(3, axis=1), views], axis=2).reshape(72, -1)
    truth = actions.reshape(72, -1)
    for column, r2 in zip(truth.T, found.r2_by_column.values(), strict=True):
        errors = [
            np.sum((peer_of_ridge(p, pairs[:30], column[:30]).predict(pairs[30:36]) - column[30:36]) ** 2)
            for p in np.logspace(-3, 4, 15)
        ]
        best = np.logspace(-3, 4, 15)[np.argmin(errors)]
        answers = peer_of_ridge(best, pairs[:36], column[:36]).predict(pairs[36:])
        assert r2 == pytest.approx(r2_score(column[36:], answers), abs=1e-3)


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


def test_what_never_varies_cannot_be_read_nor_retrieved():
    never = sk.augmentation.HorizontalFlip(probability=0.0)
    found = equivariance_metrics(backbone(Means()), IMAGES, never, views=4)
    assert np.isnan(found.prediction_error) and np.isnan(found.r2)
    told = found.to_dict()
    assert told["prediction_error"] is told["r2"] is told["r2_by_column"]["flip"] is None
    assert told["mrr"] == pytest.approx(told["floors"]["mrr"])


def test_numbers_that_are_not_finite_are_told_of_the_image_and_of_the_part_that_has_them():
    images = IMAGES.astype("float32")
    images[3] = np.nan
    flip = sk.augmentation.HorizontalFlip()
    with pytest.raises(NonFiniteError, match=r"1 of 24 images, the first at \[3\]"):
        equivariance_metrics(backbone(Means()), images, flip, views=3)

    class Broken(sk.augmentation.HorizontalFlip):
        def apply(self, images, parameters):
            return super().apply(images, parameters) * float("nan")

    with pytest.raises(NonFiniteError, match="look at the backbone's weights"):
        equivariance_metrics(backbone(Means()), IMAGES, Broken(), views=3)


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
        ({"views": 2.5}, "`views` must be a positive whole number. Received: views=2.5"),
        (
            {"fit_fraction": float("nan")},
            "`fit_fraction` must be a finite number.*Received: fit_fraction=nan",
        ),
        ({"images": [IMAGES[0], IMAGES[1, :5]]}, "Received: images of several shapes"),
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
