"""Laws of NT-Xent: closed forms, a naive float64 version, finite everywhere, one loss over replicas."""

import json

import keras
import numpy as np
import pytest
from _elsewhere import MEMORY, TWO_CPUS, reads_memory, run_elsewhere

from star_keras.losses import NTXent, nt_xent

tf = pytest.importorskip("tensorflow")
if keras.backend.backend() != "tensorflow":
    pytest.skip("the other backends run in subprocesses of this file", allow_module_level=True)

TEMPERATURES = (1e-3, 0.05, 0.2, 1.0)  # below 1/30 the exponentials need a maximum taken off


def naive(targets, predictions, temperature):
    """Values of the pairs, and gradients of their mean, with one matrix in float64."""
    n = len(targets)
    h = np.concatenate([targets, predictions]).astype("float64")
    inverse = 1 / np.sqrt(np.maximum(np.sum(h**2, axis=1, keepdims=True), 1e-12))
    z, pair = h * inverse, np.roll(np.arange(2 * n), n)
    s = z @ z.T / temperature
    np.fill_diagonal(s, -np.inf)
    top = s.max(axis=1, keepdims=True)
    exponentials = np.exp(s - top)
    rows = np.log(exponentials.sum(axis=1)) + top[:, 0] - s[np.arange(2 * n), pair]
    slope = exponentials / exponentials.sum(axis=1, keepdims=True)
    slope[np.arange(2 * n), pair] -= 1
    of_z = (slope + slope.T) @ z / (2 * n * temperature)
    of_h = inverse * (of_z - z * np.sum(z * of_z, axis=1, keepdims=True))
    return (rows[:n] + rows[n:]) / 2, of_h[:n], of_h[n:]


def evaluate(loss, targets, predictions, mode="eager", dtype="float32"):
    """Values of the pairs, and gradients of their mean, as the library computes them."""

    def run(targets, predictions):
        with tf.GradientTape() as tape:
            tape.watch([targets, predictions])
            values = loss(targets, predictions)
            mean = tf.reduce_mean(values)
        return values, *tape.gradient(mean, [targets, predictions])

    if mode != "eager":
        shape = (None if mode == "dynamic" else len(targets), targets.shape[1])
        signature = [tf.TensorSpec(shape, dtype)] * 2
        run = tf.function(run, input_signature=signature, jit_compile=mode == "jit")
    return run(tf.constant(targets, dtype), tf.constant(predictions, dtype))


def arrays(tensors):
    return [np.asarray(tf.cast(tensor, "float32")) for tensor in tensors]


def pairs(n, d, seed=0):
    return np.random.default_rng(seed).normal(size=(2, n, d)).astype("float32")


def assert_like_naive(actual, sides, temperature):
    """Float32 rounds a similarity of size 1 / temperature; the rest of the error is relative."""
    for result, expected, rounding in zip(
        arrays(actual), naive(*sides, temperature), (2e-7, 1e-6, 1e-6), strict=True
    ):
        rounding *= max(1.0, np.abs(expected).max()) * max(1, 1 / temperature)
        np.testing.assert_allclose(result, expected, rtol=1e-6, atol=rounding)


@pytest.fixture(params=[None, 7], ids=["one_block", "blocks"])
def blocks(request, monkeypatch):
    """Whether the rows are compared at once or seven at a time."""
    if request.param:
        monkeypatch.setattr(nt_xent, "BLOCK_SIZE", request.param)


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("n", [2, 3, 8, 65])
def test_values_and_gradients_are_those_of_the_naive_float64_matrix(n, temperature, blocks):
    for d in (3, 16):
        sides = pairs(n, d)
        assert_like_naive(evaluate(NTXent(temperature, reduction=None), *sides), sides, temperature)


@pytest.mark.parametrize("temperature", [1e-3, 0.2])
@pytest.mark.parametrize("mode", ["graph", "dynamic", "jit"])
def test_graphs_and_compiled_steps_compute_the_same(mode, temperature, blocks):
    sides = pairs(29, 5)
    assert_like_naive(evaluate(NTXent(temperature, reduction=None), *sides, mode), sides, temperature)


def test_gradient_is_the_slope_of_the_naive_value(blocks):
    sides, step = pairs(5, 3), 1e-6
    slopes = np.zeros(sides.shape)
    for index in np.ndindex(sides.shape):
        moved = np.stack([sides, sides]).astype("float64")
        moved[(0, *index)] += step
        moved[(1, *index)] -= step
        up, down = (naive(*side, 0.2)[0].mean() for side in moved)
        slopes[index] = (up - down) / (2 * step)
    gradients = arrays(evaluate(NTXent(), *sides)[1:])
    np.testing.assert_allclose(gradients, slopes, atol=2e-7, rtol=1e-5)


