"""Tasks whose own step has their symmetry, and networks that fit them."""

import numpy as np
import pytest

import star_keras as sk
from star_keras.applications import control

RNG = np.random.default_rng(0)
EXACT = ("CartPole-v1", "Acrobot-v1", control.GRIDWORLD)
each_task = pytest.mark.parametrize("task", EXACT)


def q_network(task="CartPole-v1", **options):
    made = control.make(task)
    sizes = {"state_size": made.observation_space.shape[0], "num_actions": int(made.action_space.n)}
    return sk.models.create("q_network", **sizes, **options)
