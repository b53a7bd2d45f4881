"""A network of action values that respects a symmetry of the states."""

import keras

from star_keras.exceptions import ConfigError, ShapeError
from star_keras.groups import Linear, Permutation
from star_keras.guards.arguments import check_widths
from star_keras.layers.equitune import EquiTune, score_network
from star_keras.models import checks, registry
from star_keras.models.functional import FunctionalModel
from star_keras.models.q_network import QNetwork, fixed_states, network_shapes
from star_keras.models.trainability import trainability

_ROW = checks.sequence(checks.number(-1e6, 1e6), 1, 64)
OPTIONS = {
    "network": registry.nested_in("q_network"),
    "states": checks.sequence(checks.sequence(_ROW, 1, 64), 1, 64),
    "actions": checks.sequence(checks.sequence(checks.integer(0, 65_535), 1, 65_536), 1, 64),
    "weighting": checks.choice("mean", "argmin", "lambda"),
    "score_units": checks.widths,
}


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
            "trainable": trainability(self),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        parts = {
            key: keras.saving.deserialize_keras_object(config[key], custom_objects=custom_objects)
            for key in ("network", "states", "actions")
        }
        return cls(**{**config, **parts})


def _score(weighting, units):
    if weighting != "lambda":
        return "max_value" if weighting == "argmin" else None
    return score_network(units)


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


def build(network, states, actions, dtype=None, name=None, **options):
    """An `EquiTuneQNetwork` from plain data."""
    network = registry.create_nested(network, dtype=dtype)
    if options.get("weighting") == "lambda":
        features = (network.state_size, *network.hidden_units)[-1]
        checks.bound_weights((1, (features, *options.get("score_units", ()), 1)))
    try:
        return EquiTuneQNetwork(network, Linear(states), Permutation(actions), name=name, **options)
    except ValueError as error:
        raise ConfigError(f"`states` and `actions` must be groups that fit the network: {error}") from None


def describe(model):
    """The configuration with which `build` makes the model again, or None for another kind."""
    if not (isinstance(model, EquiTuneQNetwork) and isinstance(model.network, QNetwork)):
        return None
    if not (type(model.states) is Linear and type(model.actions) is Permutation) or model.states.center:
        return None
    return {
        "network": registry.describe_nested(model.network),
        "states": model.states.matrices,
        "actions": model.actions.permutations,
        "weighting": model.weighting,
        "score_units": list(model.score_units),
    }
