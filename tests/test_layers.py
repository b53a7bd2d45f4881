"""Laws of the projector, the routed experts and the equivariant predictor."""

import json

import keras
import numpy as np
import pytest
from keras import ops

from star_keras.layers import EquivariantPredictor, Projector, RoutedExperts
from star_keras.layers.initialization import stacked

# Raised inside Keras when it turns a TensorFlow variable into an array.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")

TASKS = ("invariant", "equivariant")
RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(6, 5)).astype("float32")
EPSILON = 1e-5


def label(value):
    """A short name of a parameter, for the name of its test."""
    if isinstance(value, (str, dict)):
        return str(value)
    return getattr(value, "__name__", type(value).__name__)


def experts(num_experts=3, tasks=TASKS, hidden_units=(7, 4), features=FEATURES, **kwargs):
    """A small built layer whose every weight, statistics included, is random."""
    layer = RoutedExperts(2, num_experts, tasks, hidden_units, **kwargs)
    layer.build(features.shape)
    return randomize(layer)


def randomize(layer, seed=1):
    """Random weights; scales and moving variances positive."""
    rng = np.random.default_rng(seed)
    for variable in layer.variables:
        positive = variable.name in ("gamma", "moving_variance")
        values = rng.uniform(0.5, 1.5, variable.shape) if positive else rng.normal(size=variable.shape)
        variable.assign(values.astype("float32"))
    return layer


def numbers(structure):
    """Tensors and variables as float64 arrays."""
    return keras.tree.map_structure(lambda x: ops.convert_to_numpy(x).astype("float64"), structure)


def copy_layer(layer, features=FEATURES):
    copy = type(layer).from_config(layer.get_config())
    copy.build(features.shape)
    copy.set_weights(layer.get_weights())
    return copy


def assert_same(actual, expected, **tolerance):
    keras.tree.map_structure(
        lambda a, b: np.testing.assert_allclose(a, b, **{"rtol": 1e-5, "atol": 1e-5, **tolerance}),
        numbers(actual),
        numbers(expected),
    )


def reorder(layer, order):
    """Moves the experts, and the router columns with them."""
    order = list(order)
    for stack in layer.expert_layers:
        for variable in stack.variables:
            variable.assign(numbers(variable)[order])
    for normalization in layer.normalizations:
        for variable in normalization.variables:
            per_expert = numbers(variable).reshape(len(order), -1)
            variable.assign(per_expert[order].reshape(-1))
    for variable in layer.router_layers[-1].variables:
        variable.assign(numbers(variable)[..., order])


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


# --- sizes and initial weights --------------------------------------------------------------------


def trainable_parameters(layers):
    return sum(int(np.prod(v.shape)) for layer in layers for v in layer.trainable_variables)


def test_sizes_are_those_of_the_paper():
    layer = RoutedExperts(128, 16, TASKS, (512, 512))
    layer.build((None, 512))
    predictor = EquivariantPredictor()
    predictor.build((None, 128), (None, 11))
    assert trainable_parameters(layer.expert_layers + layer.normalizations) == 16 * 592_000
    assert trainable_parameters(layer.router_layers) == 16_416
    assert trainable_parameters([predictor.psi]) == 1_536
    assert trainable_parameters([predictor.phi]) == 460_928


def assert_fills(values, bound):
    """`values` look drawn from U(-bound, bound)."""
    assert 0.95 * bound < np.abs(values).max() <= bound * (1 + 1e-6)
    assert abs(values.std() / (bound / np.sqrt(3)) - 1) < 0.05


def test_every_expert_and_router_starts_from_the_law_of_its_own_fan_in():
    keras.utils.set_random_seed(0)
    layer = RoutedExperts(256, 16, TASKS, (100, 400), router_units=(300,))
    layer.build((None, 200))
    for stack in layer.expert_layers + layer.router_layers:
        bound = stack.kernel.shape[1] ** -0.5
        for kernel in numbers(stack.kernel):
            assert_fills(kernel, bound)
    last = layer.expert_layers[-1]
    assert_fills(numbers(last.bias), last.kernel.shape[1] ** -0.5)
    assert np.unique(numbers(last.bias)).size > 0.99 * 16 * 256


