"""Laws of the routed experts: a float64 loop, routing, gates."""

import keras
import numpy as np
import pytest
from _layers import FEATURES, TASKS, assert_same, copy_layer, experts, numbers, reorder
from keras import ops

from star_keras.layers import Projector, RoutedExperts

EPSILON = 1e-5


# --- an independent float64 reference, one expert at a time ---------------------------------------


def reference(weights, inputs, hidden, num_experts, tasks, training, top_k=None):
    """`weights` maps names to float64 arrays; returns `(outputs (tasks, batch, units), gates)`."""
    outputs = []
    for expert in range(num_experts):
        h = inputs
        for depth, width in enumerate(hidden):
            h = h @ weights[f"kernel_{depth}"][expert]
            if f"bias_{depth}" in weights:
                h = h + weights[f"bias_{depth}"][expert]
            if f"gamma_{depth}" in weights:
                own = slice(expert * width, (expert + 1) * width)
                mean, variance = weights[f"mean_{depth}"][own], weights[f"variance_{depth}"][own]
                if training:
                    mean, variance = h.mean(0), h.var(0)
                h = (h - mean) / np.sqrt(variance + EPSILON)
                h = h * weights[f"gamma_{depth}"][own] + weights[f"beta_{depth}"][own]
            h = np.maximum(h, 0)
        last = len(hidden)
        outputs.append(h @ weights[f"kernel_{last}"][expert] + weights[f"bias_{last}"][expert])
    gates = np.ones((tasks, len(inputs), 1))
    if "router_kernel" in weights:
        logits = np.stack(
            [inputs @ weights["router_kernel"][t] + weights["router_bias"][t] for t in range(tasks)]
        )
        gates = np.exp(logits - logits.max(-1, keepdims=True))
        if top_k is not None:
            gates *= gates >= np.sort(gates, -1)[..., -top_k][..., None]
        gates /= gates.sum(-1, keepdims=True)
    mixed = sum(gates[:, :, e, None] * outputs[e][None] for e in range(num_experts))
    return mixed, gates


def variables_by_name(layer):
    named = {}
    for depth, stack in enumerate(layer.expert_layers):
        named[f"kernel_{depth}"] = stack.kernel
        if stack.use_bias:
            named[f"bias_{depth}"] = stack.bias
    for depth, normalization in enumerate(layer.normalizations):
        named[f"gamma_{depth}"], named[f"beta_{depth}"] = normalization.gamma, normalization.beta
        named[f"mean_{depth}"] = normalization.moving_mean
        named[f"variance_{depth}"] = normalization.moving_variance
    if layer.router_layers:
        named["router_kernel"] = layer.router_layers[-1].kernel
        named["router_bias"] = layer.router_layers[-1].bias
    return named


GRID = [
    (num_experts, tasks, hidden, batch_norm, top_k)
    for num_experts in (1, 2, 5)
    for tasks in (None, TASKS)
    for hidden in ((), (7,), (7, 4))
    for batch_norm in (True, False)
    for top_k in (None, 2)
    if (top_k or 1) <= num_experts and (batch_norm or hidden)
]


