"""Choosing actions by a network, and what that earns."""

import numpy as np

from star_keras.applications.control.environments import check_fits, make
from star_keras.exceptions import NonFiniteError
from star_keras.guards.arguments import check_count


def evaluate_returns(network, environment, episodes=100, seed=0, max_steps=10_000):
    """The sum of rewards of each of many episodes in which the action of greatest value is taken.

    All episodes run side by side, so the network is called once for a step of all of them.

    Args:
        network: model from states to the values of actions.
        environment: as in `control.make`.
        episodes: how many. Defaults to 100.
        seed: episode `i` begins where the task's seed `seed + i` puts it.
        max_steps: of an episode, which is cut off there if neither it nor a limit of the task has ended
            it. Defaults to 10,000.

    Returns:
        An array of `episodes` numbers.

    Raises:
        ValueError: if `episodes` or `max_steps` is no positive whole number, or as in `control.make`.
        ShapeError: if the network does not fit the task.
        NonFiniteError: if a value is NaN or infinite.

    Example:

    >>> import star_keras as sk
    >>> network = sk.models.create("q_network", state_size=4, num_actions=2)
    >>> evaluate_returns(network, "CartPole-v1", episodes=3).shape
    (3,)
    """
    tasks = [make(environment) for _ in range(check_count("episodes", episodes))]
    check_fits(network, tasks[0])
    states = np.array([task.reset(seed=seed + number)[0] for number, task in enumerate(tasks)], "float32")
    returns, playing = np.zeros(episodes), set(range(episodes))
    for _ in range(check_count("max_steps", max_steps)):
        if not playing:
            break
        actions = best_actions(network, states)
        for number in sorted(playing):
            states[number], reward, terminated, truncated, _ = tasks[number].step(int(actions[number]))
            returns[number] += reward
            if terminated or truncated:
                playing.discard(number)
    return returns


def best_actions(network, states):
    """The action of greatest value for each state, the first of equal ones."""
    values = np.asarray(network.predict_on_batch(states))
    if not np.isfinite(values).all():
        raise NonFiniteError(
            f"Values of actions must be numbers. Received: {values[~np.isfinite(values)][0]} for "
            f"{(~np.isfinite(values)).any(axis=-1).sum()} of {len(values)} states. Training may have "
            "diverged: try a smaller learning rate."
        )
    return values.argmax(axis=-1)
