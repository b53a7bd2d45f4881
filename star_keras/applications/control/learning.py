"""Deep Q-learning."""

import dataclasses

import keras
import numpy as np
from keras import ops

from star_keras import backend
from star_keras.applications.control.environments import check_fits, make
from star_keras.applications.control.playing import best_actions
from star_keras.exceptions import NonFiniteError
from star_keras.guards.arguments import check_count
from star_keras.models import checks
from star_keras.ops import global_mean, regularization

_COUNT, _SHARE = checks.integer(1, 2**31), checks.number(0, 1)
OPTIONS = {
    "learning_rate": checks.number(0, 1e6),
    "batch_size": _COUNT,
    "discount": _SHARE,
    "memory": _COUNT,
    "warmup": checks.integer(0, 2**31),
    "steps_per_epoch": _COUNT,
    "updates_per_epoch": _COUNT,
    "exploration": checks.sequence(_SHARE, 2, 2),
    "exploration_fraction": _SHARE,
    "num_environments": _COUNT,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DQN:
    """Deep Q-learning: acts, remembers, and learns to agree with its own view of the step after.

    Each epoch takes `steps_per_epoch` steps in several copies of the task, exploring at random now and
    then, and then `updates_per_epoch` steps of Adam on remembered transitions, on

        Huber(Q(s, a) - (r + discount * max_b Q'(s', b)))        without the second term where s' is an end

    `Q'` is a copy of the network, made anew at the beginning of each epoch; regularisers of the network are
    added. The gradient of a step is at most 10 long, that of all weights together. The defaults suit
    CartPole: they are those that RL Baselines3 Zoo tuned for it.

    Args:
        learning_rate: of Adam. Defaults to 2.3e-3.
        batch_size: transitions in an update. Defaults to 64.
        discount: of what comes a step later. Defaults to 0.99.
        memory: how many transitions are remembered, the latest. Defaults to 100,000.
        warmup: steps before the first update. Defaults to 1,000.
        steps_per_epoch, updates_per_epoch: default to 256 and 128.
        exploration: how often an action is random: at the beginning, and at the end. Defaults to
            `(1.0, 0.04)`.
        exploration_fraction: part of all steps over which it falls from one to the other. Defaults to 0.16.
        num_environments: copies of the task, which divide the steps of an epoch. Defaults to 8.

    Raises:
        ValueError: if an argument is out of range, or the copies do not divide the steps of an epoch.

    Example:

    >>> import star_keras as sk
    >>> network = sk.models.create("q_network", state_size=4, num_actions=2)
    >>> learner = DQN(warmup=64, updates_per_epoch=8)
    >>> history = learner.train(network, "CartPole-v1", steps=512)
    >>> len(history["loss"])
    2

    Reference: Mnih et al., "Human-level control through deep reinforcement learning" (2015); Raffin et al.,
    "Stable-Baselines3" (2021), whose defaults the network has.
    """

    learning_rate: float = 2.3e-3
    batch_size: int = 64
    discount: float = 0.99
    memory: int = 100_000
    warmup: int = 1_000
    steps_per_epoch: int = 256
    updates_per_epoch: int = 128
    exploration: tuple = (1.0, 0.04)
    exploration_fraction: float = 0.16
    num_environments: int = 8

    def __post_init__(self):
        checks.validate(dataclasses.asdict(self), OPTIONS)
        if self.steps_per_epoch % self.num_environments:
            raise ValueError(
                "`num_environments` must divide `steps_per_epoch`. Received: "
                f"num_environments={self.num_environments}, steps_per_epoch={self.steps_per_epoch}"
            )

    def train(self, network, environment, steps=50_000, seed=0, verbose=0):
        """Trains a network in place.

        Args:
            network: model from states to the values of actions, such as a `models.QNetwork`, or one that
                `Symmetry.wrap` returns. What is not `trainable` stays as it is.
            environment: as in `control.make`.
            steps: of the task, in all copies together; rounded up to whole epochs. Defaults to 50,000.
            seed: of the task, of exploration and of what is remembered; the network has its own.
            verbose: whether to show progress, with an estimate. Defaults to 0.

        Returns:
            A dict of lists, one number an epoch: `loss`, None while warming up, and `return`, the mean of
            the episodes that ended in it, None where none did.

        Raises:
            ValueError: if actions are not numbered, states are not vectors of numbers, or `steps` is not
                positive.
            ShapeError: if the network does not fit the task.
            NonFiniteError: if the loss is no number.
        """
        epochs = -(-check_count("steps", steps) // self.steps_per_epoch)
        players = _Players(environment, self.num_environments, seed)
        check_fits(network, players.tasks[0])
        memory = _Memory(self.memory, players.states.shape[1], seed)
        updates = _Updates(network, self.discount)
        updates.compile(
            keras.optimizers.Adam(self.learning_rate, global_clipnorm=10.0),
            steps_per_execution=backend.steps_per_execution(self.updates_per_epoch),
        )
        history = {"loss": [], "return": []}
        progress = keras.utils.Progbar(epochs, verbose=verbose, stateful_metrics=history, unit_name="epoch")
        for epoch in range(epochs):
            returns = self._collect(network, players, memory, epoch * self.steps_per_epoch, steps)
            loss = self._update(updates, memory)
            history["loss"].append(loss)
            history["return"].append(float(np.mean(returns)) if returns else None)
            known = [(name, values[-1]) for name, values in history.items() if values[-1] is not None]
            progress.update(epoch + 1, known)
        return history

    def _collect(self, network, players, memory, taken, steps):
        """Acts for an epoch; returns what the episodes that ended have earned."""
        returns = []
        for _ in range(self.steps_per_epoch // self.num_environments):
            start, end = self.exploration
            passed = min(1.0, taken / max(1, self.exploration_fraction * steps))
            transitions, ended = players.step(network, start + passed * (end - start))
            memory.add(transitions)
            returns += ended
            taken += self.num_environments
        return returns

    def _update(self, updates, memory):
        if memory.added < self.warmup:
            return None
        updates.renew_target()
        transitions = memory.draw(self.updates_per_epoch * self.batch_size)
        fitted = updates.fit(transitions, batch_size=self.batch_size, shuffle=False, verbose=0)
        loss = float(fitted.history["loss"][0])
        if not np.isfinite(loss):
            raise NonFiniteError(
                f"The loss must be a number. Received: {loss}. Try a smaller `learning_rate` than "
                f"{self.learning_rate}, and look for rewards or states that are NaN."
            )
        return loss


class _Updates(keras.Model):
    """A network beside its copy of an epoch ago, with the loss of Q-learning between them."""

    def __init__(self, network, discount):
        super().__init__(name="deep_q_learning")
        self.network = network
        self.target = type(network).from_config(network.get_config())
        if not self.target.built:
            self.target.build_from_config(network.get_build_config())
        self.target.trainable = False
        self.discount = discount
        self.built = True

    def renew_target(self):
        self.target.set_weights(self.network.get_weights())

    def call(self, transitions, training=None):
        return self.network(transitions["state"], training=training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        penalties = regularization(self)  # asked before the copy is called, which adds its own
        next_values = self.target(x["next_state"], training=False)
        taken = ops.one_hot(x["action"], y_pred.shape[-1], dtype=y_pred.dtype)
        best = ops.stop_gradient(ops.max(next_values, axis=-1))
        expected = x["reward"] + self.discount * (1 - x["end"]) * best
        rows = keras.losses.huber(
            ops.expand_dims(expected, -1), ops.sum(y_pred * taken, axis=-1, keepdims=True)
        )
        return global_mean(rows) + penalties


class _Players:
    """Copies of a task that are played side by side, each begun anew when it ends."""

    def __init__(self, environment, count, seed):
        self.tasks = [make(environment) for _ in range(count)]
        self.states = np.array(
            [task.reset(seed=seed * count + number)[0] for number, task in enumerate(self.tasks)], "float32"
        )
        self.returns = np.zeros(count)
        self.draw = np.random.default_rng(seed)

    def step(self, network, exploration):
        """A step of each copy: the transitions as a dict of rows, and the returns of ended episodes."""
        count, num_actions = len(self.tasks), self.tasks[0].action_space.n
        actions = self.draw.integers(num_actions, size=count)
        greedy = self.draw.random(count) >= exploration
        if greedy.any():
            actions = np.where(greedy, best_actions(network, self.states), actions)
        transitions = {
            "state": self.states.copy(),
            "action": actions,
            "reward": np.zeros(count),
            "next_state": self.states.copy(),
            "end": np.zeros(count),
        }
        ended = []
        for number, task in enumerate(self.tasks):
            state, reward, terminated, truncated, _ = task.step(int(actions[number]))
            transitions["next_state"][number], transitions["reward"][number] = state, reward
            transitions["end"][number] = terminated  # an episode that is cut off would have gone on
            self.returns[number] += reward
            if terminated or truncated:
                ended.append(self.returns[number])
                self.returns[number] = 0
                state, _ = task.reset()
            self.states[number] = state
        return transitions, ended


class _Memory:
    """The latest transitions, from which batches are drawn with replacement."""

    def __init__(self, size, state_size, seed):
        shapes = {"state": (state_size,), "action": (), "reward": (), "next_state": (state_size,), "end": ()}
        self.rows = {
            key: np.zeros((size, *shape), "int32" if key == "action" else "float32")
            for key, shape in shapes.items()
        }
        self.size, self.added = size, 0
        self.random = np.random.default_rng((seed, 1))

    def add(self, transitions):
        places = (self.added + np.arange(len(transitions["action"]))) % self.size
        for key, values in transitions.items():
            self.rows[key][places] = values
        self.added += len(places)

    def draw(self, count):
        chosen = self.random.integers(min(self.added, self.size), size=count)
        return {key: values[chosen] for key, values in self.rows.items()}
