"""A network of action values for deep Q-learning."""

import keras
import numpy as np
from keras import layers

from star_keras.layers.initialization import torch_bias, torch_kernel
from star_keras.models import checks
from star_keras.models.functional import FunctionalModel
from star_keras.models.trainability import trainability

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
            "trainable": trainability(self),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return cls(**{**config, "dtype": keras.saving.deserialize_keras_object(config["dtype"])})


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
