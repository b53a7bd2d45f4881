"""Laws of EquiTune: equivariance whatever the model, weights, gradients, chunks, saving, refusals."""

import keras
import numpy as np
import pytest
from keras import ops

from star_keras import groups
from star_keras.callbacks import OrbitMonitor
from star_keras.exceptions import NonFiniteError, ShapeError
from star_keras.layers import EquiTune

# Raised inside Keras when it turns a TensorFlow variable into an array.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")

RNG = np.random.default_rng(0)
S3 = [[0, 1, 2], [1, 2, 0], [2, 0, 1], [0, 2, 1], [2, 1, 0], [1, 0, 2]]
TURN = [[0.0, -1.0], [1.0, 0.0]]
C4_MATRICES = [np.linalg.matrix_power(TURN, k) for k in range(4)]
SHIFTS = [[(channel + turn) % 4 for channel in range(4)] for turn in range(4)]
REGULAR = groups.Joint(groups.Cyclic(4), groups.Permutation(SHIFTS))
MIRRORS = groups.Product(groups.Flip("width"), groups.Flip("height"))
VOCABULARY = groups.VocabularyCycle([[1, 3, 2], [4, 6, 0]], size=7)

# group of the inputs, their shape without the batch, group of the outputs
SETTINGS = {
    "trivial": (groups.Trivial(), (3, 4, 2), groups.Trivial()),
    "half turns": (groups.Cyclic(2), (3, 4, 2), groups.Cyclic(2)),
    "quarter turns": (groups.Cyclic(4), (4, 4, 2), groups.Cyclic(4)),
    "regular channels": (groups.Cyclic(4), (4, 4, 4), REGULAR),
    "mirror": (groups.Flip("width"), (3, 4, 2), groups.Flip("width")),
    "upside down": (groups.Flip("height"), (3, 4, 2), groups.Flip("height")),
    "dihedral": (groups.Dihedral(4), (4, 4, 2), groups.Dihedral(4)),
    "both mirrors": (MIRRORS, (3, 4, 2), MIRRORS),
    "permutations": (groups.Permutation(S3), (2, 3), groups.Permutation(S3)),
    "tokens": (VOCABULARY.ids, (5,), VOCABULARY),
    "states": (groups.Linear(C4_MATRICES), (2,), groups.Permutation(SHIFTS)),
}
WEIGHTINGS = {
    "mean": dict(),
    "lambda": dict(weighting="lambda", features="hidden", temperature=0.2),
    "argmin": dict(weighting="argmin", score="entropy"),
    "argmin max": dict(weighting="argmin", score="max_value", gradient="selected"),
}
OUTPUT_SIZES = {VOCABULARY: (7,), SETTINGS["states"][2]: (4,)}

each_setting = pytest.mark.parametrize("setting", SETTINGS)
each_weighting = pytest.mark.parametrize("weighting", WEIGHTINGS)


def network(shape, output_shape=(4,), dtype="float32", tokens=None):
    """An untrained network without any symmetry; its weights are of order one."""
    spread = keras.initializers.RandomNormal(stddev=0.7)
    dense = dict(kernel_initializer=spread, bias_initializer=spread, dtype=dtype)
    inputs = keras.Input(shape, dtype=dtype.removeprefix("mixed_") if tokens is None else "int32")
    x = inputs if tokens is None else keras.layers.Embedding(tokens, 3, spread, dtype=dtype)(inputs)
    x = keras.layers.Flatten(dtype=dtype)(x)
    x = keras.layers.Dense(6, "tanh", name="hidden", **dense)(x)
    x = keras.layers.Dense(int(np.prod(output_shape)), **dense)(x)
    return keras.Model(inputs, keras.layers.Reshape(output_shape, dtype=dtype)(x))


def wrap(setting, weighting="mean", invariant=False, dtype="float32", **options):
    group, shape, output_group = SETTINGS[setting]
    tokens = group.vocabulary
    output_shape = (4,) if invariant else OUTPUT_SIZES.get(output_group, shape)
    options = {**WEIGHTINGS[weighting], **options}
    if options.get("weighting") == "lambda":
        options["score"] = keras.layers.Dense(1, dtype=dtype)
    model = network(shape, output_shape, dtype, tokens)
    return EquiTune(model, group, None if invariant else output_group, dtype=dtype, **options)