@pytest.mark.parametrize("n", [2, 9, 40])
def test_equal_vectors_cost_the_logarithm_of_the_others(n, blocks):
    side = np.tile(pairs(1, 6)[0], (n, 1))
    for temperature in TEMPERATURES:
        values = evaluate(NTXent(temperature, reduction=None), side, side)[0]
        np.testing.assert_allclose(values, np.log(2 * n - 1), atol=2.5e-7 * max(8, 1 / temperature))


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_orthogonal_pairs_have_a_closed_form(temperature, blocks):
    n = 11
    value = NTXent(temperature)(np.eye(n), np.eye(n))
    expected = np.log1p((2 * n - 2) * np.exp(-1 / temperature))
    np.testing.assert_allclose(value, expected, atol=2.5e-7 * max(4, 1 / temperature))


def test_two_pairs_worked_by_hand():
    targets, predictions = np.array([[1.0, 0], [0, 1]]), np.array([[1.0, 0], [0, -1]])
    # First pair at 1, all else 0; the second pair at -1, all else 0; temperature 1.
    expected = [np.log(np.e + 2) - 1, np.log(1 / np.e + 2) + 1]
    np.testing.assert_allclose(NTXent(1.0, reduction=None)(targets, predictions), expected, rtol=1e-6)


def test_swapping_the_sides_changes_nothing(blocks):
    sides = pairs(20, 6)
    there, back = (arrays(evaluate(NTXent(reduction=None), *order)) for order in (sides, sides[::-1]))
    np.testing.assert_allclose(there[0], back[0], rtol=1e-6)
    np.testing.assert_allclose(there[1], back[2], atol=1e-7)


def test_lengths_of_the_vectors_change_nothing(blocks):
    sides = pairs(20, 6)
    lengths = np.float32(10.0) ** np.random.default_rng(1).uniform(-3, 30, size=(2, 20, 1)).astype("float32")
    loss = NTXent(reduction=None)
    np.testing.assert_allclose(loss(*(sides * lengths)), loss(*sides), rtol=2e-6)


@pytest.mark.fault(44)
@pytest.mark.parametrize("temperature", [1e-3, 0.2])
@pytest.mark.parametrize("targets", [0, 1e37, 1e-37, -1], ids=["zero", "huge", "tiny", "negative"])
@pytest.mark.parametrize("predictions", [0, 1e37, 1e-37, 1], ids=["zero", "huge", "tiny", "plain"])
def test_value_and_gradient_are_finite(targets, predictions, temperature, blocks):
    side = pairs(9, 4)[0]
    side[3] = 0
    for same in (side, np.tile(side[:1], (9, 1))):
        sides = np.float32(targets) * same, np.float32(predictions) * same
        for result in evaluate(NTXent(temperature, reduction=None), *sides):
            assert np.all(np.isfinite(result))


@pytest.mark.fault(59)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_computed_in_float32_and_gets_its_gradient_in_its_own_type(dtype, blocks):
    sides = pairs(12, 8) * 300  # squares of these overflow float16
    rounded = [np.asarray(tf.cast(tf.cast(side, dtype), "float32")) for side in sides]
    values, *gradients = evaluate(NTXent(reduction=None), *rounded, dtype=dtype)
    assert values.dtype == "float32"
    assert all(gradient.dtype == dtype for gradient in gradients)
    expected, *slopes = naive(*rounded, 0.2)
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    units_in_last_place = {"bfloat16": 2**-8, "float16": 2**-11}[dtype]
    for gradient, slope in zip(arrays(gradients), slopes, strict=True):
        # Gradients of these long vectors are below what float16 holds with full precision.
        np.testing.assert_allclose(gradient, slope, rtol=2 * units_in_last_place, atol=6e-8)


@pytest.mark.fault(59)
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "bfloat16"])
def test_a_policy_does_not_change_the_precision(policy):
    sides = pairs(8, 4)
    expected = np.asarray(NTXent()(*sides))
    keras.config.set_dtype_policy(policy)
    value = NTXent()(*sides)
    assert value.dtype == "float32" and np.asarray(value) == expected


def test_reductions_and_sample_weights_are_those_of_keras():
    sides, weights = pairs(6, 4), np.array([1.0, 0, 2, 0.5, 0, 1], dtype="float32")
    values = np.asarray(NTXent(reduction=None)(*sides))
    assert values.shape == (6,)
    np.testing.assert_allclose(NTXent()(*sides), values.mean(), rtol=1e-6)
    np.testing.assert_allclose(NTXent(reduction="sum")(*sides), values.sum(), rtol=1e-6)
    np.testing.assert_allclose(NTXent()(*sides, sample_weight=weights), np.mean(values * weights), rtol=1e-6)
    weighted = NTXent(reduction="mean_with_sample_weight")(*sides, sample_weight=weights)
    np.testing.assert_allclose(weighted, np.sum(values * weights) / weights.sum(), rtol=1e-6)