@pytest.mark.parametrize("num_experts,tasks,hidden,batch_norm,top_k", GRID)
@pytest.mark.parametrize("training", [False, True])
def test_stacked_experts_equal_a_loop_in_float64(num_experts, tasks, hidden, batch_norm, top_k, training):
    layer = experts(num_experts, tasks, hidden, batch_norm=batch_norm, top_k=top_k)
    weights = {name: numbers(variable) for name, variable in variables_by_name(layer).items()}
    count = len(tasks or (None,))
    mixed, gates = reference(weights, FEATURES.astype("float64"), hidden, num_experts, count, training, top_k)
    outputs, routed = layer(FEATURES, training=training), layer.route(FEATURES)
    if tasks is None:
        assert_same(outputs, mixed[0])
        assert_same(routed, gates[0])
    else:
        assert_same(outputs, dict(zip(tasks, mixed, strict=True)))
        assert_same(routed, dict(zip(tasks, gates, strict=True)))


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("top_k", [None, 2])
def test_gradients_equal_finite_differences_of_the_float64_loop(batch_norm, top_k):
    tf = pytest.importorskip("tensorflow")
    layer = experts(3, TASKS, (4,), batch_norm=batch_norm, top_k=top_k)
    named = {k: v for k, v in variables_by_name(layer).items() if v.trainable}
    weights = {name: numbers(variable) for name, variable in variables_by_name(layer).items()}
    weights["inputs"] = FEATURES.astype("float64")
    upstream = np.random.default_rng(2).normal(size=(2, 6, 2))

    def loss():
        mixed, _ = reference(weights, weights["inputs"], (4,), 3, 2, True, top_k)
        return np.sum(mixed * upstream)

    inputs = tf.constant(FEATURES)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = layer(inputs, training=True)
        total = sum(tf.reduce_sum(outputs[task] * upstream[i]) for i, task in enumerate(TASKS))
    gradients = tape.gradient(total, {"inputs": inputs, **{k: v.value for k, v in named.items()}})
    for name, gradient in gradients.items():
        expected = np.zeros_like(weights[name])
        for index in np.ndindex(*expected.shape):
            kept = weights[name][index]
            weights[name][index] = kept + 1e-6
            above = loss()
            weights[name][index] = kept - 1e-6
            expected[index] = (above - loss()) / 2e-6
            weights[name][index] = kept
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=2e-5, err_msg=name)


# --- routing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("router_units", [(), (8, 3)])
def test_gates_are_positive_and_sum_to_one(router_units):
    for gates in numbers(experts(router_units=router_units).route(FEATURES)).values():
        assert gates.shape == (6, 3) and np.all(gates > 0)
        np.testing.assert_allclose(gates.sum(axis=1), 1, atol=1e-6)


def test_routers_with_hidden_layers_are_relu_networks():
    layer = experts(router_units=(8,))
    first, last = layer.router_layers
    for task, name in enumerate(TASKS):
        hidden = FEATURES @ numbers(first.kernel)[task] + numbers(first.bias)[task]
        logits = np.maximum(hidden, 0) @ numbers(last.kernel)[task] + numbers(last.bias)[task]
        gates = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        assert_same(layer.route(FEATURES)[name], gates)


def test_adding_a_constant_to_one_routers_logits_changes_nothing():
    layer = experts()
    before = layer(FEATURES)
    bias = numbers(layer.router_layers[-1].bias)
    bias[0] += 3.0
    layer.router_layers[-1].bias.assign(bias)
    assert_same(layer(FEATURES), before)


@pytest.mark.parametrize("training", [False, True])
def test_permuting_experts_with_router_columns_changes_nothing(training):
    layer = experts(4)
    moved = copy_layer(layer)
    reorder(moved, (2, 0, 3, 1))
    before = layer.expert_outputs(FEATURES)
    assert np.abs(numbers(moved.expert_outputs(FEATURES)) - numbers(before)).max() > 0.1
    assert_same(moved.expert_outputs(FEATURES), ops.take(before, [2, 0, 3, 1], axis=1))
    assert_same(moved(FEATURES, training=training), layer(FEATURES, training=training))


def test_saturated_routers_equal_separate_heads():
    layer = experts()
    layer.router_layers[-1].kernel.assign(np.zeros((2, 5, 3)))
    layer.router_layers[-1].bias.assign([[0, 1e4, 0], [1e4, 0, 0]])
    alone = layer.expert_outputs(FEATURES)
    assert_same(layer(FEATURES), {"invariant": alone[:, 1], "equivariant": alone[:, 0]})


def test_routing_is_irrelevant_when_experts_agree():
    layer = experts()
    router = layer.router_layers[-1].get_weights()
    reorder(layer, (1, 1, 1))
    layer.router_layers[-1].set_weights(router)
    assert np.ptp(numbers(layer.route(FEATURES)["invariant"]), axis=1).max() > 0.1
    alone = layer.expert_outputs(FEATURES)[:, 0]
    assert_same(layer(FEATURES), dict.fromkeys(TASKS, alone))


@pytest.mark.fault(49)
def test_equal_gates_average_the_experts():
    layer = experts()
    for variable in layer.router_layers[-1].variables:
        variable.assign(np.zeros(variable.shape))
    average = ops.mean(layer.expert_outputs(FEATURES), axis=1)
    assert_same(layer(FEATURES), dict.fromkeys(TASKS, average))