def sample(setting, batch=3, dtype="float64"):
    group, shape, _ = SETTINGS[setting]
    if group.vocabulary:
        return RNG.integers(0, group.vocabulary, (batch, *shape))
    return RNG.normal(size=(batch, *shape)).astype(dtype)


def array(tensor):
    return ops.convert_to_numpy(tensor)


def classifier(shape=(4, 4, 2), **kwargs):
    return network(shape, **kwargs)


# --- equivariance ---------------------------------------------------------------------------------


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
    errors = wrapper.equivariance_error(RNG.normal(size=(2, 9, 9, 1)).astype("float32"))
    assert errors[0] < 1e-6 and errors[1] > 1e-3


# --- the formulas ---------------------------------------------------------------------------------


def members(wrapper, x):
    """`g^-1 M(g x)` for every element, one call of the model each."""
    group, output_group = wrapper.group, wrapper.output_group
    outputs = [wrapper.model(group.act(g, x)) for g in range(group.order)]
    if output_group is None:
        return np.stack([array(y) for y in outputs]), outputs
    back = [output_group.act(output_group.inverse(g), y) for g, y in enumerate(outputs)]
    return np.stack([array(y) for y in back]), outputs


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


# --- chunks ---------------------------------------------------------------------------------------


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
        np.testing.assert_allclose(
            array(parts.orbit_weights(x)), array(whole.orbit_weights(x)), atol=1e-6
        )