def test_projector_and_predictor_start_from_the_law_of_their_fan_in():
    keras.utils.set_random_seed(0)
    predictor = EquivariantPredictor((400, 300), 600, offset=None)
    predictor.build((None, 500), (None, 20))
    for dense in [predictor.psi, *predictor.phi.dense_layers]:
        bound = dense.kernel.shape[0] ** -0.5
        assert_fills(numbers(dense.kernel), bound)
        if dense.use_bias:
            assert_fills(numbers(dense.bias), bound)


INITIALIZERS = [
    "torch",
    "glorot_uniform",
    "he_normal",
    keras.initializers.GlorotNormal(),
    keras.initializers.HeUniform(seed=3),
    keras.initializers.RandomNormal(stddev=0.1, seed=-3),
    keras.initializers.Orthogonal(seed=0),
    keras.initializers.LecunNormal(seed=keras.random.SeedGenerator(5)),
]


@pytest.mark.parametrize("initializer", INITIALIZERS, ids=label)
def test_experts_differ_and_have_the_scale_of_an_ordinary_dense_layer(initializer):
    keras.utils.set_random_seed(0)
    layer = RoutedExperts(64, 6, hidden_units=(64, 64), kernel_initializer=initializer)
    layer.build((None, 64))
    if initializer == "torch":
        scale = 64**-0.5 / np.sqrt(3)
    else:
        scale = numbers(keras.initializers.get(initializer)((64, 64))).std()
    kernels = np.concatenate([numbers(stack.kernel) for stack in layer.expert_layers])
    np.testing.assert_allclose(kernels.std(axis=(1, 2)), scale, rtol=0.08)
    flat = kernels.reshape(len(kernels), -1)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    np.fill_diagonal(cosines := flat @ flat.T, 0)
    assert np.abs(cosines).max() < 0.1


def test_a_seed_fixes_all_experts():
    def kernels(seed):
        initializer = keras.initializers.GlorotUniform(seed=seed)
        layer = RoutedExperts(4, 3, TASKS, (4,), kernel_initializer=initializer)
        layer.build((None, 4))
        return [numbers(stack.kernel) for stack in layer.expert_layers + layer.router_layers]

    for first, second, other in zip(kernels(1), kernels(1), kernels(2), strict=True):
        np.testing.assert_array_equal(first, second)
        assert np.abs(first - other).max() > 1e-3


def test_no_two_kernels_that_share_a_seed_start_alike():
    seeded = keras.initializers.GlorotUniform(seed=1)
    layer = RoutedExperts(4, 4, TASKS, (4,), router_units=(4,), kernel_initializer=seeded)
    layer.build((None, 4))
    stacks = layer.expert_layers + layer.router_layers
    kernels = np.concatenate([numbers(stack.kernel) for stack in stacks]).reshape(-1, 16)
    assert kernels.shape == (12, 16) and len(np.unique(kernels.round(4), axis=0)) == 12


def test_initializers_that_draw_nothing_fill_every_expert():
    twos = keras.initializers.Constant(2.0)
    layer = RoutedExperts(4, 3, kernel_initializer="identity", bias_initializer=twos)
    layer.build((None, 4))
    np.testing.assert_array_equal(numbers(layer.expert_layers[0].kernel), np.stack([np.eye(4)] * 3))
    np.testing.assert_array_equal(numbers(layer.expert_layers[0].bias), np.full((3, 4), 2.0))


def test_a_function_as_initializer_is_called_once_for_each_member():
    shapes = []

    def ones(shape, dtype=None):
        shapes.append(shape)
        return ops.ones(shape, dtype)

    assert tuple(stacked(ones)((3, 4, 2), "float32").shape) == (3, 4, 2)
    assert shapes == [(4, 2)] * 3


# --- projector and predictor ----------------------------------------------------------------------


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_projector_equals_its_formula(batch_norm, training):
    head = Projector(3, (8, 4), batch_norm=batch_norm)
    head.build(FEATURES.shape)
    randomize(head)
    expected = FEATURES.astype("float64")
    for index, dense in enumerate(head.dense_layers):
        expected = expected @ numbers(dense.kernel) + (numbers(dense.bias) if dense.use_bias else 0)
        if index < 2:
            if batch_norm:
                norm = head.normalizations[index]
                mean, variance = numbers(norm.moving_mean), numbers(norm.moving_variance)
                if training:
                    mean, variance = expected.mean(0), expected.var(0)
                expected = (expected - mean) / np.sqrt(variance + EPSILON)
                expected = expected * numbers(norm.gamma) + numbers(norm.beta)
            expected = np.maximum(expected, 0)
    assert_same(head(FEATURES, training=training), expected)
    assert [dense.use_bias for dense in head.dense_layers] == [not batch_norm, not batch_norm, True]


