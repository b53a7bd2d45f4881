"""The laws of `EquiTune`: equivariance before any training, and the formulas of its weightings."""

import keras
import numpy as np
import pytest
from _arrays import array
from _equitune import (
    WEIGHTINGS,
    classifier,
    each_setting,
    each_weighting,
    members,
    network,
    rng,
    sample,
    wrap,
)
from keras import ops

from star_keras import groups
from star_keras.layers import EquiTune

# Equivariance


@each_setting
@each_weighting
@pytest.mark.parametrize("invariant", [False, True], ids=["equivariant", "invariant"])
def test_an_untrained_wrapper_is_already_equivariant_in_float64(setting, weighting, invariant):
    wrapper = wrap(setting, weighting, invariant, "float64")
    x = sample(setting, batch=2)
    errors = wrapper.equivariance_error(x)
    assert errors.shape == (wrapper.group.order,) and errors.max() < 1e-10
    assert keras.backend.standardize_dtype(wrapper(x).dtype) == "float64"


@each_weighting
@pytest.mark.parametrize(
    ("dtype", "bound"), [("float32", 1e-5), ("mixed_bfloat16", 2**-7), ("mixed_float16", 2**-8)]
)
def test_an_untrained_wrapper_is_equivariant_within_the_rounding_of_its_type(weighting, dtype, bound):
    wrapper = wrap("dihedral", weighting, dtype=dtype)
    assert wrapper.equivariance_error(sample("dihedral", 4, "float32")).max() < bound


def test_the_model_alone_is_not_equivariant():
    model = network((4, 4, 2), (4, 4, 2))
    x = sample("dihedral", dtype="float32")
    turned = groups.Dihedral(4).act(1, model(x))
    assert np.abs(array(model(groups.Dihedral(4).act(1, x))) - array(turned)).max() > 0.5


@each_weighting
def test_symmetric_inputs_have_symmetric_outputs(weighting):
    wrapper = wrap("dihedral", weighting, dtype="float64")
    x = sample("dihedral")
    for element in (1, 4):
        symmetric = x
        while np.abs(array(wrapper.group.act(element, symmetric)) - symmetric).max() > 1e-12:
            power, total = element, x
            while power:
                total = total + array(wrapper.group.act(power, x))
                power = wrapper.group.compose(element, power)
            symmetric = total
        outputs = wrapper(symmetric)
        np.testing.assert_allclose(array(wrapper.group.act(element, outputs)), array(outputs), atol=1e-10)
        assert wrapper.equivariance_error(symmetric).max() < 1e-10


@pytest.mark.fault(57)
def test_the_mean_of_ties_is_equivariant_and_the_first_of_them_is_not():
    x = sample("quarter turns")
    x = x + x[:, ::-1, ::-1]  # two members of least loss each
    mean = wrap("quarter turns", "argmin", dtype="float64")
    weights = array(mean.orbit_weights(x))
    np.testing.assert_array_equal(np.sort(weights, axis=1), np.tile([[0, 0, 0.5, 0.5]], (3, 1)))
    assert mean.equivariance_error(x).max() < 1e-10
    first = wrap("quarter turns", "argmin", dtype="float64", ties="first")
    np.testing.assert_array_equal(np.sort(array(first.orbit_weights(x)), axis=1), np.eye(4)[[3, 3, 3]])
    assert set(array(first.orbit_weights(x)).argmax(axis=1)) <= {0, 1}
    assert first.equivariance_error(x).max() > 0.1


@pytest.mark.fault(53)
def test_interpolating_groups_are_said_to_be_approximate_and_their_error_is_reported():
    with pytest.warns(UserWarning, match="Rotations.*approximately"):
        wrapper = EquiTune(network((9, 9, 1)), groups.Rotations(8))
    errors = wrapper.equivariance_error(rng(2).normal(size=(2, 9, 9, 1)).astype("float32"))
    assert errors[0] < 1e-6 and errors[1] > 1e-3


# The formulas


