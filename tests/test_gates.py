"""What routed experts do beyond a softmax: temperature, noise, masks, dropout, top-k, own experts."""

import keras
import numpy as np
import pytest
from _layers import FEATURES, TASKS, assert_same, experts, numbers

from star_keras.layers import RoutedExperts
from star_keras.layers.gates import drop_experts, keep_largest


def like(layer, **options):
    """A layer with the weights of another and other options."""
    copy = RoutedExperts.from_config({**layer.get_config(), **options})
    copy.build(FEATURES.shape)
    for mine, theirs in zip(
        copy.expert_layers + copy.router_layers, layer.expert_layers + layer.router_layers, strict=True
    ):
        mine.set_weights(theirs.get_weights())
    return copy


def test_router_logits_give_the_gates_at_every_temperature():
    layer = experts(router_units=(3,))
    logits = numbers(layer.router_logits(FEATURES))
    for temperature in (0.5, 4.0):
        warm = like(layer, router_temperature=temperature)
        for task in TASKS:
            np.testing.assert_allclose(
                numbers(warm.router_logits(FEATURES))[task], logits[task] / temperature, rtol=1e-5
            )
            gates = np.exp(logits[task] / temperature)
            assert_same(warm.route(FEATURES)[task], gates / gates.sum(1, keepdims=True))


@pytest.mark.parametrize("options", [dict(router_noise=1.0), dict(expert_dropout=0.5)], ids=str)
def test_noise_and_dropout_act_while_training_alone_and_differ_between_steps(options):
    layer = experts(batch_norm=False)
    random = like(layer, **options, seed=3)
    assert_same(random(FEATURES), layer(FEATURES))
    assert_same(random.route(FEATURES), layer.route(FEATURES))
    first, second = (numbers(random(FEATURES, training=True)) for _ in range(2))
    plain = numbers(layer(FEATURES, training=True))
    for task in TASKS:
        assert np.abs(first[task] - plain[task]).max() > 1e-3
        assert np.abs(first[task] - second[task]).max() > 1e-3
    again = like(layer, **options, seed=3)
    assert_same(again(FEATURES, training=True), first)


def test_without_noise_and_dropout_there_is_no_seed_among_the_variables():
    assert len(experts().variables) + 1 == len(experts(router_noise=0.1).variables)


def test_dropout_takes_experts_away_at_its_rate_and_keeps_the_proportions_of_the_others():
    gates = np.tile([[[0.1, 0.2, 0.3, 0.4]]], (4000, 1, 1)).astype("float32")
    dropped = numbers(drop_experts(gates, 0.3, keras.random.SeedGenerator(0)))[:, 0]
    np.testing.assert_allclose(dropped.sum(1), 1, rtol=1e-6)
    kept = dropped > 0
    some = ~kept.all(1)
    # All four are lost with probability 0.3**4 and then kept.
    np.testing.assert_allclose(kept.mean(0), 0.7 + 0.3**4, atol=0.025)
    expected = kept * gates[:, 0]
    np.testing.assert_allclose(dropped[some], (expected / expected.sum(1, keepdims=True))[some], rtol=1e-5)


def test_masked_experts_get_nothing_and_the_others_share_as_before():
    layer = experts(4)
    gates = numbers(layer.route(FEATURES))
    per_sample = np.random.default_rng(0).uniform(size=(6, 4)) < 0.5
    per_sample[:, 2] |= ~per_sample.any(1)
    for mask in (np.array([True, False, True, True]), per_sample):
        masked = numbers(layer.route(FEATURES, expert_mask=mask))
        for task in TASKS:
            expected = gates[task] * mask
            np.testing.assert_allclose(masked[task], expected / expected.sum(1, keepdims=True), rtol=1e-5)
        mixed = np.einsum("be,beu->bu", masked["invariant"], numbers(layer.expert_outputs(FEATURES)))
        assert_same(layer(FEATURES, expert_mask=mask)["invariant"], mixed)
    assert_same(layer.route(FEATURES, expert_mask=np.zeros(4, bool)), gates)


@pytest.mark.parametrize("routing", ["shared", "separate"])
def test_a_mask_that_no_router_would_obey_is_refused(routing):
    layer = RoutedExperts(5, 3 if routing == "shared" else 2, tasks=TASKS, routing=routing)
    mask = np.arange(layer.num_experts) > 0
    for use in (layer, layer.route):
        with pytest.raises(ValueError, match=f"forbids.*Received: `expert_mask` with routing='{routing}'"):
            use(FEATURES, expert_mask=mask)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_of_equal_gates_top_k_keeps_those_of_the_lowest_index(k):
    gates = np.array([[[0.1, 0.2, 0.2, 0.2, 0.3]], [[0.2] * 5]], "float32")
    kept = numbers(keep_largest(gates, k))[:, 0]
    order = [[4, 1, 2], [0, 1, 2]]
    for row, best in zip(kept, order, strict=True):
        assert set(np.flatnonzero(row)) == set(best[:k])
    np.testing.assert_allclose(kept.sum(1), 1, rtol=1e-6)


@pytest.mark.fault(49)
def test_gates_of_extreme_logits_are_one_hot_and_nan_is_not_hidden():
    layer = experts(3, None, ())
    layer.router_layers[-1].kernel.assign(np.zeros((1, 5, 3)))
    layer.router_layers[-1].bias.assign([[3e38, -3e38, 0]])
    np.testing.assert_array_equal(numbers(layer.route(FEATURES))[0], [1, 0, 0])
    layer.router_layers[-1].bias.assign([[np.nan, 0, 0]])
    assert np.isnan(numbers(layer.route(FEATURES))).any(axis=1).all()


def test_own_experts_are_mixed_like_the_stacked_ones_of_the_same_weights():
    layer = experts(3, None, (), top_k=2)
    own = like_with_own_experts(layer)
    assert_same(own.expert_outputs(FEATURES), layer.expert_outputs(FEATURES))
    assert_same(own(FEATURES), layer(FEATURES))


def like_with_own_experts(layer):
    dense = [keras.layers.Dense(layer.units) for _ in range(layer.num_experts)]
    own = RoutedExperts(layer.units, layer.num_experts, layer.tasks, top_k=layer.top_k, experts=dense)
    own.build(FEATURES.shape)
    for index, one in enumerate(dense):
        one.set_weights([numbers(variable)[index] for variable in layer.expert_layers[0].variables])
    own.router_layers[0].set_weights(layer.router_layers[0].get_weights())
    return own


def test_own_experts_are_told_when_they_train():
    layer = RoutedExperts(5, 2, experts=[keras.layers.Dropout(0.9, seed=0), keras.layers.Identity()])
    outputs = numbers(layer.expert_outputs(FEATURES, training=True))
    assert np.mean(outputs[:, 0] == 0) > 0.6
    np.testing.assert_array_equal(numbers(layer.expert_outputs(FEATURES))[:, 0], FEATURES.astype("float64"))
    np.testing.assert_array_equal(outputs[:, 1], FEATURES.astype("float64"))


def test_own_experts_of_another_width_are_refused():
    with pytest.raises(ValueError, match=r"Received: an output of shape \(None, 3\)"):
        RoutedExperts(4, 1, experts=[keras.layers.Dense(3)]).build((None, 5))