def test_heads_normalise_with_the_published_constants():
    layers = [Projector(3, (8,)), experts(), EquivariantPredictor((8,))]
    layers[0].build((None, 5))
    layers[2].build((None, 4), (None, 3))
    for normalizations in (layers[0].normalizations, layers[1].normalizations, layers[2].phi.normalizations):
        assert {(norm.momentum, norm.epsilon) for norm in normalizations} == {(0.9, 1e-5)}


EMBEDDING = RNG.normal(size=(6, 4)).astype("float32")
AUGMENTATION = RNG.normal(50, 10, size=(6, 3)).astype("float32")


def predictor(**kwargs):
    layer = EquivariantPredictor((8, 5), 7, offset=[50, 49, 0], scale=[10, 9, 2.5], **kwargs)
    layer.build(EMBEDDING.shape, AUGMENTATION.shape)
    return randomize(layer)


@pytest.mark.parametrize("residual", [True, False])
def test_prediction_is_the_embedding_plus_phi_of_embedding_and_psi(residual):
    layer = predictor(residual=residual)
    standardized = (AUGMENTATION.astype("float64") - [50, 49, 0]) / [10, 9, 2.5]
    psi = standardized @ numbers(layer.psi.kernel) + numbers(layer.psi.bias)
    phi = layer.phi(np.concatenate([EMBEDDING, psi], axis=1).astype("float32"))
    assert_same(layer(EMBEDDING, AUGMENTATION), numbers(phi) + (EMBEDDING if residual else 0), rtol=1e-4)


def test_zero_last_layer_of_phi_gives_the_embedding_back():
    layer = predictor()
    for variable in layer.phi.dense_layers[-1].variables:
        variable.assign(np.zeros(variable.shape))
    np.testing.assert_array_equal(numbers(layer(EMBEDDING, AUGMENTATION)), EMBEDDING)


def test_changing_one_augmentation_changes_its_prediction_alone():
    layer = predictor()
    changed = AUGMENTATION.copy()
    changed[3, 1] += 5
    before, after = numbers(layer(EMBEDDING, AUGMENTATION)), numbers(layer(EMBEDDING, changed))
    others = np.arange(6) != 3
    np.testing.assert_allclose(after[others], before[others], atol=1e-6)
    assert np.abs(after[3] - before[3]).max() > 1e-2


def test_without_offset_and_scale_the_augmentation_is_taken_as_it_is():
    layer = EquivariantPredictor((8,), 7)
    np.testing.assert_array_equal(numbers(layer.standardize(AUGMENTATION)), AUGMENTATION)


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_does_not_round_pixels(dtype):
    layer = EquivariantPredictor((8,), 7, offset=[93.0], scale=[0.25], dtype=dtype)
    pixels = np.array([[93.27], [93.5]], "float32")
    seen = []
    layer.build((2, 4), (2, 1))
    projection = layer.psi.call
    layer.psi.call = lambda inputs: seen.append(numbers(inputs)) or projection(inputs)
    layer(np.zeros((2, 4), "float32"), pixels)
    np.testing.assert_allclose(seen[0], [[1.08], [2.0]], rtol=4e-3)
    np.testing.assert_allclose(numbers(layer.standardize(pixels)), (pixels - 93.0) / 0.25)


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_outputs_stay_close_to_float32(dtype):
    for full in (experts(), randomize(predictor())):
        half = type(full).from_config({**full.get_config(), "dtype": dtype})
        inputs = (FEATURES,) if isinstance(full, RoutedExperts) else (EMBEDDING, AUGMENTATION)
        half.build(*(x.shape for x in inputs))
        half.set_weights(full.get_weights())
        outputs = half(*inputs)
        scale = max(np.abs(x).max() for x in keras.tree.flatten(numbers(full(*inputs))))
        assert_same(outputs, full(*inputs), rtol=0, atol=0.02 * scale)
        kinds = {keras.backend.standardize_dtype(x.dtype) for x in keras.tree.flatten(outputs)}
        assert kinds == {dtype.removeprefix("mixed_")}
        assert {variable.dtype for variable in half.variables} == {"float32"}