@pytest.mark.fault(49)
@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_huge_logits_give_finite_float32_gates_in_half_precision(dtype):
    layer = experts(2, None, (), dtype=dtype)
    layer.router_layers[-1].kernel.assign(np.zeros((1, 5, 2)))
    layer.router_layers[-1].bias.assign([[7e4, 0.0]])
    gates = layer.route(FEATURES)
    assert keras.backend.standardize_dtype(gates.dtype) == "float32"
    assert_same(gates, np.tile([[1.0, 0.0]], (6, 1)))


@pytest.mark.fault(49)
def test_one_expert_is_a_plain_head_with_equal_tasks_and_no_router():
    layer = experts(1)
    head = head_like_expert(layer, 0)
    assert not layer.router_layers
    assert_same(layer.route(FEATURES), dict.fromkeys(TASKS, np.ones((6, 1))))
    for training in (False, True):
        expected = head(FEATURES, training=training)
        assert_same(layer(FEATURES, training=training), dict.fromkeys(TASKS, expected))


def head_like_expert(layer, expert):
    """A Projector with the weights of one expert."""
    head = Projector(layer.units, layer.hidden_units)
    head.build(FEATURES.shape)
    for dense, stack in zip(head.dense_layers, layer.expert_layers, strict=True):
        dense.set_weights([numbers(variable)[expert] for variable in stack.variables])
    for mine, theirs in zip(head.normalizations, layer.normalizations, strict=True):
        per_expert = [numbers(variable).reshape(layer.num_experts, -1) for variable in theirs.variables]
        mine.set_weights([values[expert] for values in per_expert])
    return head


def test_separate_routing_equals_separate_heads_also_while_training():
    layer = experts(2, routing="separate")
    heads = [head_like_expert(layer, expert) for expert in (0, 1)]
    for training in (True, False):
        expected = {task: head(FEATURES, training=training) for task, head in zip(TASKS, heads, strict=True)}
        assert_same(layer(FEATURES, training=training), expected)
    assert not layer.router_layers
    assert_same(layer.route(FEATURES)["equivariant"], np.tile([[0.0, 1.0]], (6, 1)))


def test_shared_routing_adds_one_expert_to_each_tasks_own():
    layer = experts(3, routing="shared")
    alone = layer.expert_outputs(FEATURES)
    expected = {"invariant": alone[:, 0] + alone[:, 2], "equivariant": alone[:, 1] + alone[:, 2]}
    assert_same(layer(FEATURES), expected)
    assert_same(layer.route(FEATURES)["invariant"], np.tile([[1.0, 0.0, 1.0]], (6, 1)))
    assert_same(layer.route(FEATURES)["equivariant"], np.tile([[0.0, 1.0, 1.0]], (6, 1)))


def test_the_mixture_is_the_gates_times_the_expert_outputs():
    layer = experts(tasks=None)
    mixed = ops.einsum("be,beu->bu", layer.route(FEATURES), layer.expert_outputs(FEATURES))
    assert_same(layer(FEATURES), mixed)


def test_top_k_keeps_the_largest_gates_in_proportion():
    soft = experts(5, tasks=None)
    sparse = RoutedExperts(2, 5, None, (7, 4), top_k=2)
    sparse.build(FEATURES.shape)
    sparse.set_weights(soft.get_weights())
    for gates, kept in zip(numbers(soft.route(FEATURES)), numbers(sparse.route(FEATURES)), strict=True):
        largest = np.sort(np.argsort(gates)[-2:])
        np.testing.assert_array_equal(np.flatnonzero(kept), largest)
        np.testing.assert_allclose(kept[largest], gates[largest] / gates[largest].sum(), rtol=1e-5)


def test_top_k_of_all_experts_is_the_soft_mixture():
    soft, full = experts(3), RoutedExperts(2, 3, TASKS, (7, 4), top_k=3)
    full.build(FEATURES.shape)
    full.set_weights(soft.get_weights())
    assert_same(full(FEATURES), soft(FEATURES))


