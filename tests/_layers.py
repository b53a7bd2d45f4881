"""Small layers with random weights, for the tests of heads and experts."""

import keras
import numpy as np
from keras import ops

from star_keras.layers import RoutedExperts

TASKS = ("invariant", "equivariant")
FEATURES = np.random.default_rng(0).normal(size=(6, 5)).astype("float32")


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


def assert_fills(values, bound):
    """`values` look drawn from U(-bound, bound)."""
    assert 0.95 * bound < np.abs(values).max() <= bound * (1 + 1e-6)
    assert abs(values.std() / (bound / np.sqrt(3)) - 1) < 0.05


def trainable_parameters(layers):
    return sum(int(np.prod(v.shape)) for layer in layers for v in layer.trainable_variables)
