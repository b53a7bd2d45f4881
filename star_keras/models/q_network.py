"""Networks of action values for deep Q-learning: a plain one, and one that respects a symmetry."""

import keras
import numpy as np
from keras import layers

from star_keras.exceptions import ShapeError
from star_keras.guards.arguments import check_widths
from star_keras.layers.equitune import EquiTune
from star_keras.layers.initialization import torch_bias, torch_kernel
from star_keras.models import checks
from star_keras.models.functional import FunctionalModel

OPTIONS = {
    "state_size": checks.integer(1, 65_536),
    "num_actions": checks.integer(1, 65_536),
    "hidden_units": checks.sequence(checks.integer(1, 4096), 0, 8),
}


@keras.saving.register_keras_serializable(package="star_keras")
class QNetwork(FunctionalModel):
    """The value of each action in a state, by a dense network: `values[a] = Q(state, a)`.

    The shape is the one that Stable-Baselines3 gives to deep Q-learning by default: two hidden layers of 64
    ReLU. The values are float32 whatever the policy.

    Args:
        state_size: numbers in a state.
        num_actions: number of actions.
        hidden_units: widths of the hidden layers. Defaults to `(64, 64)`.
        dtype: a dtype or dtype policy of the hidden layers. Defaults to the global one.
        name, trainable: as for any model.

    Input shape: `(batch, state_size)`. Output shape: `(batch, num_actions)`, float32.

    Raises:
        ConfigError: if a size is no positive integer, or all come to more than 2**28 weights.

    Example:

    >>> QNetwork(state_size=4, num_actions=2).output_shape
    (None, 2)

    Reference: Mnih et al., "Human-level control through deep reinforcement learning" (2015); Raffin et al.,
    "Stable-Baselines3" (2021).
    """

    def __init__(self, state_size, num_actions, hidden_units=(64, 64), dtype=None, name=None, trainable=True):
        sizes = {"state_size": state_size, "num_actions": num_actions, "hidden_units": hidden_units}
        sizes = checks.validate(sizes, OPTIONS)
        checks.bound_weights((1, (sizes["state_size"], *sizes["hidden_units"], sizes["num_actions"])))
        states = keras.Input((sizes["state_size"],), dtype="float32", name="states")
        hidden, width = states, sizes["state_size"]
        for number, units in enumerate(sizes["hidden_units"], start=1):
            hidden = _dense(units, width, "relu", dtype, f"hidden_{number}")(hidden)
            width = units
        values = _dense(sizes["num_actions"], width, None, "float32", "values")(hidden)
        super().__init__(inputs=states, outputs=values, name=name, trainable=trainable)
        self.dtype_policy = checks.float_policy(dtype)
        self.state_size, self.num_actions = sizes["state_size"], sizes["num_actions"]
        self.hidden_units = tuple(sizes["hidden_units"])

    def fixed_inputs(self, count):
        """States that are the same everywhere, by which a saved model is verified."""
        return fixed_states(count, self.state_size)

    def get_config(self):
        return {
            **describe(self),
            "dtype": keras.saving.serialize_keras_object(self.dtype_policy),
            "name": self.name,
            "trainable": self.trainability(),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return cls(**{**config, "dtype": keras.saving.deserialize_keras_object(config["dtype"])})


@keras.saving.register_keras_serializable(package="star_keras")
class EquiTuneQNetwork(FunctionalModel):
    """A Q-network made equivariant: what it knows of a state it knows of all states symmetric to it.

    With `Q` the network, `g` the elements of the group and `g a` the action that stands to `g s` as `a`
    stands to `s`,

        values(s)[a] = sum_g w_g(s) Q(g s)[g a]

    | `weighting` | `w_g` | known as |
    |---|---|---|
    | "mean" | 1 / order | equitune |
    | "argmin" | 1 for the g of greatest `max_a Q(g s)[a]`, else 0 | equizero |
    | "lambda" | softmax over g of a learned score of the last hidden layer | λ-equitune |

    The score of another network than a `QNetwork` is one of its values.

    Args:
        network: a `QNetwork`, or any model from a state to the values of actions.
        states: group that moves states, along the last axis.
        actions: group with the same composition table that moves the values, a `groups.Permutation`.
        weighting: "mean" (default), "argmin" or "lambda".
        score_units: widths of the hidden layers of the score of "lambda". Defaults to `(64,)`.
        name, trainable: as for any model.

    Attributes:
        equitune: the `EquiTune` inside. `equitune.model` is the network, `equitune.score` what ranks the
            members of an orbit, and `equitune.orbit_weights(states)` their weights.

    Input shape: that of the network. Output shape: that of the network, float32.

    Raises:
        ValueError: if the groups do not have the same composition table, or `score_units` are no widths.
        ShapeError: if they do not fit the states or the number of actions.

    Example: a cart with a pole looks the same in a mirror, where left is right.

    >>> import numpy as np, star_keras as sk
    >>> mirror = sk.groups.Linear([np.eye(4), -np.eye(4)]), sk.groups.Permutation([[0, 1], [1, 0]])
    >>> model = EquiTuneQNetwork(QNetwork(state_size=4, num_actions=2), *mirror)
    >>> state = np.array([[0.1, -0.2, 0.03, 0.4]], "float32")
    >>> bool(np.allclose(model(-state), np.array(model(state))[:, ::-1], atol=1e-6))
    True

    Reference: Basu et al., "Efficient Equivariant Transfer Learning from Pretrained Models" (NeurIPS 2023),
    arXiv:2305.09900, sections 3 and 5.
    """

    def __init__(
        self, network, states, actions, weighting="mean", score_units=(64,), name=None, trainable=True
    ):
        score_units = check_widths("score_units", score_units)
        shapes = network_shapes(network, (states.sizes.get(-1),))
        _check_shapes(*shapes, states, actions)
        equitune = EquiTune(
            network,
            states,
            output_group=actions,
            weighting=weighting,
            score=_score(weighting, score_units),
            features=_hidden_layer(network) if weighting == "lambda" else None,
            max_orbit_batch=None,
            dtype="float32",
            name="equitune",
        )
        inputs = keras.Input(shapes[0], dtype="float32", name="states")
        super().__init__(inputs=inputs, outputs=equitune(inputs), name=name, trainable=trainable)
        self.dtype_policy = network.dtype_policy
        self.equitune = equitune
        self.network = network
        self.states, self.actions = states, actions
        self.weighting = weighting
        self.score_units = score_units

    def fixed_inputs(self, count):
        """States that are the same everywhere, by which a saved model is verified."""
        return fixed_states(count, self.input_shape[1])

    def get_config(self):
        parts = ("network", "states", "actions")
        return {
            **{key: keras.saving.serialize_keras_object(getattr(self, key)) for key in parts},
            "weighting": self.weighting,
            "score_units": self.score_units,
            "name": self.name,
            "trainable": self.trainability(),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        parts = {
            key: keras.saving.deserialize_keras_object(config[key], custom_objects=custom_objects)
            for key in ("network", "states", "actions")
        }
        return cls(**{**config, **parts})


def describe(model):
    """The configuration of a `QNetwork`, or None for another model."""
    if not isinstance(model, QNetwork):
        return None
    sizes = {"state_size": model.state_size, "num_actions": model.num_actions}
    return {**sizes, "hidden_units": list(model.hidden_units)}


def fixed_states(count, size):
    """As many states of so many numbers, the same everywhere."""
    return np.random.default_rng(0).normal(size=(count, size)).astype("float32")


def network_shapes(network, state_shape):
    """The shapes of a state and of its values, without the batch.

    Args:
        network: model from states to values.
        state_shape: of a state. A model that does not tell its shapes is called with one of zeros.
    """
    if getattr(network, "input_shape", None) is not None:
        return tuple(network.input_shape[1:]), tuple(network.output_shape[1:])
    return tuple(state_shape), tuple(network(np.zeros((1, *state_shape), "float32")).shape[1:])


def _dense(units, fan_in, activation, dtype, name):
    return layers.Dense(
        units,
        activation,
        kernel_initializer=torch_kernel(),
        bias_initializer=torch_bias(fan_in),
        dtype=dtype,
        name=name,
    )


def _score(weighting, units):
    if weighting != "lambda":
        return "max_value" if weighting == "argmin" else None
    hidden = [layers.Dense(width, "relu", dtype="float32") for width in units]
    return keras.Sequential([*hidden, layers.Dense(1, dtype="float32")], name="score")


def _hidden_layer(network):
    """Name of what the values of a `QNetwork` are made of; None for another network."""
    return network.layers[-2].name if isinstance(network, QNetwork) else None


def _check_shapes(state, values, states, actions):
    if len(state) != 1 or len(values) != 1:
        raise ShapeError(
            "`network` must map states (batch, numbers) to values (batch, actions). Received: a model from "
            f"{(None, *state)} to {(None, *values)}"
        )
    for name, group, shape in (("states", states, state), ("actions", actions, values)):
        try:
            group.check_shape(shape)
        except ShapeError as error:
            raise ShapeError(f"`{name}` does not fit the network. {error}") from None