def test_top_k_keeps_exactly_k_of_equal_gates():
    layer = experts(4, tasks=None, top_k=2)
    for variable in layer.router_layers[-1].variables:
        variable.assign(np.zeros(variable.shape))
    gates = numbers(layer.route(FEATURES))
    np.testing.assert_array_equal(np.sort(gates, axis=1), np.tile([[0, 0, 0.5, 0.5]], (6, 1)))


def test_a_sample_is_routed_by_its_own_features_alone():
    layer = experts(router_units=(3,))
    changed = FEATURES.copy()
    changed[2] += 1
    before, after = numbers(layer(FEATURES)), numbers(layer(changed))
    for task in TASKS:
        others = np.arange(6) != 2
        np.testing.assert_allclose(after[task][others], before[task][others], atol=1e-6)
        assert np.abs(after[task][2] - before[task][2]).max() > 1e-3


def test_the_graph_does_not_grow_with_the_number_of_experts():
    tf = pytest.importorskip("tensorflow")
    sizes = []
    for num_experts in (2, 16):
        layer = RoutedExperts(2, num_experts, TASKS, (7, 4))
        layer.build(FEATURES.shape)
        traced = tf.function(lambda x, layer=layer: layer(x, training=True)).get_concrete_function(FEATURES)
        sizes.append(len(traced.graph.get_operations()))
    assert sizes[0] == sizes[1]


def test_route_and_expert_outputs_build_the_layer_and_take_symbolic_inputs():
    assert RoutedExperts(2, 3, TASKS, (4,)).route(FEATURES)["invariant"].shape == (6, 3)
    layer = RoutedExperts(2, 3, TASKS, (4,))
    assert tuple(layer.expert_outputs(FEATURES).shape) == (6, 3, 2)
    inputs = keras.Input((5,))
    assert layer.route(inputs)["equivariant"].shape == (None, 3)
    assert layer.expert_outputs(inputs).shape == (None, 3, 2)
    shared = RoutedExperts(2, 3, TASKS, routing="shared")
    assert shared.route(inputs)["equivariant"].shape == (None, 3)


# --- wrong arguments ------------------------------------------------------------------------------

WRONG = [
    dict(units=4, num_experts=2, router_temperature=0),
    dict(units=4, num_experts=2, router_noise=-0.1),
    dict(units=4, num_experts=2, expert_dropout=1.0),
    dict(units=4, num_experts=2, expert_dropout=float("nan")),
    dict(units=4, num_experts=2, experts=[keras.layers.Dense(4)]),
    dict(units=4, num_experts=2, experts=[print, print]),
    dict(units=4, num_experts=2, experts=[keras.layers.Dense(4)] * 2),
    dict(units=4, num_experts=1, hidden_units=(3,), experts=[keras.layers.Dense(4)]),
    dict(units=4, num_experts=2, routing="separate", tasks=TASKS, expert_dropout=0.1),
    dict(units=4, num_experts=0),
    dict(units=4, num_experts=2, tasks=()),
    dict(units=4, num_experts=2, tasks="invariant"),
    dict(units=4, num_experts=2, tasks=("a", "a")),
    dict(units=4, num_experts=2, tasks=("a", 1)),
    dict(units=4, num_experts=2, routing="hard"),
    dict(units=4, num_experts=2, top_k=0),
    dict(units=4, num_experts=2, kernel_initializer=None),
    dict(units=4, num_experts=2, bias_initializer="pytorch"),
    dict(units=4, num_experts=2, routing="separate"),
    dict(units=4, num_experts=3, routing="separate", tasks=TASKS),
    dict(units=4, num_experts=2, routing="shared", tasks=TASKS),
    dict(units=4, num_experts=3, routing="shared", tasks=TASKS, top_k=1),
    dict(units=4, num_experts=2, routing="separate", tasks=TASKS, router_units=(3,)),
]


@pytest.mark.parametrize("arguments", WRONG, ids=str)
def test_wrong_arguments_are_refused_with_what_was_received(arguments):
    with pytest.raises(ValueError, match="Received: "):
        RoutedExperts(**arguments)


@pytest.mark.fault(49)
def test_more_kept_gates_than_experts_are_refused():
    with pytest.raises(ValueError, match="Received: top_k=3, num_experts=2"):
        RoutedExperts(4, 2, top_k=3)
