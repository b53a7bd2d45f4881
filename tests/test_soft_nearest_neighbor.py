"""Laws of the soft nearest neighbour loss: a naive float64 version, closed forms, finite everywhere."""

import importlib
import json
import warnings

import keras
import numpy as np
import pytest
from _neighbors import CASES, DISTANCES, TEMPERATURES, assert_like_naive, naive

from star_keras.losses import SoftNearestNeighbor, soft_nearest_neighbor

tf = pytest.importorskip("tensorflow")
if keras.backend.backend() != "tensorflow":
    pytest.skip("the other backends run in subprocesses of this file", allow_module_level=True)

neighbors = importlib.import_module("star_keras.losses.neighbors")
LABELS, EMBEDDINGS = CASES["random"]
pytestmark = pytest.mark.filterwarnings("ignore:No label occurs twice")


@pytest.fixture(params=[None, 7], ids=["one_block", "blocks"])
def blocks(request, monkeypatch):
    """Whether the rows are compared at once or seven at a time."""
    if request.param:
        monkeypatch.setattr(neighbors, "BLOCK_SIZE", request.param)


def evaluate(labels, embeddings, temperature=1.0, mode="eager", **options):
    """Rows, and gradients of the loss, as the library computes them."""
    loss = SoftNearestNeighbor(**options)

    def run(labels, embeddings, temperature):
        loss.temperature = temperature
        with tf.GradientTape() as tape:
            tape.watch([embeddings, temperature])
            rows, value = loss.call(labels, embeddings), loss(labels, embeddings)
        return rows, *tape.gradient(value, [embeddings, temperature])

    if mode != "eager":
        count = None if mode == "dynamic" else len(labels)
        arrays = (labels, embeddings)
        signature = [tf.TensorSpec((count, *array.shape[1:]), array.dtype) for array in arrays]
        signature.append(tf.TensorSpec((), "float32"))
        run = tf.function(run, input_signature=signature, jit_compile=mode == "jit")
    return run(tf.constant(labels), tf.constant(embeddings), tf.constant(temperature, "float32"))


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_the_naive_float64_matrices(case, distance, monkeypatch):
    monkeypatch.setattr(neighbors, "BLOCK_SIZE", 7)
    labels, embeddings = CASES[case]
    half = embeddings.dtype == np.float16
    for temperature in TEMPERATURES:
        expected = naive(labels, embeddings, temperature, distance)
        actual = evaluate(labels, embeddings, temperature, distance=distance)
        if half and np.abs(expected[1]).max() > 6e4:  # no float16 holds such a gradient
            actual, expected = actual[:1], expected[:1]
        assert_like_naive(actual, expected, embeddings, temperature, distance)


@pytest.mark.parametrize("mode", ["graph", "dynamic", "jit"])
@pytest.mark.parametrize("case,distance", [("lone classes", "cosine"), ("long", "squared")])
def test_graphs_and_compiled_steps_compute_the_same(case, mode, distance, blocks):
    labels, embeddings = CASES[case]
    expected = naive(labels, embeddings, 0.5, distance)
    actual = evaluate(labels, embeddings, 0.5, mode, distance=distance)
    assert_like_naive(actual, expected, embeddings, 0.5, distance)


# --- closed forms ---------------------------------------------------------------------------------


