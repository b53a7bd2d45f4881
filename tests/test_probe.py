"""Laws of the probes, with independent float64 solutions where there are some."""

import json

import keras
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score

import star_keras as sk
from star_keras.evaluation import embedding_spread, extract_features, linear_probe, nearest_neighbors
from star_keras.evaluation.logistic import Logistic
from star_keras.exceptions import NonFiniteError, ShapeError

RNG = np.random.default_rng(0)
LABELS = np.arange(120) % 3
FEATURES = RNG.normal(size=(120, 5)) + 1.5 * np.eye(3, 5)[LABELS]
TEST_LABELS = np.arange(60) % 3
TEST_FEATURES = RNG.normal(size=(60, 5)) + 1.5 * np.eye(3, 5)[TEST_LABELS]


def objective(flat, features, labels, weight):
    """The objective of the protocol, written out: sum of cross-entropies and decay of all weights."""
    matrix = flat.reshape(features.shape[1] + 1, -1)
    logits = features @ matrix[:-1] + matrix[-1]
    entropy = logsumexp(logits, axis=1) - logits[np.arange(len(labels)), labels]
    return entropy.sum() + weight * np.sum(flat**2)


@pytest.mark.parametrize("weight", [1e-6, 0.01, 1.0, 30.0, 1e5])
def test_linear_probe_reaches_the_unique_optimum_of_the_protocol(weight):
    best = minimize(
        objective, np.zeros(18), (FEATURES, LABELS, weight), method="BFGS", options={"gtol": 1e-7}
    )
    found = Logistic(FEATURES, LABELS, 3).solve(weight)
    assert objective(found.ravel(), FEATURES, LABELS, weight) == pytest.approx(best.fun, rel=1e-6)


@pytest.mark.parametrize("spread", [0.0, 20.0], ids=["overlapping", "separable"])
def test_the_smallest_weight_of_the_protocol_is_solved_from_scratch_and_from_a_neighbour(spread):
    features = 1e3 * (FEATURES + spread * np.eye(3, 5)[LABELS])
    model = Logistic(features, LABELS, 3)
    cold = model.objective(model.solve(1e-6), 1e-6)
    warm = model.objective(model.solve(1e-6, model.solve(1e-3)), 1e-6)
    assert warm == pytest.approx(cold, rel=1e-6, abs=1e-13)  # 120 terms cannot be summed more exactly


@pytest.mark.parametrize("weight", [0.05, 2.0])
def test_linear_probe_is_the_logistic_regression_of_scikit_learn(weight):
    theirs = LogisticRegression(C=1 / (2 * weight), fit_intercept=False, tol=1e-9, max_iter=5000)
    theirs.fit(np.c_[FEATURES, np.ones(120)], LABELS)
    ours = Logistic(FEATURES, LABELS, 3).solve(weight)
    np.testing.assert_allclose(ours.T, theirs.coef_, atol=2e-4)


@pytest.mark.parametrize("metric", ["top1", "class_average"])
def test_choice_refit_accuracy_error_and_floor_are_those_of_scikit_learn(metric):
    labels = np.repeat([0, 1, 2], [60, 25, 15])
    rows = [np.random.default_rng(seed).normal(size=(100, 5)) + np.eye(3, 5)[labels] for seed in range(3)]
    weights, score = [1e-3, 0.3, 30.0, 3000.0], accuracy_score
    if metric == "class_average":
        score = balanced_accuracy_score

    def answers(train, labels, weight, asked):
        peer = LogisticRegression(C=1 / (2 * weight), fit_intercept=False, tol=1e-9, max_iter=5000)
        return peer.fit(np.c_[train, np.ones(len(train))], labels).predict(np.c_[asked, np.ones(len(asked))])

    chosen = {weight: score(labels, answers(rows[0], labels, weight, rows[1])) for weight in weights}
    best = max(weights, key=chosen.get)
    joined = np.concatenate(rows[:2]), np.tile(labels, 2)
    expected = answers(*joined, best, rows[2])
    found = linear_probe(rows[0], labels, rows[2], labels, weights, metric, validation_data=(rows[1], labels))
    assert found.validation_accuracies == pytest.approx(chosen) and len(set(chosen.values())) > 2
    assert (found.weight, found.accuracy) == (best, pytest.approx(score(labels, expected)))
    assert found.floor == pytest.approx(score(labels, np.zeros(100)))
    right = [np.mean(expected[labels == label] == label) for label in range(3)]
    variances = [share * (1 - share) / count for share, count in zip(right, (60, 25, 15), strict=True)]
    total = found.accuracy * (1 - found.accuracy) / 100 if metric == "top1" else sum(variances) / 9
    assert found.standard_error == pytest.approx(np.sqrt(total))


