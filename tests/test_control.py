"""Deep Q-learning: the gridworld, other tasks, playing, training, returns, bad input."""

import sys

import keras
import numpy as np
import pytest
from _control import RNG, q_network
from _elsewhere import run_elsewhere

import star_keras as sk
from star_keras.applications import control
from star_keras.applications.control import learning, playing
from star_keras.exceptions import NonFiniteError, ShapeError

# --- the gridworld --------------------------------------------------------------------------------


def test_the_agent_moves_by_one_stops_before_walls_and_is_done_at_the_goal():
    world = control.make(control.GRIDWORLD, obstacles=[(1, 0)])
    world.reset(seed=0)
    world.unwrapped.place(np.array([0, 0, 0, 2]) / 3)
    steps = [world.step(action)[:3] for action in (0, 1, 1)]
    states = [np.round(state * 3).astype(int).tolist() for state, _, _ in steps]
    assert states == [[0, 0, 0, 2], [0, 1, 0, 2], [0, 2, 0, 2]]
    assert [(reward, end) for _, reward, end in steps] == [(-1, False), (-1, False), (0, True)]
    world.unwrapped.place(np.array([3, 3, 0, 2]) / 3)
    assert np.round(world.step(0)[0] * 3)[0] == 3  # the border


def test_distances_are_those_of_the_shortest_ways():
    world = control.make(control.GRIDWORLD, size=3, obstacles=[(0, 0)]).unwrapped
    assert world.distances((-1, 0)) == {
        (-1, 0): 0, (-1, 1): 1, (-1, -1): 1, (0, 1): 2, (0, -1): 2, (1, 1): 3, (1, -1): 3, (1, 0): 4
    }  # fmt: skip
    assert len(control.make(control.GRIDWORLD).unwrapped.obstacles) == 8


def test_a_side_may_be_a_whole_number_of_numpy():
    assert control.make(control.GRIDWORLD, size=np.int64(5)).unwrapped.half == 2


def test_episodes_begin_off_the_goal_follow_the_seed_and_are_cut_off():
    world = control.make(control.GRIDWORLD, goals=[(3, 0), (3, 1)])
    starts = np.array([world.reset(seed=seed)[0] for seed in range(50)])
    assert {tuple(goal) for goal in np.round(starts[:, 2:] * 3)} == {(3, 0), (3, 1)}
    assert (starts[:, :2] != starts[:, 2:]).any(axis=1).all()
    np.testing.assert_array_equal(world.reset(seed=3)[0], starts[3])
    world.unwrapped.place(np.array([-3, -3, 3, 0]) / 3)
    assert [world.step(2)[3] for _ in range(50)] == [False] * 49 + [True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 4}, "size=4"),
        ({"size": True}, "size=True"),
        ({"obstacles": [(9, 0)]}, r"`obstacles`.*Received: \[\(9, 0\)\]"),
        ({"goals": [(1, 2)]}, r"`goals`.*Received: \[\(1, 2\)\]"),
        ({"goals": []}, "`goals`"),
        ({"size": 3, "obstacles": [(0, 1), (1, 0), (0, -1), (-1, 0)]}, "each of which can be reached"),
        ({"size": 3, "obstacles": [(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1)]}, "two free cells"),
    ],
)  # fmt: skip
def test_impossible_worlds_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        control.make(control.GRIDWORLD, **options)


# --- tasks ----------------------------------------------------------------------------------------


def test_continuous_actions_and_states_that_are_no_vectors_are_refused():
    with pytest.raises(ValueError, match="`action_space` must be `Discrete`.*Pendulum"):
        control.make("Pendulum-v1")
    with pytest.raises(ValueError, match="`observation_space` must be a `Box`.*Taxi"):
        control.make("Taxi-v4")


def test_without_gymnasium_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(ImportError, match=r"pip install 'star-keras\[rl\]'"):
        control.make("CartPole-v1")


@pytest.mark.slow
def test_star_keras_is_imported_without_gymnasium():
    run_elsewhere(
        "import sys; sys.modules['gymnasium'] = None; import star_keras as sk; sk.applications.control.DQN()"
    )