def test_three_points_worked_by_hand():
    embeddings = np.array([[2.0, 0], [1, 0], [0, 3]], "float32")
    partners = np.log1p(np.exp(-1))  # cosine 1 to the partner, 0 to the stranger
    np.testing.assert_allclose(
        soft_nearest_neighbor([5, 5, 8], embeddings), [partners, partners, 0], rtol=1e-6
    )
    rows = soft_nearest_neighbor([5, 5, 8], embeddings, temperature=10.0, distance="squared")
    expected = [np.log1p(np.exp((1 - 13) / 10)), np.log1p(np.exp((1 - 10) / 10)), 0]
    np.testing.assert_allclose(rows, expected, rtol=1e-6)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_classes_at_the_corners_of_a_simplex_reach_the_floor(temperature):
    n, number = 60, 5
    labels = np.arange(n) % number
    corners = (np.eye(number) - 1 / number)[labels].astype("float32")
    angle = 1 + 1 / (number - 1)
    floor = np.log1p((n - n / number) / (n / number - 1) * np.exp(-angle / temperature))
    np.testing.assert_allclose(SoftNearestNeighbor(temperature)(labels, corners), floor, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("distance", DISTANCES)
def test_equal_points_are_neighbours_by_chance(distance):
    labels = np.arange(60) % 5
    value = SoftNearestNeighbor(0.05, distance)(labels, np.full((60, 7), 3.3, "float32"))
    np.testing.assert_allclose(value, np.log(59 / 11), rtol=1e-5)


def test_partners_that_are_far_away_keep_value_and_gradient():
    # Points of other classes lie upon points whose partners are 1000 and 3000 away: exponentials underflow.
    embeddings = np.array([[0.0], [1000], [0], [1000], [-3000]], "float32")
    labels = np.array([0, 0, 1, 2, 1], "int32")
    rows, gradient, _ = evaluate(labels, embeddings, distance="squared")
    np.testing.assert_allclose(rows, [1e6, 1e6, 9e6, 0, np.log(2)], rtol=1e-6)
    expected = naive(labels, embeddings, 1.0, "squared")[1]
    assert np.abs(expected).max() > 100
    np.testing.assert_allclose(gradient, expected, rtol=1e-5)


def test_two_points_of_one_class_are_at_zero_however_far():
    rows, gradient, slope = evaluate(
        np.zeros(2, "int32"), np.array([[-1e4], [1e4]], "float32"), distance="squared"
    )
    for result in (rows, gradient, slope):
        np.testing.assert_array_equal(result, np.zeros(result.shape))


# --- who counts -----------------------------------------------------------------------------------


@pytest.mark.fault(42, 43)
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("case", ["batch of one", "all labels unique", "one class", "two strangers"])
def test_without_strangers_or_partners_value_and_gradient_are_zero(case, distance, blocks):
    for result in evaluate(*CASES[case], 0.05, distance=distance):
        np.testing.assert_allclose(result, np.zeros(result.shape), atol=1e-12)


@pytest.mark.fault(43)
def test_a_batch_without_partners_is_warned_about_and_others_are_not():
    with pytest.warns(UserWarning, match="No label occurs twice"):
        soft_nearest_neighbor([1, 2, 3], EMBEDDINGS[:3])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        soft_nearest_neighbor([1, 2, 2], EMBEDDINGS[:3])


@pytest.mark.fault(43)
def test_lone_samples_are_neighbours_but_no_anchors():
    labels, embeddings = CASES["lone classes"]
    rows = np.asarray(soft_nearest_neighbor(labels, embeddings))
    lone = np.isin(labels, [100, 101, 102])
    np.testing.assert_array_equal(rows[lone], 0)
    without = soft_nearest_neighbor(labels[~lone], embeddings[~lone])
    assert np.all(rows[~lone] > np.asarray(without))
    np.testing.assert_allclose(SoftNearestNeighbor()(labels, embeddings), rows[~lone].mean(), rtol=1e-6)
    value = SoftNearestNeighbor(anchors="batch")(labels, embeddings)
    np.testing.assert_allclose(value, rows.mean(), rtol=1e-6)


@pytest.mark.parametrize("distance", DISTANCES)
def test_masked_rows_might_as_well_not_be_there(distance, blocks):
    mask = np.random.default_rng(5).uniform(size=20) < 0.7
    padded = np.where(mask, LABELS, -1)
    embeddings = np.where(mask[:, None], EMBEDDINGS, 77)
    rows = np.asarray(soft_nearest_neighbor(padded, embeddings, distance=distance, mask=mask))
    alone = soft_nearest_neighbor(LABELS[mask], EMBEDDINGS[mask], distance=distance)
    np.testing.assert_allclose(rows[mask], alone, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(rows[~mask], 0)
    for anchors in ("valid", "batch"):
        options = dict(distance=distance, anchors=anchors)
        with_padding = SoftNearestNeighbor(ignore_class=-1, **options)(padded, embeddings)
        without = SoftNearestNeighbor(**options)(LABELS[mask], EMBEDDINGS[mask])
        np.testing.assert_allclose(with_padding, without, rtol=1e-6)
    gradient = np.asarray(evaluate(padded, embeddings, distance=distance, ignore_class=-1)[1])
    np.testing.assert_array_equal(gradient[~mask], 0)
    expected = evaluate(LABELS[mask], EMBEDDINGS[mask], distance=distance)[1]
    np.testing.assert_allclose(gradient[mask], expected, atol=2e-6)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_what_is_masked_may_hold_anything(distance, broken):
    mask = np.arange(20) % 4 > 0
    labels, embeddings = np.where(mask, LABELS, -1), np.where(mask[:, None], EMBEDDINGS, broken)
    expected = evaluate(LABELS[mask], EMBEDDINGS[mask], distance=distance)
    actual = evaluate(labels, embeddings.astype("float32"), distance=distance, ignore_class=-1)
    for result, reference in zip(actual[:2], expected[:2], strict=True):
        np.testing.assert_array_equal(np.asarray(result)[~mask], 0)
        np.testing.assert_allclose(np.asarray(result)[mask], reference, rtol=1e-5, atol=2e-6)
    listed = soft_nearest_neighbor(labels.tolist(), embeddings, distance=distance, mask=mask.tolist())
    np.testing.assert_allclose(listed, actual[0], rtol=1e-5, atol=1e-6)


@pytest.mark.fault(41)
@pytest.mark.parametrize("labels", [np.zeros(0, "int32"), tf.zeros(0, "int32")])
def test_a_batch_without_rows_is_refused(labels):
    for call in (soft_nearest_neighbor, SoftNearestNeighbor()):
        with pytest.raises(ValueError, match="a row at least. Received: 0 labels"):
            call(labels, np.zeros((0, 6), "float32"))


@pytest.mark.parametrize("jit_compile", [False, True])
def test_labels_may_be_constants_of_a_compiled_function(jit_compile):
    compiled = tf.function(lambda x: soft_nearest_neighbor(LABELS, x), jit_compile=jit_compile)
    expected = soft_nearest_neighbor(LABELS, EMBEDDINGS)
    np.testing.assert_allclose(compiled(tf.constant(EMBEDDINGS)), expected, rtol=1e-5)


def test_order_of_samples_and_names_of_classes_change_nothing():
    order = np.random.default_rng(3).permutation(20)
    rows = np.asarray(soft_nearest_neighbor(LABELS, EMBEDDINGS))
    moved = soft_nearest_neighbor(np.array([9, -4, 70, 3])[LABELS][order], EMBEDDINGS[order])
    np.testing.assert_allclose(moved, rows[order], rtol=1e-5)


@pytest.mark.parametrize("distance", DISTANCES)
def test_shifts_do_not_change_squared_distances_nor_lengths_cosines(distance):
    moved = EMBEDDINGS + 5 if distance == "squared" else EMBEDDINGS * np.arange(1, 21)[:, None]
    rows = (
        soft_nearest_neighbor(LABELS, x.astype("float32"), distance=distance) for x in (EMBEDDINGS, moved)
    )
    np.testing.assert_allclose(*rows, rtol=2e-5)


def test_reductions_and_sample_weights_are_those_of_keras():
    labels, embeddings = CASES["lone classes"]
    weights = np.random.default_rng(7).uniform(size=20).astype("float32")
    rows = np.asarray(soft_nearest_neighbor(labels, embeddings))
    valid = rows > 0
    assert valid.sum() == 17

    def value(reduction, weights=None):
        return SoftNearestNeighbor(reduction=reduction)(labels, embeddings, sample_weight=weights)

    np.testing.assert_allclose(value(None), rows, rtol=1e-6)
    np.testing.assert_allclose(value(None, weights), rows * weights, rtol=1e-6)
    np.testing.assert_allclose(value("sum", weights), np.sum(rows * weights), rtol=1e-6)
    np.testing.assert_allclose(value("sum_over_batch_size", weights), np.sum(rows * weights) / 17, rtol=1e-6)
    mean = np.sum(rows * weights) / np.sum(weights[valid])
    np.testing.assert_allclose(value("mean_with_sample_weight", weights), mean, rtol=1e-6)


# --- temperature ----------------------------------------------------------------------------------


def test_a_variable_temperature_is_looked_up_at_every_call_without_a_new_trace():
    temperature, traces = keras.Variable(0.5), []
    loss = SoftNearestNeighbor(temperature)

    @tf.function(jit_compile=True)
    def run(labels, embeddings):
        traces.append(1)
        return loss(labels, embeddings)

    for value in (0.5, 2.0):
        temperature.assign(value)
        expected = SoftNearestNeighbor(value)(LABELS, EMBEDDINGS)
        np.testing.assert_allclose(run(tf.constant(LABELS), tf.constant(EMBEDDINGS)), expected, rtol=1e-5)
    assert len(traces) == 1
    assert loss.get_config()["temperature"] == 2.0


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("anchors", ["valid", "batch"])
def test_the_temperature_is_improved_by_one_step_of_its_inverse(distance, anchors, blocks):
    labels, embeddings = CASES["lone classes"]
    count = 17 if anchors == "valid" else 20
    weights = np.full(20, 1 / count)
    start = 3.0
    slope = (
        -start * naive(labels, embeddings, start, distance, weights=weights)[2]
    )  # of t at t = 1, T = start / t
    improved = start / (1 - 0.1 * slope)
    assert abs(improved - start) > 1e-3
    expected = naive(labels, embeddings, improved, distance, weights=weights)
    actual = evaluate(
        labels, embeddings, start, distance=distance, anchors=anchors, optimize_temperature=True
    )
    np.testing.assert_allclose(actual[0], expected[0], atol=1e-5)
    np.testing.assert_allclose(actual[1], expected[1], atol=1e-5)
    assert np.sum(expected[0]) < np.sum(naive(labels, embeddings, start, distance)[0])


@pytest.mark.fault(44)
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("temperature", [1e-8, 1e8])
@pytest.mark.parametrize("size", [0, 1e-30, 1e-8, 1e15, 1e30, -1e30])
def test_value_and_gradient_are_finite(size, temperature, distance):
    for embeddings in (EMBEDDINGS, np.tile(EMBEDDINGS[:1], (20, 1))):
        for result in evaluate(LABELS, np.float32(size) * embeddings, temperature, distance=distance)[:2]:
            assert np.all(np.isfinite(result))


@pytest.mark.fault(44)
@pytest.mark.parametrize(
    "temperature",
    [
        0, -0.2, float("nan"), float("inf"), "0.2", None, True,
        np.ones(2), np.array(-1.0), np.array(np.nan), np.float32(0),
    ],
)  # fmt: skip
def test_a_temperature_that_is_not_positive_and_finite_is_refused(temperature):
    for refuse in (SoftNearestNeighbor, lambda t: soft_nearest_neighbor(LABELS, EMBEDDINGS, t)):
        with pytest.raises(ValueError, match="positive finite number.*Received: temperature="):
            refuse(temperature)


# --- types ----------------------------------------------------------------------------------------


@pytest.mark.fault(45)
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"])
def test_labels_are_whole_numbers_of_any_type_up_to_its_greatest_in_a_row_or_column(dtype):
    expected = soft_nearest_neighbor(LABELS, EMBEDDINGS)
    labels = np.array(np.iinfo(dtype).max, dtype) - LABELS.astype(dtype)
    for given in (labels, labels[:, None], tf.constant(labels)):
        np.testing.assert_array_equal(soft_nearest_neighbor(given, EMBEDDINGS), expected)
        np.testing.assert_array_equal(SoftNearestNeighbor(reduction=None)(given, EMBEDDINGS), expected)
        padded = SoftNearestNeighbor(reduction=None, ignore_class=5000)
        np.testing.assert_allclose(padded(given, EMBEDDINGS), expected, rtol=1e-5)


@pytest.mark.fault(45)
def test_labels_beyond_float32_and_int32_stay_apart():
    expected = np.asarray(soft_nearest_neighbor(LABELS, EMBEDDINGS))
    for offset in (2**24, 2**31, 2**60):
        labels = offset + LABELS.astype("int64")
        np.testing.assert_array_equal(SoftNearestNeighbor(reduction=None)(labels, EMBEDDINGS), expected)
        compiled = tf.function(soft_nearest_neighbor, jit_compile=True)
        np.testing.assert_allclose(compiled(tf.constant(labels), EMBEDDINGS), expected, rtol=1e-5)


WRONG_LABELS = {
    "float": LABELS.astype("float32"),
    "one-hot": np.eye(4, dtype="int32")[LABELS],
    "bool": LABELS > 1,
    "scalar": np.int32(3),
    "strings": np.array(["a"] * 20),
}


@pytest.mark.fault(45)
@pytest.mark.parametrize("kind", WRONG_LABELS)
def test_other_labels_are_refused_with_their_shape(kind):
    with pytest.raises(ValueError, match="`labels` must be whole numbers.*Received: shape"):
        SoftNearestNeighbor()(WRONG_LABELS[kind], EMBEDDINGS)


@pytest.mark.fault(45)
def test_labels_of_another_length_and_unmasked_padding_are_refused():
    with pytest.raises(ValueError, match=r"one row for each sample. Received: .*\(19,\)"):
        soft_nearest_neighbor(LABELS[:19], EMBEDDINGS)
    with pytest.raises(ValueError, match="one row for each sample"):
        soft_nearest_neighbor(LABELS, EMBEDDINGS, mask=np.ones(5, bool))
    for call in (soft_nearest_neighbor, SoftNearestNeighbor()):
        with pytest.raises(ValueError, match="-1 stands for padding.*Received: the label -1 in 5 of 20"):
            call(np.where(np.arange(20) < 5, -1, LABELS), EMBEDDINGS)


@pytest.mark.fault(59)
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("case", CASES)
def test_every_case_is_finite_under_a_policy_and_as_precise_as_its_inputs(case, policy):
    dtype = policy.removeprefix("mixed_")
    labels, embeddings = CASES[case][0], tf.cast(tf.clip_by_value(CASES[case][1], -6e4, 6e4), dtype)
    rounded = np.asarray(tf.cast(embeddings, "float32"))
    keras.config.set_dtype_policy(policy)
    for distance in DISTANCES:
        rows, gradient, _ = evaluate(labels, embeddings, 1.0, distance=distance)
        assert rows.dtype == "float32" and gradient.dtype == dtype
        finite = np.isfinite(np.asarray(tf.cast(gradient, "float32")))
        expected = naive(labels, rounded.astype(dtype) if dtype == "float16" else rounded, 1.0, distance)
        assert np.all(finite | (np.abs(expected[1]) > 6e4))
        scale = max(1, np.abs(expected[0]).max())
        np.testing.assert_allclose(rows, expected[0], rtol=0, atol=1e-5 * scale)


def test_configuration_is_what_was_passed():
    loss = SoftNearestNeighbor(0.3, "squared", "batch", True, -1, "sum", "entangled")
    again = keras.losses.deserialize(json.loads(json.dumps(keras.losses.serialize(loss))))
    assert type(again) is SoftNearestNeighbor and again.get_config() == loss.get_config()


@pytest.mark.parametrize("arguments", [dict(distance="euclidean"), dict(anchors="all")])
def test_unknown_choices_are_refused(arguments):
    with pytest.raises(ValueError, match="must be one of .* Received: "):
        SoftNearestNeighbor(**arguments)


def test_it_is_a_loss_for_compile_and_fit():
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(6, kernel_initializer="identity")])
    model.compile(keras.optimizers.SGD(0.0), SoftNearestNeighbor(), jit_compile=True)
    history = model.fit(EMBEDDINGS, LABELS, batch_size=10, shuffle=False, verbose=0)
    halves = [naive(LABELS[rows], EMBEDDINGS[rows], 1.0, "cosine")[0] for rows in (slice(10), slice(10, 20))]
    np.testing.assert_allclose(
        history.history["loss"], np.mean([half[half > 0].mean() for half in halves]), rtol=1e-5
    )
