"""What symmetries of control tasks do to states and actions, and whether a task has them."""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np

from star_keras.applications.control.environments import GRIDWORLD, make
from star_keras.exceptions import ShapeError
from star_keras.groups import Group, Linear, Permutation
from star_keras.guards.arguments import check_count
from star_keras.models import EquiTuneQNetwork

TOLERANCE = 1e-5


@dataclasses.dataclass(frozen=True)
class Symmetry:
    """A symmetry of a control task: after `g s`, `g a` does what `a` does after `s`.

        step(g s, g a) = g step(s, a)        with the same reward and the same end

    Where episodes begin, and where they are cut off, may lack the symmetry.

    Args:
        states: group that moves states, along the last axis.
        actions: `groups.Permutation` with the same composition table: what stands at `a` stands at `g a`.
        place: function `(task, state)` that puts an unwrapped task into what is observed as this state;
            needed by `check` alone.

    Raises:
        ValueError: if the composition tables differ.

    Example:

    >>> symmetry = symmetry_of("CartPole-v1")
    >>> symmetry.check("CartPole-v1")  # raises unless the task has it
    >>> np.array(symmetry.states.act(1, np.array([0.5, 0.0, -0.25, 1.0], "float32")))
    array([-0.5 ,  0.  ,  0.25, -1.  ], dtype=float32)

    Reference: van der Pol et al., "MDP Homomorphic Networks" (NeurIPS 2020); Basu et al., "Efficient
    Equivariant Transfer Learning from Pretrained Models" (NeurIPS 2023), section 5.1.
    """

    states: Group
    actions: Permutation
    place: Callable | None = None

    def __post_init__(self):
        if not isinstance(self.actions, Permutation) or not isinstance(self.states, Group):
            raise ValueError(
                "`states` must be a group, and `actions` a `groups.Permutation`. Received: "
                f"states={self.states!r}, actions={self.actions!r}"
            )
        if not np.array_equal(self.states.table, self.actions.table):
            raise ValueError(
                "`states` and `actions` must have the same composition table: element g of one goes with "
                f"element g of the other. Received: {self.states!r} and {self.actions!r}"
            )

    def wrap(self, network, weighting="mean", **options):
        """A Q-network that respects the symmetry, around one that need not.

        Args:
            network: a `QNetwork`, or any model from states to the values of actions. It is not copied:
                training the wrapped one trains it.
            weighting: "mean" (equitune), "argmin" (equizero) or "lambda" (λ-equitune).
            **options: of `models.EquiTuneQNetwork`.

        Returns:
            A `models.EquiTuneQNetwork`.

        Raises:
            ShapeError: if the symmetry does not fit the states or the number of actions of the network.
        """
        return EquiTuneQNetwork(network, self.states, self.actions, weighting, **options)

    def check(self, environment, states=None, num_states=100, seed=0):
        """Asks a task whether it has the symmetry, by its own `step`, with all wrappers around it.

        From each state each action is taken, and each element's image of it from the image of the state,
        right after a reset. It is a check of so many states, not a proof; the task must not draw random
        numbers in `step`.

        Args:
            environment: as in `control.make`.
            states: array `(states, numbers)` to begin from. Defaults to None: those that random actions lead
                to.
            num_states: how many of these. Defaults to 100.
            seed: of them. Defaults to 0.

        Raises:
            ValueError: if the task does not have the symmetry; names element, state, action and what differs.
                If the symmetry has no `place`, or `num_states` is no positive whole number.
            ShapeError: if the symmetry does not fit the states or the number of actions of the task, or
                `states` is no array `(states, numbers)` of one state at least.
        """
        if self.place is None:
            raise ValueError(
                "A check puts the task into states of its choice: `place` must be a function (task, state). "
                "Received: place=None"
            )
        task = make(environment)
        count = int(task.action_space.n)
        for group, shape in ((self.states, task.observation_space.shape), (self.actions, (count,))):
            try:
                group.check_shape(shape)
            except ShapeError as error:
                raise ShapeError(f"The symmetry does not fit {environment!r}. {error}") from None
        if states is None:
            states = visited_states(task, check_count("num_states", num_states), seed)
        states = _checked_states(states, task.observation_space.shape)
        images = keras.ops.convert_to_numpy(self.states.orbit(states))
        for action in range(count):
            found = self._outcomes(task, images, action)
            self._compare(environment, states, action, *found)

    def _outcomes(self, task, images, action):
        """States after a step from every image, rewards and ends: arrays `(order, states, ...)`."""
        after, rewards, ends = np.empty_like(images), np.empty(images.shape[:2]), np.empty(images.shape[:2])
        for element, row in np.ndindex(*images.shape[:2]):
            task.reset(seed=0)
            self.place(task.unwrapped, images[element, row])
            moved = int(self.actions.rows[element][action])
            after[element, row], rewards[element, row], ends[element, row], *_ = task.step(moved)
        return after, rewards, ends

    def _compare(self, environment, states, action, after, rewards, ends):
        expected = keras.ops.convert_to_numpy(self.states.orbit(after[0]))
        scale = 1 + np.abs(expected)
        broken = {
            "the state": ~(np.abs(after - expected) <= TOLERANCE * scale).all(axis=-1),
            "the reward": ~(np.abs(rewards - rewards[:1]) <= TOLERANCE),
            "the end": ends != ends[:1],
        }
        values = {"the state": (after, expected), "the reward": (rewards, rewards[:1] + 0 * rewards)}
        values["the end"] = ends, ends[:1] + 0 * ends
        for what, wrong in broken.items():
            for element, row in np.argwhere(wrong):
                found, wanted = (value[element, row].tolist() for value in values[what])
                raise ValueError(
                    f"{environment!r} does not have the symmetry: after element {element} of "
                    f"{self.states!r}, {what} must follow. Received: {found}, not {wanted}, from state "
                    f"{states[row].tolist()} by action {action}, which becomes action "
                    f"{self.actions.rows[element][action]}"
                )


