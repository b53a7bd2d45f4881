"""What routed experts do beyond a softmax: temperature, noise, masks, dropout, top-k, own experts."""

import keras
import numpy as np
import pytest
from _layers import FEATURES, TASKS, assert_same, experts, numbers

from star_keras.layers import RoutedExperts
from star_keras.layers.gates import drop_experts, keep_largest

# --- an independent float64 reference, one gate at a time -----------------------------------------


COARSE = np.round(FEATURES * 8).astype("float32") / 8  # products with other eighths are exact in float32
PER_SAMPLE = np.array([list(row) for row in ("1100", "0101", "0000", "1111", "0010", "0111")]) == "1"
EXTREME = [1e4, -1e4, 1e4, 0]
ROUTED = {
    "per task": dict(),
    "one task": dict(tasks=None),
    "one expert": dict(num_experts=1),
    "uniform": dict(equal=4),
    "extreme": dict(bias=EXTREME),
    "mask": dict(mask=np.array([True, False, True, True])),
    "mask per sample": dict(mask=PER_SAMPLE),
    "mask of the only extreme one": dict(mask=np.array([False, True, True, True]), bias=[1e4, -1e4, -1e4, 0]),
    "top-k": dict(top_k=2),
    "top-k with ties": dict(top_k=2, equal=3),
    "top-k of uniform": dict(top_k=3, equal=4),
    "top-k of extreme": dict(top_k=3, bias=EXTREME),
    "top-k of masked": dict(top_k=2, mask=PER_SAMPLE),
}


def routed(num_experts=4, tasks=TASKS, equal=1, bias=0.0, mask=None, **options):
    """A layer of linear experts whose first `equal` experts are routed alike, and how to call it."""
    layer = experts(num_experts, tasks, (), **options)
    for router in layer.router_layers:
        kernel = np.round(numbers(router.kernel) * 8) / 8
        kernel[..., :equal] = kernel[..., :1]
        router.kernel.assign(kernel)
        router.bias.assign(np.zeros(router.bias.shape) + bias)
    return layer, {} if mask is None else {"expert_mask": mask}


def naive_gates(layer, features, expert_mask=True):
    gates = np.ones((len(layer.tasks or (None,)), len(features), layer.num_experts))
    if not layer.router_layers:
        return gates
    kernel, bias = (numbers(variable) for variable in layer.router_layers[-1].variables)
    allowed = np.broadcast_to(expert_mask, gates.shape[1:])
    for task, row in np.ndindex(gates.shape[:2]):
        logits = features[row] @ kernel[task] + bias[task]
        usable = [e for e in range(len(logits)) if allowed[row, e] or not allowed[row].any()]
        best = sorted(usable, key=lambda e: (-logits[e], e))[: layer.top_k]
        powers = {e: np.exp(logits[e] - logits[best[0]]) for e in best}
        gates[task, row] = [powers.get(e, 0) / sum(powers.values()) for e in range(len(logits))]
    return gates


def stack(outputs):
    return keras.ops.stack(list(outputs.values()) if isinstance(outputs, dict) else [outputs])


def gradient(function, inputs):
    """The gradient of a scalar, on whichever backend runs."""
    if keras.backend.backend() == "jax":
        import jax

        return numbers(jax.grad(function)(inputs))
    if keras.backend.backend() == "torch":
        import torch

        inputs = torch.tensor(inputs, requires_grad=True)
        return numbers(torch.autograd.grad(function(inputs) + 0 * inputs.sum(), inputs)[0])
    import tensorflow as tf

    inputs = tf.constant(inputs)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        total = function(inputs)
    return numbers(tape.gradient(total, inputs, unconnected_gradients="zero"))


def finite_differences(function, inputs):
    inputs = inputs.astype("float64")
    expected = np.zeros_like(inputs)
    for index in np.ndindex(*inputs.shape):
        step = np.zeros_like(inputs)
        step[index] = 1e-6
        expected[index] = (function(inputs + step) - function(inputs - step)) / 2e-6
    return expected


@pytest.mark.fault(49)
@pytest.mark.parametrize("case", ROUTED.values(), ids=ROUTED)
def test_gates_and_their_gradients_are_those_of_a_loop_in_float64(case):
    layer, call = routed(**case)
    expected = naive_gates(layer, COARSE.astype("float64"), **call)
    np.testing.assert_allclose(numbers(stack(layer.route(COARSE, **call))), expected, rtol=2e-6, atol=1e-7)
    upstream = np.random.default_rng(2).normal(size=expected.shape).astype("float32")
    found = gradient(
        lambda x: keras.ops.sum(keras.ops.multiply(stack(layer.route(x, **call)), upstream)), COARSE
    )
    expected = finite_differences(lambda x: np.sum(naive_gates(layer, x, **call) * upstream), COARSE)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.fault(49)
