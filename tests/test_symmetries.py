"""Symmetries of control tasks: asked of the tasks' own steps, wrappers included, and bad input."""

import gymnasium
import numpy as np
import pytest
from _control import RNG, each_task

import star_keras as sk
from star_keras.applications import control
from star_keras.exceptions import ShapeError
from star_keras.groups import Linear, Permutation

MIRROR = Permutation([[0, 1], [1, 0]])


@each_task
def test_the_step_of_a_task_follows_its_symmetry_from_every_kind_of_state(task):
    symmetry = control.symmetry_of(task)
    symmetry.check(task)
    if task == "CartPole-v1":  # falling and running off the track, too
        symmetry.check(task, states=RNG.uniform(-1, 1, (100, 4)) * [2.5, 3, 0.22, 3])
    if task == "Acrobot-v1":  # near the goal, and as fast as the task allows
        angles, speeds = RNG.uniform(-np.pi, np.pi, (100, 2)), RNG.uniform(-1, 1, (100, 2)) * [12, 28]
        states = np.stack([np.cos(angles), np.sin(angles)], axis=-1).reshape(100, 4)
        symmetry.check(task, states=np.concatenate([states, speeds], axis=1))


def test_every_state_of_the_gridworld_has_the_symmetry():
    world = control.make(control.GRIDWORLD).unwrapped
    states = [(*cell, *goal) for cell in world.free for goal in world.free]
    control.symmetry_of(control.GRIDWORLD).check(control.GRIDWORLD, np.array(states) / world.half)


@each_task
def test_one_wrong_number_in_a_symmetry_is_found(task):
    right = control.symmetry_of(task)
    wrong = np.array(right.states.matrices)
    wrong[1:, :, 0] *= -1 if right.states.order == 2 else 1
    rows = right.actions.rows if right.states.order == 2 else right.actions.rows[[0, 3, 2, 1]]
    broken = control.Symmetry(Linear(wrong), Permutation(rows), right.place)
    with pytest.raises(ValueError, match="does not have the symmetry: after element [13]"):
        broken.check(task)


def test_a_task_without_the_symmetry_is_refused_by_state_element_and_action():
    symmetry = control.symmetry_of(control.GRIDWORLD)

    def lopsided():
        return control.make(control.GRIDWORLD, obstacles=[(1, 0)])

    with pytest.raises(ValueError, match="element 1 of .*the state must follow. Received: .* by action 0"):
        symmetry.check(lopsided, states=np.array([[0, 0, 1, 1]]) / 3)
    symmetry.check(lopsided, states=np.array([[3, 3, -1, -1]]) / 3)  # far from the obstacle there is none
    with pytest.raises(ValueError, match="does not have the symmetry"):
        symmetry.check(lopsided)


class Uneven(gymnasium.Wrapper):
    """Adds to the reward, or ends the episode, on one side of the world."""

    def __init__(self, task, what):
        super().__init__(task)
        self.what = what

    def step(self, action):
        state, reward, end, cut, facts = self.env.step(action)
        right = bool(state[0] > 0)
        lost = right * (self.what == "reward")
        return state, reward - lost, end or (self.what == "end" and right), cut, facts


@pytest.mark.parametrize("what", ["reward", "end"])
def test_rewards_and_ends_have_to_follow_too(what):
    with pytest.raises(ValueError, match=f"the {what} must follow"):
        control.symmetry_of(control.GRIDWORLD).check(lambda: Uneven(control.make(control.GRIDWORLD), what))


class RewardToTheRight(gymnasium.Wrapper):
    def step(self, action):
        state, reward, *rest = self.env.step(action)
        return state, reward + 10 * action, *rest


class AlwaysRight(gymnasium.ActionWrapper):
    def action(self, action):
        return 1


class Shifted(gymnasium.ObservationWrapper):
    def observation(self, state):
        return state + 1


class Scaled(gymnasium.ObservationWrapper):
    def observation(self, state):
        return state / 2


WRAPPERS = {RewardToTheRight: "the reward", AlwaysRight: "the state", Shifted: "the state"}