def test_config_keeps_numbers_as_plain_lists():
    layer = EquivariantPredictor(offset=np.array([1, 2], "float32"), scale=(2, np.float64(3)))
    config = json.loads(json.dumps(layer.get_config()))
    assert config["offset"] == [1.0, 2.0] and config["scale"] == [2.0, 3.0]


def test_initializer_objects_survive_the_config():
    seeded = keras.initializers.HeNormal(seed=7)
    layer = RoutedExperts(4, 3, kernel_initializer=seeded, bias_initializer="zeros")
    config = json.loads(json.dumps(layer.get_config()))
    again = RoutedExperts.from_config(config)
    assert isinstance(again.kernel_initializer, keras.initializers.HeNormal)
    assert again.kernel_initializer.get_config()["seed"] == 7 and again.bias_initializer == "zeros"
    assert again.get_config() == layer.get_config()


# --- wrong arguments ------------------------------------------------------------------------------

WRONG = [
    (Projector, dict(units=0)),
    (Projector, dict(units=2.5)),
    (Projector, dict(units=True)),
    (Projector, dict(units=4, hidden_units=8)),
    (Projector, dict(units=4, hidden_units=(8, -1))),
    (RoutedExperts, dict(units=4, num_experts=0)),
    (RoutedExperts, dict(units=4, num_experts=2, tasks=())),
    (RoutedExperts, dict(units=4, num_experts=2, tasks="invariant")),
    (RoutedExperts, dict(units=4, num_experts=2, tasks=("a", "a"))),
    (RoutedExperts, dict(units=4, num_experts=2, tasks=("a", 1))),
    (RoutedExperts, dict(units=4, num_experts=2, routing="hard")),
    (RoutedExperts, dict(units=4, num_experts=2, top_k=0)),
    (RoutedExperts, dict(units=4, num_experts=2, kernel_initializer=None)),
    (RoutedExperts, dict(units=4, num_experts=2, bias_initializer="pytorch")),
    (RoutedExperts, dict(units=4, num_experts=2, routing="separate")),
    (RoutedExperts, dict(units=4, num_experts=3, routing="separate", tasks=TASKS)),
    (RoutedExperts, dict(units=4, num_experts=2, routing="shared", tasks=TASKS)),
    (RoutedExperts, dict(units=4, num_experts=3, routing="shared", tasks=TASKS, top_k=1)),
    (RoutedExperts, dict(units=4, num_experts=2, routing="separate", tasks=TASKS, router_units=(3,))),
    (EquivariantPredictor, dict(hidden_units=(0,))),
    (EquivariantPredictor, dict(embedding_units=None)),
    (EquivariantPredictor, dict(offset=3.0)),
    (EquivariantPredictor, dict(offset=[[1.0]])),
    (EquivariantPredictor, dict(offset=[float("nan")])),
    (EquivariantPredictor, dict(scale=[1.0, 0.0])),
    (EquivariantPredictor, dict(scale=["1"])),
]


@pytest.mark.parametrize("layer,arguments", WRONG, ids=label)
def test_wrong_arguments_are_refused_with_what_was_received(layer, arguments):
    with pytest.raises(ValueError, match="Received: "):
        layer(**arguments)


@pytest.mark.fault(49)
def test_more_kept_gates_than_experts_are_refused():
    with pytest.raises(ValueError, match="Received: top_k=3, num_experts=2"):
        RoutedExperts(4, 2, top_k=3)


@pytest.mark.parametrize("layer", [Projector(4), RoutedExperts(4, 2)], ids=lambda x: x.name)
@pytest.mark.parametrize("shape", [(2, 3, 3, 8), (8,), (2, None)])
def test_inputs_other_than_rows_of_features_are_refused(layer, shape):
    with pytest.raises(ValueError, match="Received: shape"):
        layer.build(shape)


def test_standardisation_of_another_width_than_the_augmentation_is_refused():
    with pytest.raises(ValueError, match="`scale`.* 3 columns.*Received: .*length 2"):
        EquivariantPredictor(scale=[1.0, 2.0]).build((None, 4), (None, 3))
