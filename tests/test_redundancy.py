"""Canonical correlations, their floor, kernel alignment, and how alike experts are."""

import json

import keras
import numpy as np
import pytest

from star_keras.evaluation import (
    canonical_correlation,
    centered_kernel_alignment,
    expert_correlations,
    expert_similarity,
)
from star_keras.layers import RoutedExperts

RNG = np.random.default_rng(0)
X = RNG.normal(size=(300, 5))
Y = 0.6 * X[:, :4] + RNG.normal(size=(300, 4))


def test_a_representation_has_everything_in_common_with_itself():
    np.testing.assert_allclose(canonical_correlation(X, X).correlations, 1, atol=1e-12)


def test_affine_maps_of_either_side_change_nothing():
    expected = canonical_correlation(X, Y).correlations
    moved = canonical_correlation(X @ RNG.normal(size=(5, 5)) * 1e3 + 50, Y @ RNG.normal(size=(4, 4)) - 2)
    np.testing.assert_allclose(moved.correlations, expected, atol=1e-9)
    np.testing.assert_allclose(canonical_correlation(Y, X).correlations, expected, atol=1e-12)


def test_correlations_are_those_of_the_covariances():
    joint = np.cov(X.T, Y.T)
    xx, xy, yy = joint[:5, :5], joint[:5, 5:], joint[5:, 5:]
    squares = np.linalg.eigvals(np.linalg.solve(yy, xy.T) @ np.linalg.solve(xx, xy)).real
    found = canonical_correlation(X, Y)
    np.testing.assert_allclose(found.correlations, np.sort(np.sqrt(squares))[::-1], rtol=1e-10)
    assert found.mean == pytest.approx(found.correlations.mean())
    assert found.samples == 300 and found.to_dict()["correlations"] == found.correlations.tolist()


def test_one_column_gives_the_plain_correlation():
    found = canonical_correlation(X[:, :1], -Y[:, :1])
    assert found.mean == pytest.approx(abs(np.corrcoef(X[:, 0], Y[:, 0])[0, 1]))


@pytest.mark.parametrize("samples, expected", [(8000, 0.108), (2000, 0.217), (1000, 0.308)])
def test_floor_of_128_independent_directions(samples, expected):
    drawn = np.random.default_rng(samples)
    found = canonical_correlation(*drawn.normal(size=(2, samples, 128)))
    assert found.floor == pytest.approx(expected, abs=0.001)
    assert found.mean == pytest.approx(found.floor, abs=0.003)


@pytest.mark.parametrize("widths", [(20, 5), (60, 50)])
def test_floor_of_unlike_widths_and_of_too_few_samples(widths):
    means = []
    for seed in range(20):
        drawn = np.random.default_rng(seed)
        found = canonical_correlation(*(drawn.normal(size=(81, width)) for width in widths))
        means.append(found.mean)
    assert np.mean(means) == pytest.approx(found.floor, abs=0.01)


def test_copies_and_constants_add_no_direction():
    padded = np.concatenate([X, X[:, :2] * 3, np.full((300, 1), 1e6 + 0.1), np.zeros((300, 1))], axis=1)
    found = canonical_correlation(padded, Y)
    np.testing.assert_allclose(found.correlations, canonical_correlation(X, Y).correlations, atol=1e-9)


@pytest.mark.parametrize("type_", ["float16", "float32", "float64"])
def test_columns_that_vary_by_their_rounding_alone_add_no_direction(type_):
    constant = np.nextafter(np.full((300, 2), 7.3, type_), np.array(np.inf, type_))
    constant[::3] = np.nextafter(constant[::3], np.array(np.inf, type_))
    padded = np.concatenate([X.astype(type_), constant], axis=1)
    assert canonical_correlation(padded, Y).directions == (5, 4)
    assert canonical_correlation(constant, Y).mean == centered_kernel_alignment(constant, Y) == 0
    small = X.astype("float32") / 1000 + 1  # a small variation that is more than rounding still counts
    assert canonical_correlation(small, Y).directions == (5, 4)


def test_the_directions_that_were_compared_are_counted():
    wide, narrow = RNG.normal(size=(2000, 128)) + 5, RNG.normal(size=(2000, 3))
    doubled = np.concatenate([narrow, narrow], axis=1)
    assert canonical_correlation(wide.astype("float32"), doubled).directions == (128, 3)
    coarse = canonical_correlation((wide * np.logspace(0, -3, 128)).astype("float16"), doubled)
    assert coarse.directions[0] <= 128 and len(coarse.correlations) == min(coarse.directions)
    assert coarse.to_dict()["directions"] == list(coarse.directions)
    assert canonical_correlation(np.ones((9, 2)), narrow[:9]).directions == (0, 3)


def test_a_constant_side_has_nothing_in_common():
    found = canonical_correlation(np.full((300, 3), 0.1), Y)
    assert (found.mean, found.floor, len(found.correlations)) == (0, 0, 0)
    assert centered_kernel_alignment(np.full((300, 3), 0.1), Y) == 0


def test_pairs_of_experts():
    outputs = np.stack([X[:, :3], 2 * X[:, :3] + 1, RNG.normal(size=(300, 3))], axis=1)
    matrix = expert_correlations(outputs)
    np.testing.assert_allclose(matrix, matrix.T)
    assert matrix[0, 1] == pytest.approx(1)
    assert matrix[0, 2] == pytest.approx(canonical_correlation(outputs[:, 0], outputs[:, 2]).mean)


def test_experts_that_are_not_finite_are_like_nothing():
    with pytest.raises(
        ValueError, match="`experts` must be finite. Received: NaN or infinity in 1 of 3 rows"
    ):
        expert_similarity(np.array([[1.0, 0.0], [np.nan, 2.0], [3.0, 0.0]]))