@pytest.mark.parametrize("wrapper", WRAPPERS, ids=lambda wrapper: wrapper.__name__)
def test_a_wrapper_that_breaks_the_symmetry_is_refused(wrapper):
    with pytest.raises(ValueError, match=f"{WRAPPERS[wrapper]} must follow"):
        control.symmetry_of("CartPole-v1").check(lambda: wrapper(control.make("CartPole-v1")))


def test_wrappers_that_keep_the_symmetry_or_cut_episodes_off_are_let_pass():
    for wrapper in (Scaled, lambda task: gymnasium.wrappers.TimeLimit(task, 1)):
        control.symmetry_of("CartPole-v1").check(lambda wrapper=wrapper: wrapper(control.make("CartPole-v1")))


def test_the_mountain_car_is_symmetric_in_its_valley_alone():
    symmetry = control.symmetry_of("MountainCar-v0")
    valley = RNG.uniform([-0.9, -0.06], [-0.2, 0.06], (50, 2))
    symmetry.check("MountainCar-v0", states=valley)
    with pytest.raises(ValueError, match="does not have the symmetry"):
        symmetry.check("MountainCar-v0", states=[[0.45, 0.06]])


def test_a_quarter_turn_is_the_one_worked_by_hand():
    symmetry = control.symmetry_of(control.GRIDWORLD)
    turned = np.array(symmetry.states.act(1, np.array([1.0, 0.0, 0.5, -0.5], "float32")))
    np.testing.assert_allclose(turned, [0, 1, 0.5, 0.5], atol=1e-6)
    assert symmetry.actions.rows[1].tolist() == [1, 2, 3, 0]  # right becomes up


@pytest.mark.parametrize(
    ("error", "message", "make"),
    [
        (ValueError, "same composition table", lambda: control.Symmetry(
            control.symmetry_of(control.GRIDWORLD).states, MIRROR)),
        (ValueError, "a `groups.Permutation`", lambda: control.Symmetry(MIRROR, MIRROR.ids)),
        (ValueError, "Symmetries are known of 'CartPole-v1'", lambda: control.symmetry_of("Pendulum-v1")),
        (ValueError, "`place` must be", lambda: control.Symmetry(
            Linear([np.eye(4), -np.eye(4)]), MIRROR).check("CartPole-v1")),
        (ShapeError, "does not fit 'Acrobot-v1'.*axis -1 to be of size 4",
         lambda: control.symmetry_of("CartPole-v1").check("Acrobot-v1")),
        (ShapeError, "does not fit 'Acrobot-v1'.*axis -1 to be of size 2", lambda: control.Symmetry(
            Linear([np.eye(6), -np.eye(6)]), MIRROR, print).check("Acrobot-v1")),
        (ShapeError, "`actions` does not fit the network.*size 2", lambda: control.symmetry_of(
            "CartPole-v1").wrap(sk.models.QNetwork(4, 3))),
        (ShapeError, "`states` does not fit the network.*size 4", lambda: control.symmetry_of(
            "CartPole-v1").wrap(sk.models.QNetwork(5, 2))),
        (ValueError, "`score_units`.*Received: score_units=5", lambda: control.symmetry_of(
            "CartPole-v1").wrap(sk.models.QNetwork(4, 2), "lambda", score_units=5)),
        (ValueError, "num_states=0", lambda: control.symmetry_of("CartPole-v1").check(
            "CartPole-v1", num_states=0)),
        (ShapeError, r"`states`.*one row at least.*shape \(0, 4\)", lambda: control.symmetry_of(
            "CartPole-v1").check("CartPole-v1", np.zeros((0, 4)))),
        (ShapeError, r"`states`.*shape \(4,\)", lambda: control.symmetry_of("CartPole-v1").check(
            "CartPole-v1", np.zeros(4))),
        (ShapeError, r"`states`.*\(states, 4\).*shape \(2, 3\)", lambda: control.symmetry_of(
            "CartPole-v1").check("CartPole-v1", np.zeros((2, 3)))),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(error, message, make):
    with pytest.raises(error, match=message):
        make()