def test_weights_of_samples_reach_the_gradient(blocks):
    sides, weights = pairs(10, 4), np.arange(10, dtype="float32")
    value, *gradients = evaluate(lambda t, p: tf.reduce_sum(NTXent(reduction=None)(t, p) * weights), *sides)
    step = 1e-3 * pairs(10, 4, seed=1)
    moved = [np.sum(naive(*(sides + sign * step), 0.2)[0] * weights) for sign in (1, -1)]
    slope = sum(np.sum(g * s) for g, s in zip(arrays(gradients), step, strict=True))
    np.testing.assert_allclose(slope, (moved[0] - moved[1]) / 2, rtol=1e-4)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_it_is_a_loss_for_compile_and_fit(jit_compile):
    x, y = pairs(10, 4)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, kernel_initializer="identity")])
    model.compile(keras.optimizers.SGD(0.0), NTXent(), jit_compile=jit_compile)
    expected = np.mean([naive(y[:5], x[:5], 0.2)[0], naive(y[5:], x[5:], 0.2)[0]])
    history = model.fit(x, y, batch_size=5, shuffle=False, verbose=0)
    np.testing.assert_allclose(history.history["loss"], [expected], rtol=1e-5)


@pytest.mark.fault(42)
@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("temperature", [1e-3, 0.2])
def test_a_batch_known_to_hold_one_pair_or_none_is_refused(count, temperature):
    with pytest.raises(ValueError, match=f"needs >= 2 samples.*Received: a batch of {count}"):
        NTXent(temperature)(*pairs(count, 4))
    with pytest.raises(ValueError, match="needs >= 2 samples"):
        evaluate(NTXent(temperature), *pairs(count, 4), mode="graph")


@pytest.mark.fault(42)
@pytest.mark.parametrize("temperature", [1e-3, 0.2])
def test_a_batch_that_turns_out_to_hold_one_pair_has_loss_and_gradient_zero(temperature, blocks):
    for result in evaluate(NTXent(temperature, reduction=None), *pairs(1, 4), mode="dynamic"):
        np.testing.assert_array_equal(result, np.zeros(result.shape))


@pytest.mark.fault(44)
@pytest.mark.parametrize("temperature", [0, -0.2, float("nan"), float("inf"), "0.2", None])
def test_a_temperature_that_is_not_positive_and_finite_is_refused(temperature):
    with pytest.raises(ValueError, match="finite and at least 1e-30.*Received: temperature="):
        NTXent(temperature)


@pytest.mark.parametrize("shapes", [((4, 3), (4, 2)), ((4, 3), (5, 3)), ((4,), (4,)), ((4, 3, 2), (4, 3, 2))])
def test_sides_of_other_shapes_are_refused(shapes):
    with pytest.raises(ValueError, match=r"of one shape \(n, d\). Received: shapes"):
        NTXent()(*(np.ones(shape) for shape in shapes))


def test_configuration_is_what_was_passed():
    loss = NTXent(temperature=0.07, reduction="sum", name="contrast")
    assert loss.get_config() == {"temperature": 0.07, "reduction": "sum", "name": "contrast"}
    copy = keras.losses.deserialize(json.loads(json.dumps(keras.losses.serialize(loss))))
    assert type(copy) is NTXent and copy.get_config() == loss.get_config()


GRADIENTS = """
import numpy as np
import tensorflow as tf
from star_keras.losses import NTXent

@tf.function(input_signature=[tf.TensorSpec((None, 128))] * 2)
def gradients(targets, predictions):
    with tf.GradientTape() as tape:
        tape.watch([targets, predictions])
        loss = NTXent()(targets, predictions)
    return tape.gradient(loss, [targets, predictions])

sides = tf.constant(np.random.default_rng(0).normal(size=(2, 4096, 128)).astype("float32"))
gradients(sides[0, :64], sides[1, :64])
print(megabytes_of(lambda: gradients(sides[0], sides[1])))
"""


@pytest.mark.slow
@reads_memory
def test_4096_pairs_need_no_more_than_100_megabytes():
    # One matrix of similarities would be 256 MB.
    assert float(run_elsewhere(MEMORY + GRADIENTS)) <= 100