@pytest.mark.parametrize("play", [control.evaluate_returns, control.DQN().train])
def test_networks_of_other_sizes_are_refused(play):
    with pytest.raises(ShapeError, match=r"states of shape \(6,\).*`state_size=6, num_actions=3`"):
        play(q_network(), "Acrobot-v1")
    with pytest.raises(ShapeError, match=r"values of actions of shape \(3,\)"):
        play(sk.models.QNetwork(6, 2), "Acrobot-v1")


# --- playing --------------------------------------------------------------------------------------


def towards_the_goal():
    """A network that walks to the right or the left of an empty world, whichever the goal is on."""
    states = keras.Input((4,))
    dx = states[:, 2:3] - states[:, 0:1]
    return keras.Model(states, keras.ops.concatenate([dx, 0 * dx - 10, -dx, 0 * dx - 10], axis=-1))


def test_returns_are_the_sums_of_rewards_worked_by_hand():
    def row():
        return control.make(
            control.GRIDWORLD, size=3, obstacles=[(x, y) for x in (-1, 0, 1) for y in (-1, 1)]
        )

    world = row()
    distances = []
    for episode in range(8):
        state, _ = world.reset(seed=5 + episode)
        distances.append(abs(state[2] - state[0]))
    returns = control.evaluate_returns(towards_the_goal(), row, episodes=8, seed=5)
    np.testing.assert_array_equal(returns, 1 - np.array(distances))
    assert len(set(returns)) > 1


def test_an_episode_that_is_never_done_is_cut_off():
    world = lambda: control.make(control.GRIDWORLD, goals=[(0, 3)])  # noqa: E731
    returns = control.evaluate_returns(towards_the_goal(), world, episodes=4)
    assert returns.min() == -50


def test_an_episode_without_an_end_is_cut_off_by_the_number_of_steps():
    world = lambda: control.make(control.GRIDWORLD, goals=[(0, 3)]).unwrapped  # noqa: E731
    returns = control.evaluate_returns(towards_the_goal(), world, episodes=4, max_steps=7)
    assert returns.min() == -7


