"""Sizes of the routed experts, and the laws that every expert starts from."""

import json

import keras
import numpy as np
import pytest
from _layers import TASKS, assert_fills, label, numbers, trainable_parameters
from keras import ops

from star_keras.layers import EquivariantPredictor, RoutedExperts
from star_keras.layers.initialization import stacked


def test_sizes_are_those_of_the_paper():
    layer = RoutedExperts(128, 16, TASKS, (512, 512))
    layer.build((None, 512))
    predictor = EquivariantPredictor()
    predictor.build((None, 128), (None, 11))
    assert trainable_parameters(layer.expert_layers + layer.normalizations) == 16 * 592_000
    assert trainable_parameters(layer.router_layers) == 16_416
    assert trainable_parameters([predictor.psi]) == 1_536
    assert trainable_parameters([predictor.phi]) == 460_928


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


def test_initializer_objects_survive_the_config():
    seeded = keras.initializers.HeNormal(seed=7)
    layer = RoutedExperts(4, 3, kernel_initializer=seeded, bias_initializer="zeros")
    config = json.loads(json.dumps(layer.get_config()))
    again = RoutedExperts.from_config(config)
    assert isinstance(again.kernel_initializer, keras.initializers.HeNormal)
    assert again.kernel_initializer.get_config()["seed"] == 7 and again.bias_initializer == "zeros"
    assert again.get_config() == layer.get_config()