REPLICAS = """
import sys
import numpy as np
from star_keras import losses
from star_keras.losses import nt_xent

strategy = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
results = {}

def step(targets, predictions, temperature, total):
    with tf.GradientTape() as tape:
        tape.watch([targets, predictions])
        values = losses.NTXent(temperature, reduction=None)(targets, predictions)
        share = tf.reduce_sum(values) / total
    return values, *tape.gradient(share, [targets, predictions])

for name, sizes, temperature, block in [
    ("even", (6, 6), 0.2, 384), ("uneven", (6, 5), 0.2, 384), ("blocks", (10, 7), 0.2, 4),
    ("cold", (10, 7), 1e-3, 4), ("one", (1, 1), 0.2, 384), ("half", (4, 3), 0.2, 384),
    ("empty", (4, 0), 0.2, 384), ("lone", (1, 0), 0.2, 384),
]:
    nt_xent.BLOCK_SIZE = block
    dtype = "bfloat16" if name == "half" else "float32"
    sides = np.random.default_rng(0).normal(size=(2, sum(sizes), 5)).astype("float32")
    def split(side):
        parts = [tf.cast(part, dtype) for part in np.split(side, [sizes[0]])]
        return strategy.experimental_distribute_values_from_function(
            lambda context: parts[context.replica_id_in_sync_group]
        )
    parts = split(sides[0]), split(sides[1])
    run = tf.function(lambda t, p: strategy.run(step, (t, p, temperature, sum(sizes))))
    for output, result in zip(("values", "targets", "predictions"), run(*parts)):
        parts_of = strategy.experimental_local_results(result)
        results[f"{name}/{output}"] = np.concatenate([tf.cast(part, "float32") for part in parts_of])
np.savez(sys.argv[1], **results)
"""


@pytest.mark.slow
def test_two_replicas_equal_one_with_the_global_batch(tmp_path):
    run_elsewhere(TWO_CPUS + REPLICAS, tmp_path / "results.npz")
    results = np.load(tmp_path / "results.npz")
    cases = {"even": (12, 0.2), "uneven": (11, 0.2), "blocks": (17, 0.2), "cold": (17, 1e-3), "one": (2, 0.2)}
    cases |= {"empty": (4, 0.2), "lone": (1, 0.2)}
    for name, (n, temperature) in cases.items():
        actual = [results[f"{name}/{output}"] for output in ("values", "targets", "predictions")]
        assert_like_naive(actual, pairs(n, 5), temperature)
    rounded = [np.asarray(tf.cast(tf.cast(side, "bfloat16"), "float32")) for side in pairs(7, 5)]
    np.testing.assert_allclose(results["half/values"], naive(*rounded, 0.2)[0], rtol=1e-6)


OTHER_CASES = [(2, 0.2, 384), (40, 0.2, 384), (40, 0.2, 7), (40, 0.02, 7)]
BACKENDS = """
import json, sys
import keras
import numpy as np
from star_keras import losses
from star_keras.losses import nt_xent

def evaluate(temperature, sides):
    loss = losses.NTXent(temperature, reduction=None)
    if keras.backend.backend() == "jax":
        import jax
        mean = lambda t, p: loss(t, p).mean()
        return jax.jit(loss.__call__)(*sides), *jax.jit(jax.grad(mean, (0, 1)))(*sides)
    import torch
    sides = [torch.tensor(side, requires_grad=True) for side in sides]
    values = loss(*sides)
    values.mean().backward()
    return values.detach(), *(side.grad for side in sides)

results = {}
for index, (n, temperature, block) in enumerate(json.loads(sys.argv[2])):
    nt_xent.BLOCK_SIZE = block
    sides = np.random.default_rng(0).normal(size=(2, n, 8)).astype("float32")
    for output, result in zip(("values", "targets", "predictions"), evaluate(temperature, sides)):
        results[f"{index}/{output}"] = np.asarray(result)
try:
    losses.NTXent()(sides[0, :1], sides[1, :1])
except ValueError as error:
    assert "needs >= 2 samples" in str(error)
else:
    raise AssertionError("a batch of one pair was accepted")
np.savez(sys.argv[1], **results)
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends_compute_the_same(backend, tmp_path, monkeypatch):
    run_elsewhere(BACKENDS, tmp_path / "results.npz", json.dumps(OTHER_CASES), backend=backend)
    results = np.load(tmp_path / "results.npz")
    for index, (n, temperature, block) in enumerate(OTHER_CASES):
        monkeypatch.setattr(nt_xent, "BLOCK_SIZE", block)
        expected = arrays(evaluate(NTXent(temperature, reduction=None), *pairs(n, 8)))
        for output, values in zip(("values", "targets", "predictions"), expected, strict=True):
            np.testing.assert_allclose(results[f"{index}/{output}"], values, atol=1e-6, rtol=1e-6)