def test_one_block_for_all_classes_finds_the_same_optimum(monkeypatch):
    monkeypatch.setattr("star_keras.evaluation.logistic._BLOCK_ENTRIES", 0)
    shared = Logistic(FEATURES, LABELS, 3)
    monkeypatch.undo()
    own = Logistic(FEATURES, LABELS, 3)
    np.testing.assert_allclose(shared.solve(0.1), own.solve(0.1), atol=1e-3)


@pytest.mark.parametrize("num_classes", [2, 4])
def test_constant_features_of_balanced_classes_have_even_chances(num_classes):
    solver = Logistic(np.zeros((40, 5)), np.arange(40) % num_classes, num_classes)
    np.testing.assert_array_equal(solver.solve(1.0), np.zeros((6, num_classes)))


def test_official_validation_data_choose_the_weight_and_join_the_training_set():
    result = linear_probe(
        FEATURES, LABELS, TEST_FEATURES, TEST_LABELS,
        weights=[1e-3, 1e6], validation_data=(TEST_FEATURES, TEST_LABELS[:, None]),
    )  # fmt: skip
    joined = np.concatenate([FEATURES, TEST_FEATURES]), np.concatenate([LABELS, TEST_LABELS])
    assert result.accuracy == linear_probe(*joined, TEST_FEATURES, TEST_LABELS, weights=1e-3).accuracy
    assert (result.weight, result.num_train, result.num_validation, result.seed) == (1e-3, 180, 60, None)


def test_results_turn_into_plain_values():
    for result in (
        linear_probe(FEATURES, LABELS, TEST_FEATURES, TEST_LABELS, weights=[0.1, 1.0]),
        nearest_neighbors(FEATURES, LABELS, TEST_FEATURES, TEST_LABELS),
    ):
        fields = json.loads(json.dumps(result.to_dict()))
        assert fields["accuracy"] == result.accuracy
        assert fields["num_test"] == 60
        assert fields["floor"] == pytest.approx(1 / 3)


def test_weight_is_chosen_among_the_candidates_and_repeatable():
    first, second = (linear_probe(FEATURES, LABELS, TEST_FEATURES, TEST_LABELS) for _ in range(2))
    assert first == second
    assert first.seed == 0
    assert 1e-6 <= first.weight <= 1e5
    assert len(first.validation_accuracies) == 45
    assert 0.5 < first.accuracy <= 1


def test_order_of_features_does_not_matter():
    order = RNG.permutation(5)
    one = linear_probe(FEATURES, LABELS, TEST_FEATURES, TEST_LABELS, weights=1.0)
    other = linear_probe(FEATURES[:, order], LABELS, TEST_FEATURES[:, order], TEST_LABELS, weights=1.0)
    assert one.accuracy == other.accuracy


def test_standardised_features_make_scale_and_offset_irrelevant():
    scale, offset = np.array([1e-3, 1, 10, 100, 1e4]), 7.0
    arguments = dict(weights=1.0, standardize=True)
    one = linear_probe(FEATURES, LABELS, TEST_FEATURES, TEST_LABELS, **arguments)
    other = linear_probe(
        FEATURES * scale + offset, LABELS, TEST_FEATURES * scale + offset, TEST_LABELS, **arguments
    )
    assert one.accuracy == other.accuracy


def test_standardised_a_feature_that_was_constant_in_training_does_not_count():
    train, test = (np.c_[rows, np.full(len(rows), 0.1)] for rows in (FEATURES, TEST_FEATURES))
    test[:, -1] = 0.2
    assert 0 < train[:, -1].std() < 1e-15
    arguments = dict(weights=1.0, standardize=True)
    one = linear_probe(FEATURES, LABELS, TEST_FEATURES, TEST_LABELS, **arguments)
    assert linear_probe(train, LABELS, test, TEST_LABELS, **arguments).accuracy == one.accuracy


def test_shuffled_labels_give_chance():
    features, labels = RNG.normal(size=(3000, 5)), RNG.integers(0, 3, 3000)
    result = linear_probe(features[:2000], labels[:2000], features[2000:], labels[2000:], weights=1.0)
    assert result.accuracy == pytest.approx(1 / 3, abs=4 * result.standard_error)


