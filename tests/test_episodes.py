"""Few-shot episodes: the classifier, the draw, and what is refused."""

import tracemalloc

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from star_keras.evaluation import episodes, few_shot
from star_keras.evaluation.episodes import fit_one_against_rest

RNG = np.random.default_rng(0)
LABELS = np.arange(140) % 7
FEATURES = RNG.normal(size=(140, 6)) + 1.5 * RNG.normal(size=(7, 6))[LABELS]


@pytest.mark.parametrize("shots, width", [(1, 3), (1, 40), (5, 8)])
def test_classifier_is_the_optimum_that_liblinear_approaches(shots, width):
    labels = np.arange(5).repeat(shots)
    inputs = RNG.normal(size=(3, len(labels), width)) + 2 * RNG.normal(size=(5, width))[labels]
    ones = np.concatenate([inputs, np.ones((3, len(labels), 1))], axis=2)
    found = fit_one_against_rest(ones, labels)
    for problem, coefficients in zip(inputs, found, strict=True):
        for one in range(5):
            peer = LogisticRegression(solver="liblinear", tol=1e-10, max_iter=10_000).fit(
                problem, labels == one
            )
            expected = np.append(peer.coef_[0], peer.intercept_)
            np.testing.assert_allclose(coefficients[:, one], expected, atol=1e-6)


def test_accuracy_is_that_of_liblinear_episode_by_episode():
    members = [np.flatnonzero(LABELS == label) for label in range(7)]
    drawn, right = episodes._draw(members, 5, 2, 4, 12, np.random.default_rng(3)), []
    for rows in drawn:
        fitted, asked = FEATURES[rows[:, :2].ravel()], FEATURES[rows[:, 2:].ravel()]
        peers = [
            LogisticRegression(solver="liblinear", tol=1e-10).fit(fitted, np.arange(5).repeat(2) == one)
            for one in range(5)
        ]
        answers = np.stack([peer.decision_function(asked) for peer in peers])
        right.append(np.mean(answers.argmax(axis=0) == np.arange(5).repeat(4)))
    found = few_shot(FEATURES, LABELS, shots=2, queries=4, episodes=12, seed=3)
    assert found.accuracy == pytest.approx(np.mean(right), abs=1e-12)
    assert found.interval == pytest.approx(1.96 * np.std(right) / np.sqrt(12))


def test_a_seed_draws_its_episodes_again():
    accuracies = [few_shot(FEATURES, LABELS, episodes=30, seed=seed).accuracy for seed in (3, 3, 4)]
    assert accuracies[0] == accuracies[1] != accuracies[2]


def test_classes_far_apart_are_always_told_apart():
    result = few_shot(5 * np.eye(7)[LABELS], LABELS, episodes=20)
    assert (result.accuracy, result.interval) == (1, 0)


def test_noise_is_guessed():
    result = few_shot(RNG.normal(size=(140, 6)), LABELS, episodes=400)
    assert result.floor == 0.2
    assert abs(result.accuracy - 0.2) < 3 * result.interval


def test_more_shots_help():
    one, five = (few_shot(FEATURES, LABELS, shots=shots, episodes=200) for shots in (1, 5))
    assert five.accuracy - one.accuracy > one.interval + five.interval


def test_rotated_features_give_the_same_answers():
    rotation = np.linalg.qr(RNG.normal(size=(6, 6)))[0]
    first, second = (few_shot(x, LABELS, episodes=50).accuracy for x in (FEATURES, FEATURES @ rotation))
    assert first == pytest.approx(second, abs=0.002)


def test_more_columns_than_images_give_the_same_answers_as_their_coordinates():
    basis = np.linalg.qr(RNG.normal(size=(300, 6)))[0].T
    first, second = (few_shot(x, LABELS, episodes=50).accuracy for x in (FEATURES, FEATURES @ basis))
    assert first == pytest.approx(second, abs=0.002)


def test_interval_is_that_of_the_mean_and_shrinks_with_its_episodes():
    few, many = (few_shot(FEATURES, LABELS, episodes=count).interval for count in (100, 1600))
    assert few / many == pytest.approx(4, rel=0.2)


def test_interval_is_1_96_population_deviations_over_the_root_of_the_episodes(monkeypatch):
    monkeypatch.setattr(episodes, "_accuracies", lambda features, shots: np.arange(len(features)) % 2.0)
    result = few_shot(FEATURES, LABELS, episodes=100)
    assert (result.accuracy, result.interval) == (0.5, pytest.approx(1.96 * 0.5 / 10))


def test_no_image_is_both_fitted_and_asked_for():
    members = [np.arange(3), np.arange(10, 60)]  # too few images for the queries, and enough
    drawn = episodes._draw(members, 2, 2, 5, 50, np.random.default_rng(0))
    for rows in drawn.reshape(-1, 7):
        fitted, asked = set(rows[:2]), set(rows[2:])
        assert len(fitted) == 2 and not fitted & asked
        assert len(asked) == (1 if rows[0] < 10 else 5)


def test_small_classes_are_left_out_and_short_ones_drawn_again():
    labels = np.concatenate([LABELS, [7, 8, 8, 8]])
    features = np.concatenate([FEATURES, RNG.normal(size=(4, 6))])
    result = few_shot(features, labels, ways=8, shots=1, episodes=5)
    assert (result.num_classes, result.num_images) == (8, 143)  # class 7 has one image, class 8 has three


@pytest.mark.parametrize(
    "change, message",
    [
        ({"features": np.where(FEATURES > 3, np.nan, FEATURES)}, "`features` must be finite"),
        ({"labels": LABELS[:-1]}, "`labels` must be 140 whole numbers"),
        ({"labels": LABELS / 2}, "`labels` must be 140 whole numbers"),
        ({"labels": np.zeros(140, int)}, "ways=5 classes with more than shots=1 images. Received: 1 such"),
        ({"shots": 20}, "more than shots=20 images. Received: 0 such classes of 7"),
        ({"ways": 1}, "`ways` must be a whole number of at least 2. Received: ways=1"),
        ({"shots": 0}, "`shots` must be a positive whole number. Received: shots=0"),
        ({"ways": 5.0}, "`ways` must be a positive whole number. Received: ways=5.0"),
        ({"episodes": float("nan")}, "`episodes` must be a positive whole number. Received: episodes=nan"),
    ],
)
def test_what_no_episode_can_be_made_of_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        few_shot(**{"features": FEATURES, "labels": LABELS, "episodes": 2, **change})


def test_memory_does_not_grow_with_wide_features_and_many_episodes():
    features = RNG.normal(size=(200, 512)).astype("float32")
    tracemalloc.start()
    few_shot(features, np.arange(200) % 5, episodes=1000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3e8  # all at once they would be twice as much and more


@pytest.mark.parametrize("width", [6, 300])
def test_the_number_of_episodes_at_a_time_does_not_matter(width, monkeypatch):
    features = RNG.normal(size=(140, width))
    whole = few_shot(features, LABELS, episodes=40)
    monkeypatch.setattr(episodes, "_BLOCK_ENTRIES", 1)
    assert few_shot(features, LABELS, episodes=40) == whole
