"""Laws of the projector and the equivariant predictor."""

import json

import keras
import numpy as np
import pytest
from _layers import FEATURES, assert_fills, assert_same, experts, label, numbers, randomize

from star_keras.layers import EquivariantPredictor, Projector, RoutedExperts

EPSILON = 1e-5
RNG = np.random.default_rng(1)


def test_projector_and_predictor_start_from_the_law_of_their_fan_in():
    keras.utils.set_random_seed(0)
    predictor = EquivariantPredictor((400, 300), 600, offset=None)
    predictor.build((None, 500), (None, 20))
    for dense in [predictor.psi, *predictor.phi.dense_layers]:
        bound = dense.kernel.shape[0] ** -0.5
        assert_fills(numbers(dense.kernel), bound)
        if dense.use_bias:
            assert_fills(numbers(dense.bias), bound)


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


def products_are_cut_off(dtype):
    """Whether TensorFlow's own products cut digits off here, as it does on processors without bfloat16."""
    one, other = (keras.ops.cast(RNG.normal(size=(64, 64)), dtype) for _ in range(2))
    product, exact = numbers(one @ other), numbers(one) @ numbers(other)
    return np.mean(np.abs(product) <= np.abs(exact)) > 0.95


def jitted(layer, *inputs):
    symbols = [keras.Input(x.shape[1:]) for x in inputs]
    model = keras.Model(symbols, layer(*symbols))
    model.compile(jit_compile=True)
    return model.predict_on_batch(list(inputs))


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_outputs_stay_close_to_float32(dtype):
    for full in (experts(), randomize(predictor())):
        half = type(full).from_config({**full.get_config(), "dtype": dtype})
        inputs = (FEATURES,) if isinstance(full, RoutedExperts) else (EMBEDDING, AUGMENTATION)
        half.build(*(x.shape for x in inputs))
        half.set_weights(full.get_weights())
        outputs = half(*inputs)
        kinds = {keras.backend.standardize_dtype(x.dtype) for x in keras.tree.flatten(outputs)}
        assert kinds == {dtype.removeprefix("mixed_")}
        assert {variable.dtype for variable in half.variables} == {"float32"}
        if products_are_cut_off(dtype.removeprefix("mixed_")):
            outputs = jitted(half, *inputs)  # the compiler's products are rounded
        scale = max(np.abs(x).max() for x in keras.tree.flatten(numbers(full(*inputs))))
        assert_same(outputs, full(*inputs), rtol=0, atol=0.02 * scale)


def test_config_keeps_numbers_as_plain_lists():
    layer = EquivariantPredictor(offset=np.array([1, 2], "float32"), scale=(2, np.float64(3)))
    config = json.loads(json.dumps(layer.get_config()))
    assert config["offset"] == [1.0, 2.0] and config["scale"] == [2.0, 3.0]


# --- wrong arguments ------------------------------------------------------------------------------

WRONG = [
    (Projector, dict(units=0)),
    (Projector, dict(units=2.5)),
    (Projector, dict(units=True)),
    (Projector, dict(units=4, hidden_units=8)),
    (Projector, dict(units=4, hidden_units=(8, -1))),
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


@pytest.mark.parametrize("layer", [Projector(4), RoutedExperts(4, 2)], ids=lambda x: x.name)
@pytest.mark.parametrize("shape", [(2, 3, 3, 8), (8,), (2, None)])
def test_inputs_other_than_rows_of_features_are_refused(layer, shape):
    with pytest.raises(ValueError, match="Received: shape"):
        layer.build(shape)


@pytest.mark.parametrize("shape", [(1, 4, 5), (4, 1), (5,)])
@pytest.mark.parametrize("hidden_units", [(), (3,)])
def test_built_layers_refuse_inputs_of_another_shape(hidden_units, shape):
    inputs = np.ones(shape, "float32")
    layer, head = RoutedExperts(4, 2, hidden_units=hidden_units), Projector(4, hidden_units)
    for one in (layer, head):
        one.build((None, 5))
    for call in (layer, head):
        with pytest.raises(ValueError, match="incompatible with the layer: expected.*ndim=2|axis -1"):
            call(inputs)
    for method in (layer.route, layer.router_logits, layer.expert_outputs):
        with pytest.raises(ValueError, match=r"built for inputs of shape \(batch, 5\). Received: shape"):
            method(inputs)


@pytest.mark.parametrize("shape", [(6, 1, 3), (3,), (6, 2)])
def test_a_built_predictor_refuses_embeddings_and_augmentations_of_another_shape(shape):
    layer = predictor()
    with pytest.raises(ValueError, match=r"an augmentation of shape \(batch, 3\). Received: shape"):
        layer(EMBEDDING, np.ones(shape, "float32"))
    with pytest.raises(ValueError, match="incompatible with the layer: expected.*ndim=2|axis -1"):
        layer(np.ones(shape, "float32"), AUGMENTATION)


def test_standardisation_of_another_width_than_the_augmentation_is_refused():
    with pytest.raises(ValueError, match="`scale`.* 3 columns.*Received: .*length 2"):
        EquivariantPredictor(scale=[1.0, 2.0]).build((None, 4), (None, 3))