@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("case", ROUTED.values(), ids=ROUTED)
def test_half_precision_leaves_the_gates_as_they_are_and_everything_finite(case, dtype):
    layer, call = routed(**case, dtype=dtype)
    expected = naive_gates(layer, COARSE.astype("float64"), **call)
    np.testing.assert_allclose(numbers(stack(layer.route(COARSE, **call))), expected, rtol=2e-6, atol=1e-7)
    outputs = stack(layer(COARSE, **call))
    assert keras.backend.standardize_dtype(outputs.dtype) == dtype.removeprefix("mixed_")
    assert np.isfinite(numbers(outputs)).all()
    found = gradient(lambda x: keras.ops.sum(keras.ops.cast(stack(layer(x, **call)), "float32")), COARSE)
    assert np.isfinite(found).all() and np.abs(found).max() > 0


# --- beyond a softmax -----------------------------------------------------------------------------


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
    logits = drop_experts(np.log(gates), 0.3, keras.random.SeedGenerator(0))
    dropped = numbers(keras.ops.softmax(logits))[:, 0]
    np.testing.assert_allclose(dropped.sum(1), 1, rtol=1e-6)
    kept = dropped > 0
    some = ~kept.all(1)
    # All four are lost with probability 0.3**4 and then kept.
    np.testing.assert_allclose(kept.mean(0), 0.7 + 0.3**4, atol=0.025)
    expected = kept * gates[:, 0]
    np.testing.assert_allclose(dropped[some], (expected / expected.sum(1, keepdims=True))[some], rtol=1e-5)


@pytest.mark.fault(49)
@pytest.mark.parametrize("gap", [80, 92, 97, 102, 110, 1e4])
def test_dropout_of_all_but_an_expert_far_behind_has_a_finite_gradient(gap):
    layer = experts(2, None, (), expert_dropout=0.5, seed=0)
    layer.router_layers[-1].bias.assign([[0, -gap]])
    features = np.tile(0.1 * FEATURES, (20, 1))
    outputs = layer(features, training=True)
    found = gradient(lambda x: keras.ops.sum(layer(x, training=True)), features)
    assert np.isfinite(numbers(outputs)).all() and np.isfinite(found).all()
    alone = numbers(layer.expert_outputs(features))
    for expert, share in ((0, 0.75), (1, 0.25)):
        chosen = np.isclose(numbers(outputs), alone[:, expert], atol=1e-5).all(1)
        assert abs(chosen.mean() - share) < 0.12


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


@pytest.mark.parametrize("shape", [(), (2,), (4,), (6, 2), (5, 3), (1, 6, 3)])
def test_a_mask_of_another_shape_is_refused(shape):
    layer = experts(3)
    message = r"\(3,\) or \(batch, 3\).*Received: `expert_mask` of shape .* for inputs of 6 samples"
    for use in (layer, layer.route):
        with pytest.raises(ValueError, match=message):
            use(FEATURES, expert_mask=np.ones(shape, bool))


BROKEN = [np.nan, np.inf]


def with_broken_second_expert(value, **options):
    """A layer that prefers the other experts, and the same with an expert that gives NaN or infinity."""
    layer = experts(3, batch_norm=False, **options)
    layer.router_layers[-1].bias.assign([[0, -50, 0]] * 2)
    broken = like(layer)
    kernel = numbers(layer.expert_layers[-1].kernel)
    kernel[1] = value
    broken.expert_layers[-1].kernel.assign(kernel)
    return layer, broken


@pytest.mark.fault(49)
@pytest.mark.parametrize("value", BROKEN)
def test_experts_that_no_gate_uses_do_not_count_whatever_they_give(value):
    layer, broken = with_broken_second_expert(value)
    for mask in (np.array([True, False, True]), np.array([[True, False, True]] * 6)):
        assert_same(broken(FEATURES, expert_mask=mask), layer(FEATURES, expert_mask=mask))
    layer, sparse = with_broken_second_expert(value, top_k=2)
    assert_same(sparse(FEATURES), layer(FEATURES))
    assert not np.isfinite(numbers(broken(FEATURES))["invariant"]).any()


@pytest.mark.fault(49)
def test_an_expert_that_gives_nan_spoils_the_samples_that_keep_it_alone():
    _, broken = with_broken_second_expert(np.nan, expert_dropout=0.5, seed=1)
    outputs = np.concatenate([numbers(broken(FEATURES, training=True))["invariant"] for _ in range(5)])
    spoilt = np.isnan(outputs).any(1)
    assert 0 < spoilt.sum() < len(outputs)


@pytest.mark.parametrize("options", [{}, dict(expert_dropout=0.5)], ids=str)
def test_a_plain_mixture_does_not_pay_for_experts_left_out(options):
    tf = pytest.importorskip("tensorflow")
    layer = experts(**options)
    traced = tf.function(lambda x: layer(x)).get_concrete_function(FEATURES)
    assert "SelectV2" not in {operation.type for operation in traced.graph.get_operations()}


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
    kept = numbers(drop_experts(np.tile([[[np.nan, 0, 0]]], (200, 1, 1)), 0.5, keras.random.SeedGenerator(0)))
    assert 0.4 < np.isnan(kept[..., 0]).mean() < 0.7


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
