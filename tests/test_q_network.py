"""Networks of action values: their formulas, their symmetry, their files, and what is refused."""

import keras
import numpy as np
import pytest
from _control import RNG, each_task, q_network

import star_keras as sk
from star_keras.applications import control
from star_keras.applications.control.symmetries import visited_states
from star_keras.exceptions import ConfigError
from star_keras.models import publishing


@each_task
@pytest.mark.parametrize("weighting", ["mean", "argmin", "lambda"])
def test_a_wrapped_network_values_an_image_as_the_state(task, weighting):
    symmetry = control.symmetry_of(task)
    model = symmetry.wrap(q_network(task), weighting)
    states = visited_states(control.make(task), 20)
    values = np.array(model(states))
    for element in range(symmetry.states.order):
        moved = np.array(model(symmetry.states.act(element, states)))
        # What stood at action a stands at g a.
        np.testing.assert_allclose(moved[:, symmetry.actions.rows[element]], values, atol=1e-5)
    assert model.equitune.equivariance_error(states).max() < 1e-5


def test_equitune_and_equizero_are_their_formulas():
    symmetry, network = control.symmetry_of(control.GRIDWORLD), q_network(control.GRIDWORLD)
    states = RNG.uniform(-1, 1, (6, 4)).astype("float32")
    rows = symmetry.actions.rows
    members = np.array(
        [np.array(network(symmetry.states.act(g, states)))[:, rows[g]] for g in range(4)]
    )  # Q(g s)[g a]
    np.testing.assert_allclose(symmetry.wrap(network)(states), members.mean(axis=0), atol=1e-6)
    best = members.max(axis=-1).argmax(axis=0)
    np.testing.assert_allclose(
        symmetry.wrap(network, "argmin")(states), members[best, np.arange(6)], atol=1e-6
    )


def test_a_symmetric_state_has_no_best_side():
    model = control.symmetry_of("CartPole-v1").wrap(q_network(), "argmin")
    values = np.array(model(np.zeros((1, 4), "float32")))[0]
    assert abs(values[0] - values[1]) < 1e-6


def test_a_network_alone_is_not_symmetric():
    network, state = q_network(), np.array([[0.3, -1.0, 0.1, 0.5]], "float32")
    assert np.abs(np.array(network(-state))[:, ::-1] - np.array(network(state))).max() > 1e-3


@pytest.mark.parametrize("frozen", ["all", "network"])
def test_what_is_frozen_is_frozen_in_a_copy(frozen):
    model = control.symmetry_of("CartPole-v1").wrap(q_network(), "lambda")
    (model if frozen == "all" else model.network).trainable = False
    copy = type(model).from_config(model.get_config())
    assert len(copy.trainable_variables) == len(model.trainable_variables) == (0 if frozen == "all" else 4)
    outer = keras.Sequential([copy])
    assert len(outer.trainable_variables) == len(model.trainable_variables)


def test_the_q_network_has_the_shape_of_stable_baselines():
    network = q_network()
    assert [layer.get_config()["units"] for layer in network.layers[1:]] == [64, 64, 2]
    assert network.count_params() == 5 * 64 + 65 * 64 + 65 * 2
    state = RNG.normal(size=(3, 4))
    expected = state
    for layer in network.layers[1:]:
        expected = expected @ np.array(layer.kernel) + np.array(layer.bias)
        expected = np.maximum(expected, 0) if layer.name != "values" else expected
    np.testing.assert_allclose(network(state.astype("float32")), expected, atol=1e-5)


GRID = {
    "network": {"architecture": "q_network", "state_size": 4, "num_actions": 4, "hidden_units": [6]},
    "states": control.symmetry_of(control.GRIDWORLD).states.matrices,
    "actions": control.symmetry_of(control.GRIDWORLD).actions.permutations,
}


@pytest.mark.parametrize(
    ("architecture", "config"),
    [
        ("q_network", {"state_size": 3, "num_actions": 2, "hidden_units": [5, 7]}),
        ("equitune_q_network", {**GRID, "weighting": "lambda", "score_units": [5]}),
        ("equitune_q_network", {**GRID, "weighting": "argmin"}),
    ],
)
def test_networks_are_made_by_name_saved_and_loaded(architecture, config, tmp_path):
    model = sk.models.create(architecture, **config)
    sk.models.save(model, tmp_path / "model")
    again = sk.models.load(tmp_path / "model")
    assert sk.models.parts(tmp_path / "model") == ("model",)
    states = RNG.uniform(-1, 1, (5, model.input_shape[1])).astype("float32")
    np.testing.assert_allclose(again(states), model(states), atol=1e-6)
    assert type(again) is type(model)
    for part, options in (("backbone", {}), ("model", {"num_classes": 3})):
        with pytest.raises(ValueError, match="model"):
            sk.models.load(tmp_path / "model", part=part, **options)


def test_networks_of_states_are_verified_by_fixed_states():
    values = publishing.embed_fixed_inputs(q_network())
    assert values.shape == (8, 2) and np.ptp(values) > 0
    deep = sk.models.create("equitune_q_network", **GRID)
    np.testing.assert_array_equal(publishing.embed_fixed_inputs(deep), publishing.embed_fixed_inputs(deep))


@pytest.mark.parametrize(
    ("architecture", "config", "message"),
    [
        ("q_network", {"state_size": 4}, "num_actions"),
        ("q_network", {"state_size": 4, "num_actions": 0}, "num_actions.*Received: 0"),
        ("q_network", {"state_size": 4, "num_actions": 2, "hidden_units": [2**20]}, "hidden_units"),
        ("q_network", {"state_size": 4, "num_actions": 2, "num_classes": 3}, "num_classes"),
        ("equitune_q_network", {**GRID, "actions": [[0, 1], [1, 0]]}, "`actions` does not fit"),
        ("equitune_q_network", {**GRID, "states": [[[2.0]]]}, "identity"),
        ("equitune_q_network", {**GRID, "weighting": "lambda", "score_units": [2**16] * 3}, "weights"),
    ],
)
def test_impossible_networks_are_refused(architecture, config, message):
    with pytest.raises(ConfigError, match=message):
        sk.models.create(architecture, **config)


def test_a_network_with_a_symmetry_around_a_point_is_no_preset():
    model = control.symmetry_of("MountainCar-v0").wrap(sk.models.QNetwork(2, 3))
    with pytest.raises(ConfigError, match="registered architecture"):
        sk.models.save(model, "nowhere")
    again = type(model).from_config(model.get_config())
    assert again.states.center == model.states.center


def test_another_network_is_scored_by_its_values():
    outputs = inputs = keras.Input((4,))
    for layer in (keras.layers.Dense(5, "tanh"), keras.layers.Dense(2), keras.layers.Rescaling(2.0)):
        outputs = layer(outputs)
    model = control.symmetry_of("CartPole-v1").wrap(keras.Model(inputs, outputs), "lambda")
    assert model.equitune.features is None
    states = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    np.testing.assert_allclose(model(-states), np.array(model(states))[:, ::-1], atol=1e-6)