def _checked_states(states, shape):
    """States as a float32 array, or an error that says what is wrong with them."""
    states = np.asarray(states, "float32")
    if states.shape[1:] != shape or not len(states):
        raise ShapeError(
            f"`states` must be an array (states, {shape[0]}) of one row at least. Received: shape "
            f"{states.shape}"
        )
    return states


def visited_states(task, count, seed=0):
    """States that random actions lead to, an array `(count, numbers)`."""
    draw = np.random.default_rng(seed)
    state, _ = task.reset(seed=seed)
    states = []
    for _ in range(count):
        states.append(state)
        state, _, terminated, truncated, _ = task.step(int(draw.integers(task.action_space.n)))
        if terminated or truncated:
            state, _ = task.reset()
    return np.array(states)


def symmetry_of(environment):
    """The symmetry of a known task.

    | task | elements | states | actions |
    |---|---|---|---|
    | "CartPole-v1" | mirror | change sign | left and right change places |
    | "Acrobot-v1" | mirror | sines and speeds change sign | the torque changes sign |
    | `control.GRIDWORLD` | quarter turns | agent and goal turn | the moves advance by one |
    | "MountainCar-v0" | mirror in the valley | position around -π/6, speed | the force changes sign |

    The last one holds only approximately: the hills are alike, but the goal is on one of them alone, so
    `check` refuses it, and a network made equivariant by it would look for a goal on both.

    Args:
        environment: name of the task.

    Returns:
        A `Symmetry`.

    Raises:
        ValueError: if the task is not one of these.

    Example:

    >>> symmetry_of("Acrobot-v1").actions.rows.tolist()
    [[0, 1, 2], [2, 1, 0]]
    """
    if environment not in _KNOWN:
        raise ValueError(
            f"Symmetries are known of {', '.join(map(repr, _KNOWN))}. Received: {environment!r}. Describe "
            "that of another task by `control.Symmetry`, and `check` it."
        )
    return _KNOWN[environment]()


def _cart_pole():
    return Symmetry(Linear([np.eye(4), -np.eye(4)]), Permutation([[0, 1], [1, 0]]), _place_cart_pole)


def _acrobot():
    mirror = np.diag([1, -1, 1, -1, -1, -1])  # cosines and sines of two angles, two speeds
    return Symmetry(Linear([np.eye(6), mirror]), Permutation([[0, 1, 2], [2, 1, 0]]), _place_acrobot)


def _gridworld():
    turn = np.kron(np.eye(2), [[0, -1], [1, 0]])  # of agent and goal
    turns = [np.linalg.matrix_power(turn, k) for k in range(4)]
    moves = [np.roll(np.arange(4), -k) for k in range(4)]
    return Symmetry(Linear(turns), Permutation(moves), lambda task, state: task.place(state))


def _mountain_car():
    mirror = Linear([np.eye(2), -np.eye(2)], center=[-np.pi / 6, 0])
    return Symmetry(mirror, Permutation([[0, 1, 2], [2, 1, 0]]), _place_mountain_car)


def _place_cart_pole(task, state):
    task.state = np.asarray(state, "float64")
    task.steps_beyond_terminated = None


def _place_acrobot(task, state):
    cosines, sines, speeds = state[0:4:2], state[1:4:2], state[4:]
    task.state = np.array([*np.arctan2(sines, cosines), *speeds], "float64")


def _place_mountain_car(task, state):
    task.state = tuple(float(number) for number in state)


_KNOWN = {
    "CartPole-v1": _cart_pole,
    "Acrobot-v1": _acrobot,
    GRIDWORLD: _gridworld,
    "MountainCar-v0": _mountain_car,
}
