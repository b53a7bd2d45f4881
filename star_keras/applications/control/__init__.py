"""Deep Q-learning in tasks with a symmetry: tasks, what their symmetries do, training, and returns.

A network of action values, trained or not, is made equivariant by `Symmetry.wrap`; `Symmetry.check` asks the
task's own `step` whether it has the symmetry. Tasks are those of gymnasium (extra `rl`).
"""

from star_keras.applications.control.environments import GRIDWORLD, make
from star_keras.applications.control.learning import DQN
from star_keras.applications.control.playing import evaluate_returns
from star_keras.applications.control.symmetries import Symmetry, symmetry_of

__all__ = ["DQN", "GRIDWORLD", "Symmetry", "evaluate_returns", "make", "symmetry_of"]
