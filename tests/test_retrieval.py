"""Nearest images, the spaces they are looked for in, and how much of a space is filled."""

import keras
import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

import star_keras as sk
from star_keras.evaluation import (
    effective_rank,
    embedding_spread,
    extract_embeddings,
    nearest_images,
    retrieval,
)
from star_keras.exceptions import NonFiniteError, ShapeError

RNG = np.random.default_rng(0)
BANK, QUERIES = RNG.normal(size=(60, 5)), RNG.normal(size=(11, 5))
IMAGES = RNG.integers(0, 256, (5, 32, 32, 3), dtype="uint8")


@pytest.fixture(scope="module")
def model():
    return sk.models.load("star-resnet20", part="pretraining")


@pytest.mark.parametrize("block", [1, 2**24], ids=["row_by_row", "at_once"])
def test_neighbours_are_those_of_scikit_learn(block, monkeypatch):
    monkeypatch.setattr(retrieval, "_BLOCK_ENTRIES", block)
    distances, indices = NearestNeighbors(n_neighbors=4, metric="cosine").fit(BANK).kneighbors(QUERIES)
    found = nearest_images(QUERIES, BANK, k=4)
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_allclose(found.similarities, 1 - distances, atol=1e-6)


@pytest.mark.parametrize("k", [1, 3, 500, 1000])
def test_of_equal_rows_those_that_come_first_are_taken(k):
    bank = np.eye(2).repeat(500, axis=0)
    found = nearest_images(np.array([[1.0, 0], [0, 1], [1, 1]]), bank, k)
    rows = np.arange(1000)
    orders = rows, np.roll(rows, 500), rows
    np.testing.assert_array_equal(found.indices, [order[:k] for order in orders])
    np.testing.assert_array_equal(nearest_images(bank, k=3).indices[500], [501, 502, 503])


def test_without_a_bank_nobody_is_his_own_neighbour():
    found = nearest_images(BANK, k=59)
    assert all(sorted([*row, own]) == list(range(60)) for own, row in enumerate(found.indices.tolist()))


def test_length_of_an_embedding_does_not_count_and_zeros_are_like_nothing():
    np.testing.assert_array_equal(
        nearest_images(3 * QUERIES, BANK).indices, nearest_images(QUERIES, 0.1 * BANK).indices
    )
    for factor in (1e20, 1e-24):
        scaled = nearest_images((factor * QUERIES).astype("float32"), (factor * BANK).astype("float32"))
        np.testing.assert_allclose(scaled.similarities, nearest_images(QUERIES, BANK).similarities, atol=1e-5)
    assert nearest_images(np.zeros((1, 5)), BANK, k=3).similarities.tolist() == [[0, 0, 0]]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((QUERIES, BANK[:, :4]), "in the same space. Received: 5 and 4 columns"),
        ((QUERIES, BANK, 61), "`k` must lie between 1 and the 60 other images. Received: k=61"),
        ((QUERIES, None, 11), "between 1 and the 10 other images"),
        ((QUERIES, BANK, 2.0), "`k` must be a positive whole number. Received: k=2.0"),
        ((QUERIES[0], BANK), "must be an array"),
        ((np.where(QUERIES > 1, np.inf, QUERIES), BANK), "`queries` must be finite"),
    ],
)
def test_what_has_no_neighbours_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        nearest_images(*arguments)


@pytest.mark.parametrize(
    "space, shape", [("backbone", (64,)), ("equivariant", (128,)), (3, (128,)), ("experts", (8, 128))]
)
def test_embeddings_do_not_depend_on_the_batch_size(model, space, shape):
    one, all_at_once = (extract_embeddings(model, IMAGES, space, size, verbose=0) for size in (2, 8))
    assert one.shape == (5, *shape) and one.dtype == np.float32
    np.testing.assert_allclose(one, all_at_once, atol=1e-4 * np.abs(all_at_once).max())


def test_the_mixture_of_the_experts_by_their_gates_is_the_embedding_of_the_task(model):
    features = extract_embeddings(model, IMAGES, verbose=0)
    gates = np.asarray(model.projector.route(features)["invariant"])
    experts = extract_embeddings(model, IMAGES, "experts", verbose=0)
    expected = np.einsum("ne,neu->nu", gates, experts)
    np.testing.assert_allclose(extract_embeddings(model, IMAGES, "invariant", verbose=0), expected, atol=1e-4)


def test_unknown_spaces_sizes_and_numbers_are_refused(model):
    with pytest.raises(ValueError, match="`space` must be one of .*'experts', '0 to 7'.* Received: space=8"):
        extract_embeddings(model, IMAGES, 8)
    with pytest.raises(
        ShapeError, match=r"of shape \(32, 32, 3\). Received: an array of shape \(5, 16, 16, 3\)"
    ):
        extract_embeddings(model, IMAGES[:, :16, :16])
    broken = keras.Sequential(
        [keras.Input((32, 32, 3)), keras.layers.Lambda(lambda x: x[:, 0, 0] * float("nan"))]
    )
    with pytest.raises(NonFiniteError):
        extract_embeddings(broken, IMAGES, verbose=0)


def test_spread_is_one_on_the_sphere_and_zero_for_one_direction():
    assert embedding_spread(RNG.normal(size=(5000, 64))) == pytest.approx(1, abs=0.01)
    assert embedding_spread(np.outer(RNG.uniform(1, 2, 50), np.ones(8))) == pytest.approx(0, abs=1e-6)


def test_rank_counts_the_directions_that_vary():
    basis = np.linalg.qr(RNG.normal(size=(200, 6)))[0]
    basis -= basis.mean(axis=0)
    basis = np.linalg.qr(basis)[0]
    assert effective_rank(basis @ np.diag([1, 1, 1, 1e-14, 0, 0]) + 5) == pytest.approx(3, abs=1e-4)
    assert effective_rank(np.ones((10, 4))) == 0
    shares = np.array([4, 2, 1]) / 7
    expected = np.exp(-np.sum(shares * np.log(shares)))
    assert effective_rank(basis[:, :3] @ np.diag([4, 2, 1])) == pytest.approx(expected)
