"""An orbit in one batch or in chunks, and the gradients that come back through it."""

import keras
import numpy as np
import pytest
from _arrays import array
from _equitune import S3, Counting, network, rng, sample, wrap
from keras import ops

from star_keras import groups
from star_keras.exceptions import ShapeError
from star_keras.layers import EquiTune

# Chunks


@pytest.mark.fault(56)
@pytest.mark.parametrize(
    ("weighting", "ties", "invariant"),
    [
        ("mean", "mean", False),
        ("lambda", "mean", False),
        ("lambda", "mean", True),
        ("argmin", "mean", False),
        ("argmin", "first", True),
        ("argmin max", "mean", False),
    ],
)
def test_chunks_of_the_orbit_give_what_the_whole_gives(weighting, ties, invariant):
    x = sample("dihedral", 5, "float32")
    x[:2] += x[:2, ::-1, ::-1]  # ties across chunks
    whole = wrap("dihedral", weighting, invariant, ties=ties, max_orbit_batch=None)
    whole.build(x.shape)
    for rows in (1, 15, "auto"):
        parts = EquiTune.from_config({**whole.get_config(), "max_orbit_batch": rows})
        parts.build(x.shape)
        parts.set_weights(whole.get_weights())
        np.testing.assert_allclose(array(parts(x)), array(whole(x)), atol=1e-6)
        np.testing.assert_allclose(array(parts.orbit_weights(x)), array(whole.orbit_weights(x)), atol=1e-6)


@pytest.mark.fault(56)
@pytest.mark.parametrize(
    ("batch", "rows", "training", "seen"),
    [
        (3, None, False, [24]),
        (3, 24, False, [24]),
        (3, 23, False, [21, 3]),
        (3, 6, False, [6, 6, 6, 6]),
        (3, 1, False, [3] * 8),
        (3, "auto", False, [24]),
        (8, "auto", False, [32, 32]),
        (64, "auto", False, [64] * 8),
        (64, "auto", True, [512]),
        (64, 128, True, [128] * 4),
    ],
)
def test_no_call_of_the_model_has_more_rows_than_allowed(batch, rows, training, seen):
    model = Counting()
    wrapper = EquiTune(model, groups.Dihedral(4), max_orbit_batch=rows)
    wrapper.build((batch, 4, 4, 2))
    model.seen.clear()
    wrapper(np.ones((batch, 4, 4, 2), "float32"), training=training)
    assert model.seen == seen


@pytest.mark.fault(54)
def test_batch_statistics_are_those_of_the_whole_orbit_while_training():
    def moving_mean(**options):
        norm = keras.layers.BatchNormalization(momentum=0.0)
        model = keras.Sequential([keras.Input((4, 4, 2)), norm, keras.layers.Flatten()])
        rows = rng(2).normal(size=(3, 4, 4, 2)).astype("float32") + np.arange(4)[:, None, None]
        EquiTune(model, groups.Cyclic(4), **options)(rows, training=True)
        last = np.rot90(rows, 3, axes=(1, 2))
        return array(norm.moving_mean), rows.mean(axis=(0, 1, 2)), last.mean(axis=(0, 1, 2))

    found, whole, _ = moving_mean()
    np.testing.assert_allclose(found, whole, atol=1e-5)
    found, _, last = moving_mean(max_orbit_batch=3)
    np.testing.assert_allclose(found, last, atol=1e-5)
    norm = keras.layers.BatchNormalization()
    inner = keras.Sequential([keras.Input((4, 4, 2)), norm, keras.layers.Conv2D(2, 3, padding="same")])
    wrapper, x = EquiTune(inner, groups.Dihedral(4), groups.Dihedral(4)), sample("dihedral", dtype="float32")
    one = wrapper.group.act(3, wrapper(x, training=True))
    other = wrapper(wrapper.group.act(3, x), training=True)
    np.testing.assert_allclose(array(one), array(other), atol=1e-5)


def fixed(batch):
    inputs = keras.Input(batch_shape=(batch, 4, 4, 2))
    return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(inputs)))


@pytest.mark.fault(54)
@pytest.mark.parametrize("batch", [4, 2, 1])
def test_a_batch_size_that_is_built_in_is_filled_with_members_of_the_orbit(batch):
    model = fixed(4)
    free = keras.Sequential([keras.Input((4, 4, 2)), keras.layers.Flatten(), keras.layers.Dense(3)])
    free.set_weights(model.get_weights())
    x = rng(3).normal(size=(batch, 4, 4, 2)).astype("float32")
    expected = EquiTune(free, groups.Dihedral(4))(x)
    np.testing.assert_allclose(array(EquiTune(model, groups.Dihedral(4))(x)), array(expected), atol=1e-6)


@pytest.mark.fault(54)
@pytest.mark.parametrize("batch", [3, 8])
def test_a_batch_size_that_is_built_in_and_cannot_be_filled_is_refused(batch):
    with pytest.raises(ShapeError, match=f"fixed batch size of 4.*Received: a batch of {batch} rows"):
        EquiTune(fixed(4), groups.Dihedral(4))(np.zeros((batch, 4, 4, 2), "float32"))


# Gradients


def differentiate(wrapper, x, upstream):
    """Gradients of `sum(outputs * upstream)` with respect to the weights, inner model first."""
    tf = pytest.importorskip("tensorflow")
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(wrapper(x) * upstream)
    variables = [variable.value for variable in wrapper.trainable_variables]
    return [array(one) for one in tape.gradient(loss, variables, unconnected_gradients="zero")]


