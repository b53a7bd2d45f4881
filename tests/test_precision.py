"""Laws of the dtype policies: what each layer learns in a step of training, on every backend."""

import keras
import numpy as np
import pytest
from _elsewhere import assert_laws_hold
from _layers import assert_same, numbers, randomize
from _neighbors import naive
from keras import ops

from star_keras import models
from star_keras.exceptions import ConfigError
from star_keras.layers import BatchNormalization, EquivariantPredictor, Projector, RoutedExperts
from star_keras.losses import soft_nearest_neighbor

# On JAX and PyTorch, Keras itself rounds what an optimizer gets to float32.
DOUBLE = 1e-12 if keras.backend.backend() == "tensorflow" else 1e-6
POLICIES = {"float32": 1e-5, "float64": DOUBLE, "mixed_float16": 4e-3, "mixed_bfloat16": 3e-2}
RATE, EPSILON, MOMENTUM = 0.5, 1e-5, 0.9
FEATURES = np.random.default_rng(0).normal(2, 3, (16, 5))
IMAGES = np.random.default_rng(1).integers(0, 256, (8, 16, 16, 3), dtype="uint8")


def train_one_step(layer, features=FEATURES):
    """The layer after a step of gradient descent on the mean square of its outputs."""
    kind = layer.compute_dtype
    inputs = keras.Input(features.shape[1:], dtype=kind)
    model = keras.Model(inputs, layer(inputs))
    randomize(layer)
    loss = keras.losses.MeanSquaredError(dtype="float64" if kind == "float64" else "float32")
    model.compile(keras.optimizers.SGD(RATE), loss)
    model.train_on_batch(features.astype(kind), np.zeros(model(features.astype(kind)).shape, kind))
    return layer


@pytest.mark.fault(58)
@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("shape", [(16, 5), (4, 3, 2, 5)])
@pytest.mark.parametrize("policy", POLICIES)
def test_a_step_of_batch_normalization_is_that_of_numpy(policy, shape, unbiased):
    features = np.random.default_rng(0).normal(2, 3, shape)
    layer = BatchNormalization(momentum=MOMENTUM, epsilon=EPSILON, unbiased=unbiased, dtype=policy)
    before = BatchNormalization(dtype=policy)
    before.build(shape)
    gamma, beta, mean, variance = (numbers(variable) for variable in randomize(before).variables)
    train_one_step(layer, features)

    rows = features.reshape(-1, 5)
    normal = (rows - rows.mean(0)) / np.sqrt(rows.var(0) + EPSILON)
    slope = 2 * (gamma * normal + beta) / rows.size
    expected = [
        gamma - RATE * (slope * normal).sum(0),
        beta - RATE * slope.sum(0),
        MOMENTUM * mean + (1 - MOMENTUM) * rows.mean(0),
        MOMENTUM * variance + (1 - MOMENTUM) * rows.var(0, ddof=int(unbiased)),
    ]
    assert_same(layer.variables, expected, rtol=POLICIES[policy], atol=POLICIES[policy])
    assert {variable.dtype for variable in layer.variables} == {
        "float64" if policy == "float64" else "float32"
    }


HEADS = {
    "projector": lambda **options: Projector(3, (8, 4), **options),
    "experts": lambda **options: RoutedExperts(3, 2, hidden_units=(8, 4), **options),
}


@pytest.mark.fault(58)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("policy", ["float64", "mixed_float16", "mixed_bfloat16"])
def test_heads_learn_in_a_step_what_they_learn_in_float32(head, policy):
    expected = train_one_step(HEADS[head](dtype="float32")).variables
    learned = train_one_step(HEADS[head](dtype=policy)).variables
    start = HEADS[head]()
    start.build(FEATURES.shape)
    largest = max(
        np.abs(numbers(one) - numbers(two)).max()
        for one, two in zip(randomize(start).variables, expected, strict=True)
    )
    bound = 1e-5 if policy == "float64" else 10 * POLICIES[policy]
    assert_same(learned, expected, rtol=0, atol=bound * largest)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("policy", ["float16", "bfloat16"])
def test_heads_without_batch_statistics_learn_in_sixteen_bits(head, policy):
    expected = train_one_step(HEADS[head](batch_norm=False)).variables
    learned = train_one_step(HEADS[head](batch_norm=False, dtype=policy)).variables
    assert policy in {variable.dtype for variable in learned} <= {policy, "float32"}
    for one, two in zip(learned, expected, strict=True):
        assert_same(one, two, rtol=0, atol=0.05 * max(1, np.abs(numbers(two)).max()))


@pytest.mark.fault(59)
@pytest.mark.parametrize("policy", ["float16", "bfloat16"])
def test_batch_statistics_of_less_than_32_bits_are_refused(policy):
    predictor = EquivariantPredictor((4,), dtype=policy)
    for build in (
        lambda: BatchNormalization(dtype=policy),
        lambda: Projector(3, (4,), dtype=policy).build((None, 5)),
        lambda: RoutedExperts(3, 2, hidden_units=(4,), dtype=policy).build((None, 5)),
        lambda: predictor.build((None, 4), (None, 3)),
    ):
        with pytest.raises(ConfigError, match=f"more than 16 bits. Received: '{policy}'"):
            build()


@pytest.mark.parametrize("options", [dict(autocast=False), dict(dtype="float64")], ids=str)
def test_wide_inputs_are_normalised_in_their_own_width(options):
    layer = BatchNormalization(momentum=MOMENTUM, epsilon=EPSILON, **options)
    features = keras.ops.convert_to_tensor(1e3 + FEATURES, dtype="float64")
    outputs = layer(features, training=True)
    assert_same(outputs, (FEATURES - FEATURES.mean(0)) / np.sqrt(FEATURES.var(0) + EPSILON), rtol=1e-6)
    assert_same(layer.moving_mean, (1 - MOMENTUM) * (1e3 + FEATURES.mean(0)), rtol=1e-6)


@pytest.mark.fault(58)
def test_a_resnet_trains_in_float64():
    single, double = (
        models.create("resnet20", input_shape=(16, 16, 3), num_classes=2, dtype=policy)
        for policy in ("float32", "float64")
    )
    double.set_weights(single.get_weights())
    losses = []
    for model in (single, double):
        model.compile(keras.optimizers.SGD(0.01), "sparse_categorical_crossentropy")
        losses.append(model.fit(IMAGES, np.arange(8) % 2, batch_size=8, epochs=2, verbose=0).history["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-4)
    assert {variable.dtype for variable in double.backbone.trainable_variables} == {"float64"}


def test_squared_lengths_keep_their_digits_where_products_drop_some(monkeypatch):
    """As in TF32, of which every number here but the squared lengths has enough digits."""
    half = np.random.default_rng(0).integers(-11, 12, (6, 64)).astype("float32")
    embeddings, labels, multiply = np.concatenate([half, -half]), np.arange(12) % 3, ops.matmul

    def rounded(array):
        return ops.view((ops.view(array, "int32") + 0x1000) & ~0x1FFF, "float32")

    monkeypatch.setattr(ops, "matmul", lambda one, other: multiply(rounded(one), rounded(other)))
    found = numbers(soft_nearest_neighbor(labels, embeddings, distance="squared"))
    np.testing.assert_allclose(found, naive(labels, embeddings, 1.0, "squared")[0], rtol=1e-6, atol=1e-5)


LAWS = "numpy or float64-projector or float64-experts or refused or wide"


@pytest.mark.slow
@pytest.mark.fault(60)
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_the_policies_obey_their_laws_on_other_backends(backend):
    assert_laws_hold(backend, [__file__], LAWS, JAX_ENABLE_X64="1")