def test_class_average_weighs_classes_and_top1_weighs_samples():
    bank, bank_labels = np.array([[1.0, 0], [0, 1]]), np.array([0, 1])
    queries, labels = np.array([[1.0, 0], [1, 0], [1, 0], [1, 0.1]]), np.array([0, 0, 0, 1])
    assert nearest_neighbors(bank, bank_labels, queries, labels).accuracy == 0.75
    assert nearest_neighbors(bank, bank_labels, queries, labels, metric="class_average").accuracy == 0.5


@pytest.mark.parametrize("k", [1, 5, 20])
def test_nearest_neighbors_agree_with_a_loop(k):
    unit, queries = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (FEATURES, TEST_FEATURES))
    right = 0
    for query, label in zip(queries, TEST_LABELS, strict=True):
        similarity = unit @ query
        nearest = np.argsort(-similarity)[:k]
        votes = np.bincount(LABELS[nearest], minlength=3)
        right += next(c for c in LABELS[nearest] if votes[c] == votes.max()) == label
    assert nearest_neighbors(FEATURES, LABELS, TEST_FEATURES, TEST_LABELS, k=k).accuracy == right / 60


def test_of_equally_near_neighbours_those_that_come_first_vote():
    bank, labels = np.ones((1000, 2)), np.repeat([1, 0, 2], [2, 1, 997])
    for k in (1, 2, 3):
        assert nearest_neighbors(bank, labels, np.ones((1, 2)), np.array([1]), k=k).accuracy == 1


def test_length_of_features_does_not_matter_to_neighbours():
    lengths = RNG.uniform(0.1, 10, (60, 1))
    one = nearest_neighbors(FEATURES, LABELS, TEST_FEATURES, TEST_LABELS)
    assert one == nearest_neighbors(FEATURES, LABELS, TEST_FEATURES * lengths, TEST_LABELS)


@pytest.mark.parametrize("factor", [1e20, 1e-24])
def test_lengths_whose_squares_leave_float32_do_not_matter_either(factor):
    one = nearest_neighbors(FEATURES, LABELS, TEST_FEATURES, TEST_LABELS)
    rows = [(factor * features).astype("float32") for features in (FEATURES, TEST_FEATURES)]
    assert nearest_neighbors(rows[0], LABELS, rows[1], TEST_LABELS) == one
    assert embedding_spread(rows[0]) == pytest.approx(embedding_spread(FEATURES), rel=1e-5)


@pytest.mark.parametrize(
    "probe, change, message",
    [
        (nearest_neighbors, {"k": 2.0}, "`k` must be a positive whole number. Received: k=2.0"),
        (
            nearest_neighbors,
            {"k": 121},
            "`k` must lie between 1 and the 120 training images. Received: k=121",
        ),
        (linear_probe, {"weights": [[1.0, 2.0]]}, "a number or a list of numbers. Received"),
        (linear_probe, {"weights": ["small"]}, "a number or a list of numbers. Received"),
        (linear_probe, {"weights": []}, "a number or a list of numbers. Received"),
        (linear_probe, {"weights": [1.0, -1.0]}, "must be positive and finite. Received"),
        (linear_probe, {"validation_fraction": float("nan")}, "`validation_fraction` must be a finite"),
        (linear_probe, {"validation_fraction": 0.001}, "at least one image on both sides"),
    ],
)
def test_wrong_arguments_are_refused_with_a_reason(probe, change, message):
    with pytest.raises(ValueError, match=message):
        probe(FEATURES, LABELS, TEST_FEATURES, TEST_LABELS, **change)


@pytest.mark.parametrize("probe", [linear_probe, nearest_neighbors])
def test_an_unknown_metric_is_refused_before_anything_is_fitted(probe, monkeypatch):
    monkeypatch.setattr(Logistic, "solve", lambda *_: pytest.fail("fitted"))
    with pytest.raises(ValueError, match="`metric` must be one of"):
        probe(FEATURES, LABELS, TEST_FEATURES, TEST_LABELS, metric="top2")