def formula(wrapper, x, upstream, shares):
    """Gradients of the weights when element g receives `shares[g] * (g upstream)`, (order, rows)."""
    tf = pytest.importorskip("tensorflow")
    with tf.GradientTape() as tape:
        loss = 0.0
        for g in range(wrapper.group.order):
            sent = array(wrapper.output_group.act(g, upstream)) * shares[g][:, None, None, None]
            loss += tf.reduce_sum(wrapper.model(wrapper.group.act(g, x)) * sent)
    variables = [variable.value for variable in wrapper.model.trainable_variables]
    return [array(one) for one in tape.gradient(loss, variables, unconnected_gradients="zero")]


@pytest.mark.parametrize("rows", [None, 3, 9])
@pytest.mark.parametrize("gradient", ["equitune", "identity", "selected"])
def test_gradients_of_argmin_are_those_of_the_formulas(gradient, rows):
    wrapper = wrap("dihedral", "argmin", dtype="float64", gradient=gradient, max_orbit_batch=rows)
    x = sample("dihedral")
    upstream = rng(4).normal(size=(3, 4, 4, 2))
    shares = {
        "equitune": np.full((8, 3), 1 / 8),
        "identity": np.eye(8)[0][:, None] * np.ones(3),
        "selected": array(wrapper.orbit_weights(x)).T,
    }[gradient]
    found = differentiate(wrapper, x, upstream)
    for one, other in zip(found, formula(wrapper, x, upstream, shares), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-10)


@pytest.mark.parametrize("rows", [None, 6])
@pytest.mark.parametrize(
    "options",
    [
        dict(weighting="mean"),
        dict(weighting="lambda", features="hidden"),
        dict(weighting="lambda", features=None, temperature=0.3),
        dict(weighting="argmin", score="max_value", gradient="selected"),
    ],
    ids=["mean", "lambda of a layer", "lambda of outputs", "selected"],
)
def test_gradients_are_the_true_ones_by_finite_differences(options, rows):
    if options["weighting"] == "lambda":
        options = {**options, "score": keras.layers.Dense(1, dtype="float64")}
    group, x = groups.Permutation(S3), sample("permutations", batch=2)
    model = network((2, 3), dtype="float64")
    wrapper = EquiTune(model, group, max_orbit_batch=rows, **options)
    wrapper.build(x.shape)
    upstream = rng(5).normal(size=(2, 4))
    for variable, gradient in zip(
        wrapper.trainable_variables, differentiate(wrapper, x, upstream), strict=True
    ):
        value = array(variable)
        for index in list(np.ndindex(*value.shape))[:: max(1, value.size // 2)]:
            step = np.zeros_like(value)
            step[index] = 1e-6
            sums = []
            for sign in (1, -1):
                variable.assign(value + sign * step)
                sums.append((array(wrapper(x)) * upstream).sum())
            variable.assign(value)
            np.testing.assert_allclose(gradient[index], (sums[0] - sums[1]) / 2e-6, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("gradient", ["equitune", "identity", "selected"])
def test_the_chosen_member_comes_through_to_the_last_bit(gradient):
    """Where members differ in size by more than float32 holds."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Lambda(lambda x: x[:, :1])])
    options = dict(weighting="argmin", score=lambda outputs: outputs[:, 0], gradient=gradient)
    wrapper = EquiTune(model, groups.Permutation([[0, 1], [1, 0]]), **options)
    x = np.array([[1.0, 1e8], [1e8, 3.0]], "float32")
    np.testing.assert_array_equal(array(wrapper(x)), [[1.0], [3.0]])


@pytest.mark.parametrize("gradient", ["equitune", "identity", "selected"])
@pytest.mark.parametrize("score", ["entropy", "confidence", "max_value"])
def test_forbidden_classes_stay_forbidden_whichever_member_is_chosen(score, gradient):
    inputs = keras.Input((3,))
    forbidden = np.array([False, True, False])
    outputs = keras.layers.Lambda(lambda x: ops.where(forbidden, -float("inf"), x * [1.0, 1.0, 3.0]))(inputs)
    options = dict(weighting="argmin", score=score, gradient=gradient, from_logits=True)
    wrapper = EquiTune(keras.Model(inputs, outputs), groups.Permutation([[0, 1, 2], [2, 1, 0]]), **options)
    x = rng(0).normal(size=(4, 3)).astype("float32")
    outputs = array(wrapper(x))
    assert (outputs[:, 1] == -np.inf).all()
    np.testing.assert_array_less(wrapper.equivariance_error(x), 1e-5)
    members = [member * [1.0, 3.0] for member in (x[:, ::2], x[:, ::-2])]
    assert np.any([np.isclose(outputs[:, ::2], member).all(1) for member in members], axis=0).all()


def test_the_gradient_of_equitune_is_not_the_true_gradient_of_argmin():
    x, upstream = sample("dihedral"), rng(6).normal(size=(3, 4, 4, 2))
    found = {}
    for gradient in ("equitune", "selected"):
        keras.utils.set_random_seed(1)
        wrapper = wrap("dihedral", "argmin", dtype="float64", gradient=gradient)
        found[gradient] = np.concatenate([one.ravel() for one in differentiate(wrapper, x, upstream)])
    cosine = found["equitune"] @ found["selected"]
    cosine /= np.linalg.norm(found["equitune"]) * np.linalg.norm(found["selected"])
    assert 0.2 < cosine < 0.95