class Subclassed(keras.Model):
    """A network that keeps its shapes to itself."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def call(self, states):
        return self.network(states)

    def get_config(self):
        return {"network": keras.saving.serialize_keras_object(self.network)}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config["network"]))


def test_networks_that_do_not_tell_their_shapes_are_played_wrapped_and_trained():
    network = q_network(hidden_units=(8,))
    symmetry, hidden = control.symmetry_of("CartPole-v1"), Subclassed(network)
    wrapped = sk.layers.EquiTune(network, symmetry.states, output_group=symmetry.actions)
    for ours, theirs in (
        (hidden, network),
        (wrapped, symmetry.wrap(network)),
        (symmetry.wrap(hidden), symmetry.wrap(network)),
    ):
        returns = [control.evaluate_returns(model, "CartPole-v1", 3) for model in (ours, theirs)]
        np.testing.assert_array_equal(*returns)
    learner = control.DQN(warmup=128, steps_per_epoch=128, updates_per_epoch=4)
    for model in (Subclassed(q_network()), wrapped):
        before = model.get_weights()
        learner.train(model, "CartPole-v1", 128)
        assert np.abs(model.get_weights()[0] - before[0]).max() > 0


def test_networks_of_other_sizes_that_do_not_tell_their_shapes_are_refused():
    with pytest.raises(ShapeError, match=r"values of actions of shape \(3,\)"):
        control.evaluate_returns(Subclassed(sk.models.QNetwork(6, 2)), "Acrobot-v1")
    with pytest.raises(ShapeError, match="`actions` does not fit the network.*size 2"):
        control.symmetry_of("CartPole-v1").wrap(Subclassed(sk.models.QNetwork(4, 3)))


@pytest.mark.parametrize(
    ("name", "value"), [("episodes", 0), ("episodes", 2.5), ("max_steps", 0), ("max_steps", None)]
)
def test_returns_of_no_episodes_or_no_steps_are_refused(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be.*Received: {name}={value}"):
        control.evaluate_returns(q_network(), "CartPole-v1", **{name: value})


def test_values_that_are_no_numbers_are_an_error():
    network = q_network()
    network.layers[-1].bias.assign([np.nan, 0.0])
    with pytest.raises(NonFiniteError, match="nan for 3 of 3 states"):
        control.evaluate_returns(network, "CartPole-v1", episodes=3)


# --- learning -------------------------------------------------------------------------------------


def transitions(count=5, num_actions=2):
    return {
        "state": RNG.normal(size=(count, 4)).astype("float32"),
        "action": RNG.integers(num_actions, size=count).astype("int32"),
        "reward": RNG.normal(size=count).astype("float32"),
        "next_state": RNG.normal(size=(count, 4)).astype("float32"),
        "end": np.array([1, 0, 0, 1, 0], "float32")[:count],
    }


def test_the_loss_is_that_of_the_paper():
    network, batch = q_network(), transitions()
    updates = learning._Updates(network, discount=0.9)
    updates.compile("sgd")
    expected = batch["reward"] + 0.9 * (1 - batch["end"]) * np.array(updates.target(batch["next_state"])).max(
        1
    )
    error = np.array(network(batch["state"]))[np.arange(5), batch["action"]] - expected
    huber = np.where(np.abs(error) < 1, error**2 / 2, np.abs(error) - 0.5)
    np.testing.assert_allclose(updates.evaluate(batch, verbose=0), huber.mean(), rtol=1e-5)


@pytest.mark.parametrize("kind", ["kernel", "activity"])
def test_regularisers_of_the_network_are_added_and_those_of_its_copy_are_not(kind):
    def updates(strength):
        keras.utils.set_random_seed(0)
        hidden = keras.layers.Dense(8, **{f"{kind}_regularizer": keras.regularizers.L2(strength)})
        network = keras.Sequential([keras.Input((4,)), hidden, keras.layers.Dense(2)])
        updates = learning._Updates(network, discount=0.9)
        updates.compile(keras.optimizers.SGD(0.1))
        updates.renew_target()
        return updates, hidden

    (plain, _), (penalised, hidden) = updates(0.0), updates(0.5)
    batch = transitions()
    # Keras divides what it asks of activities by the rows of the batch.
    weighed = hidden.kernel if kind == "kernel" else hidden(batch["state"]) / 5**0.5
    penalty = 0.5 * float(keras.ops.sum(keras.ops.square(weighed)))
    losses = [model.evaluate(batch, verbose=0) for model in (plain, penalised)]
    assert losses[1] == pytest.approx(losses[0] + penalty, rel=1e-5)
    fitted = [model.fit(batch, verbose=0).history["loss"][0] for model in (plain, penalised)]
    np.testing.assert_allclose(fitted, losses, rtol=1e-5)
    before = penalised.target.get_weights()[0]
    np.testing.assert_array_equal(before, plain.target.get_weights()[0])
    assert np.abs(penalised.network.get_weights()[0] - plain.network.get_weights()[0]).max() > 1e-4


def test_the_copy_stays_as_it_is_until_it_is_renewed():
    network = q_network()
    updates = learning._Updates(network, discount=0.9)
    updates.compile(keras.optimizers.SGD(0.1))
    updates.renew_target()
    before = updates.target.get_weights()
    updates.fit(transitions(), verbose=0)
    for old, kept, new in zip(before, updates.target.get_weights(), network.get_weights(), strict=True):
        np.testing.assert_array_equal(kept, old)
        assert np.abs(new - old).max() > 0
    updates.renew_target()
    np.testing.assert_array_equal(updates.target.get_weights()[0], network.get_weights()[0])


def test_the_memory_keeps_the_latest_and_draws_no_others():
    memory = learning._Memory(size=7, state_size=4, seed=0)
    for number in range(4):
        batch = transitions(3)
        memory.add({**batch, "reward": np.arange(3) + 3 * number})
        drawn = set(memory.draw(200)["reward"])
        assert drawn == set(range(max(0, 3 * number - 4), 3 * number + 3))


def test_players_remember_what_they_saw_and_begin_anew():
    players = learning._Players(control.GRIDWORLD, count=3, seed=0)
    network, before = q_network(control.GRIDWORLD), players.states.copy()
    ends = 0
    for _ in range(200):
        seen, returns = players.step(network, exploration=1.0)
        np.testing.assert_array_equal(seen["state"], before)
        going_on = np.array_equal(seen["next_state"], players.states)
        assert going_on == (not returns)
        arrived = (np.abs(seen["next_state"][:, :2] - seen["next_state"][:, 2:]) < 1e-6).all(axis=1)
        np.testing.assert_array_equal(seen["end"], arrived)
        np.testing.assert_array_equal(seen["reward"], arrived - 1.0)
        ends, before = ends + len(returns), players.states.copy()
    assert ends > 3
    assert set(players.step(network, exploration=0.0)[0]["action"]) <= set(
        playing.best_actions(network, before)
    )


@pytest.mark.slow
def test_training_is_repeated_by_its_seeds_and_not_by_others():
    def trained(seed):
        keras.utils.set_random_seed(0)
        network = q_network(hidden_units=(8,))
        history = control.DQN(warmup=256, updates_per_epoch=8).train(network, "CartPole-v1", 600, seed)
        return history, network.get_weights()

    (history, one), (again, two), (_, other) = trained(1), trained(1), trained(2)
    assert len(history["loss"]) == 3 and None not in history["loss"]
    assert history["return"] == again["return"]
    np.testing.assert_allclose(one[0], two[0], atol=1e-6)
    assert np.abs(one[0] - other[0]).max() > 1e-4


def test_nothing_is_learned_while_warming_up(capsys):
    network = q_network()
    before = network.get_weights()
    history = control.DQN(warmup=10**6).train(network, "CartPole-v1", 512, verbose=1)
    assert history["loss"] == [None, None] and None not in history["return"]
    np.testing.assert_array_equal(network.get_weights()[0], before[0])
    assert "2/2" in capsys.readouterr().out


@pytest.mark.parametrize("weighting", ["mean", "argmin", "lambda"])
def test_wrapped_networks_learn_and_stay_symmetric(weighting):
    network = q_network(hidden_units=(8,))
    model = control.symmetry_of("CartPole-v1").wrap(network, weighting, score_units=(4,))
    before = network.get_weights(), model.get_weights()
    network.trainable = weighting != "lambda"  # the first of two stages: the score alone
    control.DQN(warmup=256, updates_per_epoch=8).train(model, "CartPole-v1", 256)
    moved = np.abs(network.get_weights()[0] - before[0][0]).max()
    assert (moved > 0) == (weighting != "lambda")
    changes = [np.abs(new - old).max() for new, old in zip(model.get_weights(), before[1], strict=True)]
    assert max(changes) > 0
    assert model.equitune.equivariance_error(RNG.normal(size=(9, 4)).astype("float32")).max() < 1e-5


def test_a_loss_that_is_no_number_ends_the_training():
    def endless():
        import gymnasium

        return gymnasium.wrappers.TransformReward(control.make("CartPole-v1"), lambda reward: np.inf)

    with pytest.raises(NonFiniteError, match="`learning_rate` than 0.0023"):
        control.DQN(warmup=256, updates_per_epoch=8).train(q_network(), endless, 256)


def test_copies_that_do_not_divide_an_epoch_are_refused():
    with pytest.raises(ValueError, match="num_environments=7, steps_per_epoch=256"):
        control.DQN(num_environments=7)


@pytest.mark.parametrize(
    "options",
    [
        {"learning_rate": -1},
        {"learning_rate": float("nan")},
        {"batch_size": 0},
        {"discount": 7},
        {"memory": 0},
        {"memory": -3},
        {"warmup": -1},
        {"updates_per_epoch": 1.5},
        {"exploration": 0.1},
        {"exploration": (1.0, 2.0)},
        {"exploration_fraction": "all"},
        {"num_environments": 0},
    ],
    ids=str,
)
def test_impossible_learners_are_refused(options):
    (name,) = options
    with pytest.raises(ValueError, match=f"`{name}.* must be .*Received"):
        control.DQN(**options)


def test_training_of_no_steps_is_refused():
    with pytest.raises(ValueError, match="`steps` must be.*steps=0"):
        control.DQN().train(q_network(), "CartPole-v1", steps=0)


@pytest.mark.slow
def test_deep_q_learning_learns_to_walk_to_the_goal():
    keras.utils.set_random_seed(0)

    def small():
        return control.make(control.GRIDWORLD, size=3)

    network = q_network(control.GRIDWORLD)
    untrained = control.evaluate_returns(network, small, 50).mean()
    control.DQN(warmup=512, updates_per_epoch=64).train(network, small, 5_120)
    trained = control.evaluate_returns(network, small, 50).mean()
    assert untrained < -10 and trained > -3  # the longest of the shortest ways costs 3