@pytest.mark.parametrize("probe", [linear_probe, nearest_neighbors])
@pytest.mark.parametrize(
    "broken, message",
    [
        ((FEATURES[:10], LABELS, TEST_FEATURES, TEST_LABELS), "must be 10 whole numbers of shape"),
        ((FEATURES, LABELS, TEST_FEATURES[:, :4], TEST_LABELS), "columns"),
        ((FEATURES, LABELS * 0, TEST_FEATURES, TEST_LABELS * 0), "at least two classes"),
        ((FEATURES, LABELS, TEST_FEATURES, TEST_LABELS + 2), "occur in"),
        ((FEATURES, LABELS / 1.0, TEST_FEATURES, TEST_LABELS), "whole numbers .* type float64"),
        (
            (FEATURES[:0], LABELS[:0], TEST_FEATURES, TEST_LABELS),
            r"with at least 1 row\. Received: shape \(0, ",
        ),
        ((FEATURES.astype(str), LABELS, TEST_FEATURES, TEST_LABELS), "must be numbers. Received: type <U"),
        ((FEATURES, LABELS, TEST_FEATURES.astype(object), TEST_LABELS), "numbers. Received: type object"),
    ],
    ids=["lengths", "widths", "one class", "unknown label", "float labels", "empty", "text", "objects"],
)
def test_wrong_arrays_are_refused_with_a_reason(probe, broken, message):
    with pytest.raises(ValueError, match=message):
        probe(*broken)


@pytest.mark.parametrize("probe", [linear_probe, nearest_neighbors])
def test_nan_features_are_refused_and_counted(probe):
    broken = FEATURES.copy()
    broken[:2] = np.nan
    with pytest.raises(ValueError, match="in 2 of 120"):
        probe(broken, LABELS, TEST_FEATURES, TEST_LABELS)


@pytest.fixture
def backbone():
    inputs = keras.Input((8, 8, 3))
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(inputs)))


def test_features_do_not_depend_on_the_batch_size(backbone):
    images = RNG.uniform(0, 255, (7, 8, 8, 3))
    whole = extract_features(backbone, images)
    assert whole.dtype == "float32"
    np.testing.assert_allclose(extract_features(backbone, images, batch_size=3), whole, atol=1e-4)


def test_layers_have_features_and_maps_are_refused():
    images = RNG.uniform(0, 1, (3, 4, 4, 2)).astype("float32")
    pooled = extract_features(keras.layers.GlobalAveragePooling2D(), images)
    np.testing.assert_allclose(pooled, images.mean(axis=(1, 2)), rtol=1e-5)
    with pytest.raises(ShapeError, match=r"shape \(3, 4, 4, 2\)"):
        extract_features(keras.layers.ReLU(), images)
    with pytest.raises(ValueError, match="at least one image"):
        extract_features(keras.layers.GlobalAveragePooling2D(), images[:0])


def test_images_must_be_one_array_of_the_size_that_the_backbone_takes(backbone):
    images = np.zeros((3, 8, 8, 3))
    with pytest.raises(ShapeError, match=r"of shape \(8, 8, 3\); give one as `image\[None\]`"):
        extract_features(backbone, images[0])
    with pytest.raises(
        ShapeError, match=r"of shape \(8, 8, 3\). Received: .*\(3, 8, 6, 3\); resize the images"
    ):
        extract_features(backbone, images[:, :, :6])
    with pytest.raises(ShapeError, match="Received: images of several shapes; resize"):
        extract_features(backbone, [images[0], images[1, :5]])


def test_features_that_are_not_finite_are_refused(backbone):
    images = np.zeros((3, 8, 8, 3))
    images[1] = np.nan
    with pytest.raises(NonFiniteError, match="1 of 3"):
        extract_features(backbone, images)


def test_probes_write_into_the_logs_of_a_fit_and_resume_keeps_them(tmp_path):
    rows = np.concatenate([RNG.normal(size=(20, 2)) + 4, RNG.normal(size=(20, 2)) - 4])
    labels = np.repeat([0, 1], 20)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    split = (rows, labels)
    resume = sk.callbacks.Resume(tmp_path)
    probes = [
        sk.callbacks.LinearProbe(split, split, every=2),
        sk.callbacks.NearestNeighborProbe(split, split),
    ]
    history = model.fit(rows, labels, epochs=3, callbacks=[*probes, resume], verbose=0).history
    assert history["nearest_neighbor_accuracy"] == resume.history["nearest_neighbor_accuracy"] == [1.0] * 3
    assert history["linear_probe_accuracy"] == [1.0] * 3  # probed in epochs 1, 2 and, being the last, 3