@keras.saving.register_keras_serializable(package="tests")
class Counting(keras.layers.Layer):
    """Passes on, and notes how many rows it saw."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seen = []

    def call(self, inputs):
        self.seen.append(inputs.shape[0])
        return ops.mean(inputs, axis=(1, 2))


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
        rows = RNG.normal(size=(3, 4, 4, 2)).astype("float32") + np.arange(4)[:, None, None]
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
    x = RNG.normal(size=(batch, 4, 4, 2)).astype("float32")
    expected = EquiTune(free, groups.Dihedral(4))(x)
    np.testing.assert_allclose(array(EquiTune(model, groups.Dihedral(4))(x)), array(expected), atol=1e-6)


@pytest.mark.fault(54)
@pytest.mark.parametrize("batch", [3, 8])
def test_a_batch_size_that_is_built_in_and_cannot_be_filled_is_refused(batch):
    with pytest.raises(ShapeError, match=f"fixed batch size of 4.*Received: a batch of {batch} rows"):
        EquiTune(fixed(4), groups.Dihedral(4))(np.zeros((batch, 4, 4, 2), "float32"))


# --- gradients ------------------------------------------------------------------------------------


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
    upstream = RNG.normal(size=(3, 4, 4, 2))
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
    upstream = RNG.normal(size=(2, 4))
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


def test_the_gradient_of_equitune_is_not_the_true_gradient_of_argmin():
    x, upstream = sample("dihedral"), RNG.normal(size=(3, 4, 4, 2))
    found = {}
    for gradient in ("equitune", "selected"):
        keras.utils.set_random_seed(1)
        wrapper = wrap("dihedral", "argmin", dtype="float64", gradient=gradient)
        found[gradient] = np.concatenate([one.ravel() for one in differentiate(wrapper, x, upstream)])
    cosine = found["equitune"] @ found["selected"]
    cosine /= np.linalg.norm(found["equitune"]) * np.linalg.norm(found["selected"])
    assert 0.2 < cosine < 0.95


# --- structures of inputs and outputs -------------------------------------------------------------


def two_inputs():
    image, age = keras.Input((4, 4, 2), name="image"), keras.Input((3,), name="age")
    hidden = keras.layers.Dense(5, "tanh")(keras.layers.Flatten()(image))
    return image, age, keras.layers.Dense(4)(keras.layers.Concatenate()([hidden, age]))


@pytest.mark.fault(54)
@pytest.mark.parametrize("kind", [dict, list])
@pytest.mark.parametrize("rows", [None, 3])
def test_only_the_inputs_that_are_named_move(kind, rows):
    image, age, outputs = two_inputs()
    model = keras.Model({"image": image, "age": age} if kind is dict else [image, age], outputs)
    wrapper = EquiTune(model, groups.Cyclic(4), inputs="image", max_orbit_batch=rows)
    values = RNG.normal(size=(3, 4, 4, 2)).astype("float32"), RNG.normal(size=(3, 3)).astype("float32")
    x = dict(zip(("image", "age"), values, strict=True)) if kind is dict else list(values)

    def call(k):
        turned = np.rot90(values[0], k, axes=(1, 2)).copy()
        return array(model({**x, "image": turned} if kind is dict else [turned, values[1]]))

    np.testing.assert_allclose(array(wrapper(x)), np.mean([call(k) for k in range(4)], axis=0), atol=1e-5)
    assert wrapper.equivariance_error(x).max() < 1e-5


@pytest.mark.fault(54)
def test_several_inputs_without_names_and_names_of_no_input_are_refused():
    image, age, outputs = two_inputs()
    x = {"image": np.zeros((2, 4, 4, 2), "float32"), "age": np.zeros((2, 3), "float32")}
    model = keras.Model({"image": image, "age": age}, outputs)
    with pytest.raises(ValueError, match="needs `inputs`.*Received: inputs=None"):
        EquiTune(model, groups.Cyclic(4))(x)
    with pytest.raises(ValueError, match=r"Received: inputs=\['picture'\].*image"):
        EquiTune(model, groups.Cyclic(4), inputs=["picture"])(x)
    with pytest.raises(ValueError, match="not named"):
        EquiTune(classifier(), groups.Cyclic(4), inputs=["image"])(x["image"])


@pytest.mark.fault(54)
@pytest.mark.parametrize("rows", [None, 3])
def test_every_output_of_a_dict_or_tuple_is_averaged(rows):
    inputs = keras.Input((4, 4, 2))
    maps = keras.layers.Conv2D(2, 3, padding="same")(inputs)
    vector = keras.layers.Dense(3)(keras.layers.Flatten()(maps))
    group, x = groups.Dihedral(4), sample("dihedral", dtype="float32")
    structures = {
        "dict": ({"maps": maps, "classes": vector}, {"maps": group, "classes": None}),
        "tuple": ((maps, maps), group),
        "list": ([vector, vector], None),
    }
    for outputs, output_group in structures.values():
        model = keras.Model(inputs, outputs)
        wrapper = EquiTune(model, group, output_group, max_orbit_batch=rows)
        assert wrapper.equivariance_error(x).max() < 1e-5
        found = wrapper(x)
        assert type(found) is type(outputs) and len(found) == len(outputs)
        if isinstance(outputs, dict):
            alone = EquiTune(keras.Model(inputs, maps), group, group)(x)
            np.testing.assert_allclose(array(found["maps"]), array(alone), atol=1e-6)


@pytest.mark.fault(55)
def test_feature_maps_need_a_word_about_how_they_move():
    maps, x = network((4, 4, 2), (4, 4, 2)), sample("dihedral", dtype="float32")
    with pytest.raises(ValueError, match=r"feature map.*Received: output of shape \(None, 4, 4, 2\)"):
        EquiTune(maps, groups.Dihedral(4))(x)
    turned = EquiTune(maps, groups.Dihedral(4), groups.Dihedral(4))
    assert turned.equivariance_error(x).max() < 1e-5
    invariant = EquiTune(maps, groups.Dihedral(4), "invariant")
    np.testing.assert_allclose(array(invariant(x)), array(invariant(np.rot90(x, axes=(1, 2)))), atol=1e-5)
    sequences = EquiTune(network((2, 3), (2, 3)), groups.Permutation(S3))  # nothing spatial moves
    assert sequences(np.ones((2, 2, 3), "float32")).shape == (2, 2, 3)


@pytest.mark.fault(55)
def test_regular_outputs_turn_their_pixels_and_permute_their_channels():
    group = groups.Joint(groups.Cyclic(4), groups.Permutation(SHIFTS))
    wrapper = EquiTune(network((4, 4, 4), (4, 4, 4)), groups.Cyclic(4), group)
    x = sample("regular channels", dtype="float32")
    turned = array(wrapper(np.rot90(x, axes=(1, 2)).copy()))
    expected = np.roll(np.rot90(array(wrapper(x)), axes=(1, 2)), 1, axis=-1)
    np.testing.assert_allclose(turned, expected, atol=1e-5)


@pytest.mark.fault(52)
def test_images_that_are_not_square_are_refused_before_the_model_runs():
    model = Counting()
    with pytest.raises(ShapeError, match=r"square maps.*Received: shape \(4, 6, 2\)"):
        EquiTune(model, groups.Cyclic(4))(np.zeros((2, 4, 6, 2), "float32"))
    assert not model.seen
    with pytest.raises(ShapeError, match="at least 3 axes beside the batch"):
        EquiTune(model, groups.Flip())(np.zeros((2, 4, 6), "float32"))
    assert EquiTune(model, groups.Dihedral(2))(np.ones((2, 4, 6, 2), "float32")).shape == (2, 2)


# --- broken scores --------------------------------------------------------------------------------


def broken_wrapper(weighting):
    """A wrapper whose score is NaN on the second row."""
    score = keras.layers.Dense(1) if weighting == "lambda" else "max_value"
    wrapper = EquiTune(classifier(), groups.Cyclic(4), weighting=weighting, score=score)
    x = sample("quarter turns", dtype="float32")
    x[1, 0, 0, 0] = np.nan
    return wrapper, x


@pytest.mark.fault(57)
@pytest.mark.parametrize("weighting", ["lambda", "argmin"])
def test_a_score_that_is_nan_raises_eagerly(weighting):
    wrapper, x = broken_wrapper(weighting)
    for ask in (wrapper, wrapper.orbit_weights):
        with pytest.raises(NonFiniteError, match="Received: nan for 4 of 12"):
            ask(x)


@pytest.mark.fault(57)
@pytest.mark.parametrize("weighting", ["lambda", "argmin"])
@pytest.mark.parametrize("ties", ["mean", "first"])
@pytest.mark.parametrize("jit", [True, False])
def test_a_score_that_is_nan_gives_nan_weights_in_a_graph(weighting, ties, jit):
    tf = pytest.importorskip("tensorflow")
    wrapper, x = broken_wrapper(weighting)
    wrapper.ties = ties
    wrapper.build(x.shape)
    weights = array(tf.function(wrapper.orbit_weights, jit_compile=jit)(x))
    outputs = array(tf.function(wrapper, jit_compile=jit)(x))
    assert np.isnan(weights[1]).all() and np.isnan(outputs[1]).all()
    np.testing.assert_allclose(weights[[0, 2]].sum(axis=1), 1, atol=1e-6)
    assert np.isfinite(outputs[[0, 2]]).all()


def test_scores_must_be_one_number_for_each_row():
    x = sample("quarter turns", dtype="float32")
    for score in (lambda y: y, ops.mean, lambda y: ops.mean(y, axis=1)[:5]):
        with pytest.raises(ShapeError, match="one number for each row"):
            EquiTune(classifier(), groups.Cyclic(4), weighting="argmin", score=score)(x)
    with pytest.raises(ShapeError, match=r"Received: outputs of shape \(None, 2\)"):
        EquiTune(classifier(), groups.Cyclic(4), weighting="lambda", score=keras.layers.Dense(2))(x)
    maps = keras.layers.Conv2D(3, 3, name="maps")
    pooled = keras.Sequential([keras.Input((4, 4, 2)), maps, keras.layers.Flatten()])
    with pytest.raises(ShapeError, match=r"for features of shape \(None, 2, 2, 3\)"):
        EquiTune(
            pooled, groups.Cyclic(4), weighting="lambda", score=keras.layers.Dense(1), features="maps"
        )(x)


# --- training, saving, export ---------------------------------------------------------------------


def compiled(wrapper, **options):
    wrapper.compile(keras.optimizers.Adam(0.02), "mse", **options)
    return wrapper


@pytest.mark.parametrize("weighting", ["lambda", "argmin"])
def test_it_fits_in_jitted_steps_and_stays_equivariant(weighting):
    wrapper = compiled(wrap("quarter turns", weighting, invariant=True), jit_compile=True)
    x = sample("quarter turns", 12, "float32")
    y = (x**2).mean(axis=(1, 2, 3), keepdims=True).reshape(-1, 1) * np.ones((1, 4))
    losses = wrapper.fit(x, y, batch_size=6, epochs=15, verbose=0).history["loss"]
    assert losses[-1] < 0.8 * losses[0]
    assert wrapper.equivariance_error(x).max() < 1e-4
    np.testing.assert_allclose(wrapper.predict(x, verbose=0), array(wrapper(x)), atol=1e-5)


def frozen_copy(model):
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    copy.trainable = False
    return copy


def test_stages_are_set_by_trainable_and_frozen_features_keep_lambda_fixed():
    model = classifier()
    wrapper = EquiTune(
        model,
        groups.Cyclic(4),
        weighting="lambda",
        score=keras.layers.Dense(1),
        features=frozen_copy(model),
    )
    x, y = sample("quarter turns", 6, "float32"), RNG.normal(size=(6, 4)).astype("float32")

    def moved_by_a_step():
        parts = wrapper.model, wrapper.score
        before = [np.concatenate([w.ravel() for w in part.get_weights()]) for part in parts]
        compiled(wrapper).fit(x, y, verbose=0)
        after = [np.concatenate([w.ravel() for w in part.get_weights()]) for part in parts]
        return [bool((old != new).any()) for old, new in zip(before, after, strict=True)]

    wrapper.build(x.shape)
    wrapper.model.trainable = False
    assert moved_by_a_step() == [False, True]
    wrapper.model.trainable, wrapper.score.trainable = True, False
    weights = array(wrapper.orbit_weights(x))
    assert moved_by_a_step() == [True, False]
    np.testing.assert_array_equal(array(wrapper.orbit_weights(x)), weights)
    wrapper.score.trainable = True
    assert moved_by_a_step() == [True, True]


def test_features_that_share_weights_with_the_model_are_refused():
    model = classifier()
    shared = keras.Model(model.input, model.get_layer("hidden").output)
    wrapper = EquiTune(
        model, groups.Cyclic(4), weighting="lambda", score=keras.layers.Dense(1), features=shared
    )
    with pytest.raises(ValueError, match="must not share weights"):
        wrapper.build((None, 4, 4, 2))


@keras.saving.register_keras_serializable(package="tests")
def spread(outputs):
    return -ops.std(outputs, axis=-1)


@pytest.mark.parametrize(
    "options",
    [
        dict(weighting="argmin", score=spread, max_orbit_batch=4, inputs=None),
        dict(weighting="lambda", score="layer", features="copy"),
        dict(output_group="invariant", combine="probs", max_orbit_batch=None),
    ],
    ids=["function", "copy", "invariant"],
)
def test_saved_and_loaded_it_computes_the_same(options, tmp_path):
    model = classifier()
    named = {"layer": lambda: keras.layers.Dense(1), "copy": lambda: frozen_copy(classifier())}
    options = {
        key: named[value]() if isinstance(value, str) and value in named else value
        for key, value in options.items()
    }
    wrapper, x = EquiTune(model, groups.Dihedral(4), **options), sample("dihedral", dtype="float32")
    expected = array(wrapper(x))
    wrapper.save(tmp_path / "wrapper.keras")
    loaded = keras.saving.load_model(tmp_path / "wrapper.keras")
    np.testing.assert_array_equal(array(loaded(x)), expected)
    wrapper.save_weights(tmp_path / "wrapper.weights.h5")
    blank = EquiTune.from_config(wrapper.get_config())
    blank.build(x.shape)
    assert np.abs(array(blank(x)) - expected).max() > 1e-3
    blank.load_weights(tmp_path / "wrapper.weights.h5")
    np.testing.assert_array_equal(array(blank(x)), expected)


def test_exported_it_computes_the_same(tmp_path):
    tf = pytest.importorskip("tensorflow")
    wrapper, x = wrap("dihedral", "lambda"), sample("dihedral", dtype="float32")
    expected = array(wrapper(x))
    wrapper.export(tmp_path / "exported", verbose=False)
    restored = tf.saved_model.load(str(tmp_path / "exported"))
    np.testing.assert_allclose(array(restored.serve(tf.constant(x))), expected, atol=1e-5)
    np.testing.assert_allclose(array(restored.serve(tf.constant(x[:1]))), expected[:1], atol=1e-5)


def test_a_plain_layer_a_sequential_and_a_model_inside_a_functional_model_can_be_wrapped():
    x = sample("states", dtype="float32")
    group = SETTINGS["states"][0]
    dense = EquiTune(keras.layers.Dense(3, "relu"), group)
    assert dense.equivariance_error(x).max() < 1e-5
    stack = keras.Sequential([keras.layers.Dense(5, "relu", name="hidden"), keras.layers.Dense(3)])
    assert EquiTune(stack, group).equivariance_error(x).max() < 1e-5
    inputs = keras.Input((2,))
    around = keras.Model(inputs, keras.layers.Dense(2)(dense(inputs)))
    np.testing.assert_allclose(array(around(x)), array(around(group.act(1, x))), atol=1e-5)


# --- the monitor ----------------------------------------------------------------------------------


def watch(weights, weighting="lambda"):
    """A monitor of a wrapper that returns these weights."""
    score = keras.layers.Dense(1) if weighting == "lambda" else "entropy"
    wrapper = EquiTune(classifier(), groups.Cyclic(4), weighting=weighting, score=score)
    weights = np.asarray(weights, "float32")
    wrapper.orbit_weights = lambda x: weights[: len(x)]
    monitor = OrbitMonitor(np.zeros((len(weights), 4, 4, 2), "float32"))
    monitor.set_model(wrapper)
    return monitor


def test_the_monitor_logs_entropy_greatest_weight_and_histogram():
    weights = [[1, 0, 0, 0], [0.5, 0.5, 0, 0], [0.25] * 4, [0, 0, 0.1, 0.9]]
    values = watch(weights).measure()
    last = -(0.1 * np.log(0.1) + 0.9 * np.log(0.9)) / np.log(4)
    np.testing.assert_allclose(values["orbit_entropy"], (0 + 0.5 + 1 + last) / 4, rtol=1e-6)
    np.testing.assert_allclose(values["orbit_max_weight"], (1 + 0.5 + 0.25 + 0.9) / 4, rtol=1e-6)
    winners = [values[f"orbit_winner_{element}"] for element in range(4)]
    np.testing.assert_allclose(winners, [1.75 / 4, 0.75 / 4, 0.25 / 4, 1.25 / 4], rtol=1e-6)


def test_the_monitor_tells_uniform_and_constant_weights():
    assert "The weights of lambda are uniform" in watch(np.full((9, 4), 0.25)).diagnose()[0]
    assert not watch(np.eye(4)[[0, 1, 2, 3, 0]]).diagnose()
    (sentence,) = watch(np.eye(4)[[2] * 30], "argmin").diagnose()
    assert "Element 2 of the group wins for 100% of the rows" in sentence


@pytest.mark.fault(57)
def test_the_monitor_raises_where_weights_are_nan():
    with pytest.raises(NonFiniteError, match="NaN for 1 of 2 rows"):
        watch([[0.25] * 4, [np.nan] * 4]).measure()


def test_the_monitor_finds_a_proxy_that_is_worse_than_the_mean():
    # The loss is the true one with its sign reversed: the worst member of each orbit is chosen.
    x = sample("quarter turns", 64, "float32")
    model = classifier()
    mean = EquiTune(model, groups.Cyclic(4))
    labels = array(mean(x)).argmax(axis=-1)
    worst = EquiTune(model, groups.Cyclic(4), weighting="argmin", score=lambda y: -entropy_of(y))
    worst.compile("sgd", "mse")
    monitor = OrbitMonitor(x, labels, batch_size=24)
    with pytest.warns(UserWarning, match="'argmin' classifies worse than the mean.* of 64 rows"):
        history = worst.fit(x, np.zeros((64, 4)), epochs=2, callbacks=[monitor], verbose=0).history
    assert len(history["orbit_accuracy"]) == 2 and set(history) >= {f"orbit_winner_{g}" for g in range(4)}


def entropy_of(logits):
    p = ops.softmax(logits)
    return -ops.sum(p * ops.log(p), axis=-1)


def test_the_monitor_finds_a_wrapper_inside_and_says_when_there_is_none():
    inputs = keras.Input((4, 4, 2))
    wrapper = EquiTune(classifier(), groups.Cyclic(4), name="turned")
    monitor = OrbitMonitor(sample("quarter turns", dtype="float32"), every=2)
    monitor.set_model(keras.Model(inputs, keras.layers.Softmax()(wrapper(inputs))))
    assert monitor.find() is wrapper and monitor.measure()["orbit_entropy"] == pytest.approx(1)
    monitor.layer = "mirrored"
    with pytest.raises(ValueError, match="Received: layer='mirrored'.*turned"):
        monitor.on_train_begin()
    with pytest.raises(ValueError, match="Received: every=0"):
        OrbitMonitor(None, every=0)


# --- wrong arguments ------------------------------------------------------------------------------

WRONG = [
    (dict(model="resnet20"), "`model` must be a Keras model"),
    (dict(group="C4"), "`group` must be a group"),
    (dict(weighting="max"), "Received: weighting='max'"),
    (dict(ties="last"), "Received: ties='last'"),
    (dict(gradient="true"), "Received: gradient='true'"),
    (dict(combine="logits"), "Received: combine='logits'"),
    (dict(temperature=0.0), "must be positive"),
    (dict(temperature=float("nan")), "must be positive"),
    (dict(max_orbit_batch=0), "Received: max_orbit_batch=0"),
    (dict(max_orbit_batch=True), "Received: max_orbit_batch=True"),
    (dict(max_orbit_batch="all"), "Received: max_orbit_batch='all'"),
    (dict(score="entropy"), "needs no score"),
    (dict(weighting="lambda"), "needs a layer as `score`"),
    (dict(weighting="lambda", score="entropy"), "needs a layer as `score`"),
    (dict(weighting="argmin"), "needs a loss as `score`"),
    (dict(weighting="argmin", score="energy"), "needs a loss.*Received: score='energy'"),
    (dict(features="hidden"), "read by weighting=\"lambda\" alone"),
    (dict(weighting="lambda", score=keras.layers.Dense(1), features="code"), "features='code'.*hidden"),
    (dict(weighting="lambda", score=keras.layers.Dense(1), features=3), "Received: features=3"),
    (dict(output_group="equivariant"), "Received: output_group='equivariant'"),
    (dict(output_group=groups.Cyclic(2)), "of order 4 and .* of order 2"),
    (
        dict(output_group=groups.Product(groups.Flip("width"), groups.Flip("height"))),
        r"compose\(1, 1\) is 2 in Cyclic\(4\) and 0 in Product",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_wrong_arguments_are_refused_with_what_was_received(arguments, message):
    arguments = {"model": classifier(), "group": groups.Cyclic(4), **arguments}
    with pytest.raises(ValueError, match=message):
        EquiTune(**arguments)


def test_outputs_that_cannot_be_averaged_or_named_are_refused():
    x = sample("quarter turns", dtype="float32")
    inputs = keras.Input((4, 4, 2))
    vector = keras.layers.Dense(3)(keras.layers.Flatten()(inputs))
    whole = keras.Model(inputs, ops.argmax(vector, axis=-1))
    with pytest.raises(ValueError, match="floating type. Received: an output of type int"):
        EquiTune(whole, groups.Cyclic(4))(x)
    named = keras.Model(inputs, {"a": vector, "b": vector})
    with pytest.raises(ValueError, match=r"names of the outputs. Received: \['c'\]"):
        EquiTune(named, groups.Cyclic(4), {"c": groups.Cyclic(4)})(x)
    with pytest.raises(ValueError, match="looks at a single output"):
        EquiTune(named, groups.Cyclic(4), weighting="argmin", score="entropy")(x)