def test_alignment_is_that_of_the_kernel_matrices():
    centre = np.eye(300) - 1 / 300
    kernels = [centre @ (features @ features.T) @ centre for features in (X, Y)]
    expected = np.sum(kernels[0] * kernels[1]) / (np.linalg.norm(kernels[0]) * np.linalg.norm(kernels[1]))
    assert centered_kernel_alignment(X, Y) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("function", [canonical_correlation, centered_kernel_alignment])
def test_features_must_be_finite_matrices_of_the_same_samples(function):
    with pytest.raises(ValueError, match=r"of the same samples. Received: shapes \(300, 5\)"):
        function(X, Y[:-1])
    with pytest.raises(ValueError, match="matrices"):
        function(X[:, 0], Y[:, 0])
    with pytest.raises(ValueError, match="at least two samples. Received: 1"):
        function(X[:1], Y[:1])
    with pytest.raises(ValueError, match="must be finite"):
        function(X, np.where(Y > 2, np.nan, Y))


def test_outputs_of_experts_have_three_axes():
    with pytest.raises(ValueError, match=r"\(samples, num_experts, units\). Received: shape"):
        expert_correlations(X)


def test_debiased_alignment_of_strangers_is_about_zero():
    strangers = RNG.normal(size=(40, 30)), RNG.normal(size=(40, 30))
    assert centered_kernel_alignment(*strangers) > 0.3
    assert abs(centered_kernel_alignment(*strangers, debiased=True)) < 0.2
    assert centered_kernel_alignment(X, X, debiased=True) == pytest.approx(1)
    with pytest.raises(ValueError, match="at least four samples. Received: 3 rows"):
        centered_kernel_alignment(X[:3], Y[:3], debiased=True)


def test_debiased_alignment_is_that_of_the_hollow_kernels():
    def dependence(one, other):
        k, m = one @ one.T, other @ other.T
        np.fill_diagonal(k, 0)
        np.fill_diagonal(m, 0)
        n = len(k)
        return np.sum(k * m) + k.sum() * m.sum() / (n - 1) / (n - 2) - 2 * (k @ m).sum() / (n - 2)

    expected = dependence(X, Y) / np.sqrt(dependence(X, X) * dependence(Y, Y))
    assert centered_kernel_alignment(X, Y, debiased=True) == pytest.approx(expected, rel=1e-9)


def test_combinations_of_float32_columns_add_no_direction_by_their_rounding():
    few = X.astype("float32")
    many = few @ RNG.normal(size=(5, 12)).astype("float32")
    found = canonical_correlation(many, Y)
    np.testing.assert_allclose(found.correlations, canonical_correlation(few, Y).correlations, atol=1e-5)
    assert len(canonical_correlation(many, RNG.normal(size=(300, 9))).correlations) == 5


def test_similarity_is_that_of_all_kernels_without_biases():
    layer = RoutedExperts(2, 3, hidden_units=(4,), batch_norm=False)
    layer.build((None, 5))
    first, second = (np.asarray(stack.kernel.value) for stack in layer.expert_layers)
    vectors = np.concatenate([first.reshape(3, -1), second.reshape(3, -1)], axis=1).astype("float64")
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    similarity = expert_similarity(layer)
    np.testing.assert_allclose(similarity.matrix, vectors @ vectors.T, atol=1e-12)
    pairs = np.array([similarity.matrix[pair] for pair in ((0, 1), (0, 2), (1, 2))])
    summary = similarity.mean, similarity.mean_abs, similarity.max
    np.testing.assert_allclose(summary, [pairs.mean(), np.abs(pairs).mean(), pairs.max()])


def test_similarity_of_own_experts_and_of_arrays():
    dense = [keras.layers.Dense(2) for _ in range(2)]
    layer = RoutedExperts(2, 2, experts=dense)
    layer.build((None, 3))
    dense[0].kernel.assign(np.ones((3, 2)))
    dense[1].kernel.assign(-2 * np.ones((3, 2)))
    similarity = expert_similarity(layer)
    np.testing.assert_allclose([similarity.mean, similarity.mean_abs], [-1, 1])
    outputs = np.moveaxis(np.asarray(layer.expert_outputs(np.ones((6, 3), "float32"))), 0, 1)
    np.testing.assert_allclose(expert_similarity(outputs).matrix, [[1, -1], [-1, 1]], atol=1e-12)
    two_samples = np.array([[[3.0, 0.0], [0.0, 4.0]], [[0.0, 0.0], [0.0, 5.0]]])  # of each of two experts
    np.testing.assert_allclose(
        expert_similarity(two_samples).matrix, [[1, 0.8], [0.8, 1]], rtol=0, atol=1e-12
    )
    assert expert_similarity(np.ones((1, 4))).max == 0
    assert expert_similarity(np.zeros((2, 4))).mean == 0


def test_a_similarity_is_told_as_plain_data():
    found = expert_similarity(np.array([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]]))
    matrix = [[1, 0, -1], [0, 1, 0], [-1, 0, 1]]
    expected = {"matrix": matrix, "mean": -1 / 3, "mean_abs": 1 / 3, "max": 0}
    assert json.loads(json.dumps(found.to_dict())) == expected


def test_experts_of_different_architectures_are_not_compared_by_their_weights():
    experts = [keras.layers.Dense(2), keras.Sequential([keras.layers.Dense(3), keras.layers.Dense(2)])]
    layer = RoutedExperts(2, 2, experts=experts)
    layer.build((None, 3))
    with pytest.raises(ValueError, match="one architecture.*Received: kernels of shapes"):
        expert_similarity(layer)