@each_setting
@pytest.mark.parametrize("invariant", [False, True], ids=["equivariant", "invariant"])
def test_the_mean_is_the_mean_of_the_orbit(setting, invariant):
    wrapper, x = wrap(setting, invariant=invariant), sample(setting, dtype="float32")
    np.testing.assert_allclose(array(wrapper(x)), members(wrapper, x)[0].mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(array(wrapper.orbit_weights(x)), 1 / wrapper.group.order)


@pytest.mark.parametrize("temperature", [0.05, 1.0, 1e6])
def test_lambda_is_a_softmax_of_scores_of_the_moved_inputs(temperature):
    wrapper, x = wrap("dihedral", "lambda", temperature=temperature), sample("dihedral", dtype="float32")
    wrapper.build(x.shape)
    hidden = keras.Model(wrapper.model.input, wrapper.model.get_layer("hidden").output)
    moved = [hidden(wrapper.group.act(g, x)) for g in range(8)]
    scores = np.stack([array(wrapper.score(h))[:, 0] for h in moved]).astype("float64") / temperature
    weights = np.exp(scores - scores.max(axis=0))
    weights /= weights.sum(axis=0)
    found = wrapper.orbit_weights(x)
    assert keras.backend.standardize_dtype(found.dtype) == "float32"
    np.testing.assert_allclose(array(found), weights.T, atol=1e-5)
    expected = np.einsum("gb,gbhwc->bhwc", weights, members(wrapper, x)[0])
    np.testing.assert_allclose(array(wrapper(x)), expected, atol=1e-4)
    assert temperature != 1e6 or np.ptp(weights) < 1e-4


LOSSES = {
    "entropy": lambda p, z: -(p * np.log(p)).sum(axis=-1),
    "confidence": lambda p, z: -p.max(axis=-1),
    "max_value": lambda p, z: -z.max(axis=-1),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_argmin_takes_the_member_of_least_loss(loss):
    wrapper = wrap("dihedral", "argmin", invariant=True, score=loss)
    x = sample("dihedral", 16, "float32")
    frame, outputs = members(wrapper, x)
    logits = np.stack([array(y) for y in outputs]).astype("float64")
    p = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    winners = LOSSES[loss](p, logits).argmin(axis=0)
    np.testing.assert_array_equal(array(wrapper.orbit_weights(x)), np.eye(8)[winners])
    np.testing.assert_allclose(array(wrapper(x)), frame[winners, np.arange(16)], atol=1e-5)
    assert len(set(winners)) > 3


def test_argmin_takes_a_function_of_the_outputs_as_loss():
    wrapper = wrap("dihedral", "argmin", score=lambda maps: ops.mean(maps[:, :1], axis=(1, 2, 3)))
    x = sample("dihedral", dtype="float32")
    frame, outputs = members(wrapper, x)
    winners = np.stack([array(y)[:, 0].mean(axis=(1, 2)) for y in outputs]).argmin(axis=0)
    np.testing.assert_allclose(array(wrapper(x)), frame[winners, np.arange(3)], atol=1e-5)


@pytest.mark.parametrize("rows", [None, 1])
def test_members_that_are_infinitely_good_are_averaged(rows):
    wrapper = wrap(
        "quarter turns",
        "argmin",
        score=lambda maps: ops.where(maps[:, 0, 0, 0] > maps[:, 0, -1, 0], -float("inf"), 0.0),
        max_orbit_batch=rows,
    )
    x = sample("quarter turns", 16, "float32")
    frame, outputs = members(wrapper, x)
    best = np.stack([array(y)[:, 0, 0, 0] > array(y)[:, 0, -1, 0] for y in outputs])
    best |= ~best.any(axis=0)
    expected = [frame[best[:, row], row].mean(axis=0) for row in range(16)]
    np.testing.assert_allclose(array(wrapper(x)), expected, atol=1e-5)
    assert {1, 2} <= set(best.sum(axis=0).tolist())


def test_confidence_tells_probabilities_apart_that_round_to_one():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, use_bias=False)])
    model.layers[0].kernel.assign([[300.0, 0.0], [0.0, 0.0]])
    wrapper = EquiTune(model, groups.Permutation([[0, 1], [1, 0]]), weighting="argmin", score="confidence")
    np.testing.assert_array_equal(array(wrapper.orbit_weights(np.array([[0.5, 0.7]], "float32"))), [[0, 1]])


@pytest.mark.parametrize("combine", ["log_probs", "probs"])
@pytest.mark.parametrize("from_logits", [True, False])
def test_probabilities_are_averaged_where_asked(combine, from_logits):
    wrapper = wrap("dihedral", invariant=True, combine=combine, from_logits=from_logits)
    if not from_logits:
        wrapper.model.layers[-2].activation = keras.activations.softmax
    x = sample("dihedral", dtype="float32")
    z = members(wrapper, x)[0]
    p = np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True) if from_logits else z
    expected = (np.log(p) if combine == "log_probs" else p).mean(axis=0)
    np.testing.assert_allclose(array(wrapper(x)), expected, atol=1e-5)


def test_classes_may_be_given_as_probabilities():
    logits = wrap("dihedral", "argmin", invariant=True)
    x = sample("dihedral", dtype="float32")
    softened = keras.Model(logits.model.input, keras.layers.Softmax()(logits.model.output))
    options = dict(weighting="argmin", score="entropy", from_logits=False)
    given = EquiTune(softened, logits.group, **options)
    np.testing.assert_array_equal(array(given.orbit_weights(x)), array(logits.orbit_weights(x)))
    with pytest.raises(ValueError, match="ends in a softmax.*Pass from_logits=False"):
        EquiTune(softened, logits.group, weighting="argmin", score="entropy")


@pytest.mark.fault(50)
@each_weighting
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("group", [groups.Trivial(), groups.Cyclic(1)], ids=repr)
def test_a_group_of_one_is_the_model_bit_for_bit(weighting, dtype, group):
    options = WEIGHTINGS[weighting]
    if weighting == "lambda":
        options = {**options, "score": keras.layers.Dense(1)}
    model = classifier(dtype=dtype)
    wrapper, x = EquiTune(model, group, **options), sample("dihedral", dtype="float32")
    assert wrapper(x).dtype == model(x).dtype
    found, expected = (array(ops.cast(y, "float32")) for y in (wrapper(x), model(x)))
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(array(wrapper.orbit_weights(x)), np.ones((3, 1)))
