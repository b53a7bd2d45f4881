"""Tasks to learn: those of gymnasium, and a gridworld."""

from star_keras.exceptions import ShapeError
from star_keras.models.q_network import network_shapes
from star_keras.optional import needed

GRIDWORLD = "star_keras/Gridworld-v0"
_GRIDWORLD_STEPS = 50


def make(environment, **options):
    """A task by its name.

    Args:
        environment: a name that gymnasium knows, such as "CartPole-v1", or `control.GRIDWORLD`; or a function
            without arguments that returns a task.
        **options: of the task, such as `size=5`.

    Returns:
        A `gymnasium.Env`.

    Raises:
        ImportError: if gymnasium (extra `rl`) is not installed.
        ValueError: if actions are not numbered, or states are not a vector of numbers.

    Example:

    >>> environment = make(GRIDWORLD)
    >>> environment.observation_space.shape, environment.action_space.n
    ((4,), np.int64(4))
    """
    gymnasium = _gymnasium()
    if callable(environment):
        made = environment(**options)
    else:
        made = gymnasium.make(environment, disable_env_checker=True, **options)
    if not isinstance(made.action_space, gymnasium.spaces.Discrete) or made.action_space.start != 0:
        raise ValueError(
            "Q-learning chooses among actions 0, 1, ...: `action_space` must be `Discrete` and start at 0. "
            f"Received: {environment!r} with {made.action_space}. Divide "
            "continuous actions into steps by a wrapper first."
        )
    space = made.observation_space
    if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
        raise ValueError(
            "States must be vectors of numbers: `observation_space` must be a `Box` of shape (numbers,). "
            f"Received: {environment!r} with {space}. Flatten them by "
            "`gymnasium.wrappers.FlattenObservation`."
        )
    return made


def check_fits(network, environment):
    """Raises `ShapeError` unless the network maps the states of a task to the values of its actions."""
    shapes = (*environment.observation_space.shape,), (int(environment.action_space.n),)
    found = network_shapes(network, shapes[0])
    for what, wanted, own in zip(("states", "values of actions"), shapes, found, strict=True):
        if own != wanted:
            raise ShapeError(
                f"The network must have {what} of shape {wanted}, as the task has. Received: a network "
                f"with {own}. Make one with `state_size={shapes[0][0]}, num_actions={shapes[1][0]}`."
            )


def _gymnasium():
    """gymnasium, with the gridworld among its tasks.

    Raises:
        ImportError: if it is not installed; names the extra.
    """
    gymnasium = needed("gymnasium", "Control tasks need gymnasium", "rl")
    if GRIDWORLD not in gymnasium.registry:
        gymnasium.register(
            GRIDWORLD,
            entry_point="star_keras.applications.control.gridworld:Gridworld",
            max_episode_steps=_GRIDWORLD_STEPS,
        )
    return gymnasium
