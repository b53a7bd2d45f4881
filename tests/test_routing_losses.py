"""Laws of the router terms: values at the extremes, gradients, padding."""

import keras
import numpy as np
import pytest

from star_keras import losses

tf = pytest.importorskip("tensorflow")
if keras.backend.backend() != "tensorflow":
    pytest.skip("takes gradients with TensorFlow", allow_module_level=True)

GATES = np.random.default_rng(0).dirichlet(np.ones(4), 30).astype("float32")
UNIFORM, ONE_HOT = np.full((8, 4), 0.25), np.eye(4)[np.arange(8) % 4]
COLLAPSED = np.eye(4)[np.zeros(8, int)]


@pytest.mark.parametrize(
    "term,of_one_hot,of_collapsed",
    [(losses.load_balance, 1, 4), (losses.importance_variation, 0, 3)],
    ids=["load_balance", "importance_variation"],
)
def test_balance_is_best_for_even_use_and_worst_for_collapse(term, of_one_hot, of_collapsed):
    np.testing.assert_allclose(term(ONE_HOT), of_one_hot, atol=1e-6)
    np.testing.assert_allclose(term(COLLAPSED), of_collapsed, rtol=1e-6)
    np.testing.assert_allclose(losses.importance_variation(UNIFORM), 0, atol=1e-6)


def test_terms_are_their_formulas_in_float64():
    gates = GATES.astype("float64")
    first = np.eye(4)[gates.argmax(1)]
    np.testing.assert_allclose(
        losses.load_balance(GATES), 4 * np.sum(first.mean(0) * gates.mean(0)), rtol=1e-5
    )
    importance = gates.sum(0)
    expected = importance.var() / importance.mean() ** 2
    np.testing.assert_allclose(losses.importance_variation(GATES), expected, rtol=1e-4)
    np.testing.assert_allclose(losses.gate_entropy(GATES), -np.sum(gates * np.log(gates), 1), rtol=1e-5)
    logits = 10 * np.log(gates)
    np.testing.assert_allclose(losses.router_z(logits), np.log(np.exp(logits).sum(1)) ** 2, rtol=1e-4)


@pytest.mark.parametrize("term", [losses.load_balance, losses.importance_variation])
def test_padding_does_not_count(term):
    mask = np.arange(30) % 3 > 0
    np.testing.assert_allclose(term(GATES, mask), term(GATES[mask]), rtol=1e-5)
    assert np.isfinite(term(GATES, np.zeros(30, bool)))


def test_gradients_of_entropy_are_finite_for_gates_of_zero_and_one():
    gates = tf.constant(ONE_HOT, "float32")
    with tf.GradientTape() as tape:
        tape.watch(gates)
        value = tf.reduce_sum(losses.gate_entropy(gates))
    assert value == 0 and np.all(np.isfinite(tape.gradient(value, gates)))


def test_balance_moves_gates_from_the_chosen_expert():
    gates = tf.constant(COLLAPSED, "float32")
    with tf.GradientTape() as tape:
        tape.watch(gates)
        value = losses.load_balance(gates)
    gradient = np.asarray(tape.gradient(value, gates))
    assert np.all(gradient[:, 0] > 0) and np.all(gradient[:, 1:] == 0)


def test_overlap_is_the_mean_squared_cosine_of_pairs():
    kernels = np.random.default_rng(1).normal(size=(5, 3, 2))
    vectors = kernels.reshape(5, -1) / np.linalg.norm(kernels.reshape(5, -1), axis=1, keepdims=True)
    cosines = (vectors @ vectors.T)[np.triu_indices(5, 1)]
    np.testing.assert_allclose(
        losses.expert_overlap(kernels.astype("float32")), np.mean(cosines**2), rtol=1e-5
    )
    assert losses.expert_overlap(kernels[:1].astype("float32")) == 0
    np.testing.assert_allclose(
        losses.expert_overlap(np.tile(kernels[:1], (3, 1, 1)).astype("float32")), 1, rtol=1e-5
    )
