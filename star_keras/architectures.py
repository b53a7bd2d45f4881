"""Architectures made of parts from several rooms, so that the zoo can save and load them too."""

import keras

from star_keras.augmentation import star_views
from star_keras.exceptions import ConfigError
from star_keras.groups import Linear, Permutation, VocabularyCycle
from star_keras.layers import EquivariantPredictor, RoutedExperts
from star_keras.models import checks, create, dual_encoder, registry
from star_keras.models.equivariant_sequence import OPTIONS as ORBIT_OPTIONS
from star_keras.models.equivariant_sequence import EquivariantSequenceToSequence
from star_keras.models.lambda_equitune import LambdaEquiTune
from star_keras.models.q_network import EquiTuneQNetwork, QNetwork
from star_keras.models.sequence_to_sequence import CELLS
from star_keras.training import STARPretraining

TASKS = ("invariant", "equivariant")
_WIDTH = checks.integer(1, 65_536)
_WIDTHS = checks.sequence(_WIDTH, 0, 16)
_ROW = checks.sequence(checks.number(-1e6, 1e6), 1, 64)
_COLUMNS = checks.optional(checks.sequence(checks.number(-1e9, 1e9), 11, 11))
_PROJECTOR = {
    "units": _WIDTH,
    "num_experts": checks.integer(1, 1024),
    "hidden_units": _WIDTHS,
    "router_units": _WIDTHS,
    "routing": checks.choice("learned", "shared", "separate"),
    "batch_norm": checks.boolean,
    "top_k": checks.optional(checks.integer(1, 1024)),
    "router_temperature": checks.number(1e-6, 1e6),
    "router_noise": checks.number(0, 1e6),
    "expert_dropout": checks.number(0, 1),
}
_PREDICTOR = {
    "hidden_units": _WIDTHS,
    "embedding_units": _WIDTH,
    "residual": checks.boolean,
    "offset": _COLUMNS,
    "scale": _COLUMNS,
}
_NUMBERS = {
    "temperature": checks.number(1e-6, 1e6),
    "equivariance_temperature": checks.number(1e-6, 1e6),
    "invariance_weight": checks.number(0, 1e6),
    "equivariance_weight": checks.number(0, 1e6),
    "passes": checks.choice("separate", "joint"),
    "seed": checks.integer(0, 2**32 - 1),
}
OPTIONS = {
    "backbone": registry.nested_backbone,
    "projector": checks.mapping(_PROJECTOR, required=("units", "num_experts")),
    "predictor": checks.mapping(_PREDICTOR),
    **_NUMBERS,
}


def build_star(backbone, projector, predictor, dtype=None, name=None, **numbers):
    """A `STARPretraining` model with `star_views` and routed experts, from plain data."""
    backbone = dict(backbone)
    backbone = create(backbone.pop("architecture"), dtype=dtype, **backbone)
    features, units, experts = backbone.output_shape[-1], projector["units"], projector["num_experts"]
    predicted = units + predictor.get("embedding_units", 128)
    routers = len(TASKS) if projector.get("routing", "learned") == "learned" and experts > 1 else 0
    checks.bound_weights(
        (experts, (features, *projector.get("hidden_units", ()), units)),
        (routers, (features, *projector.get("router_units", ()), experts)),
        (1, (predicted, *predictor.get("hidden_units", (512, 512)), units)),
    )
    height, width, channels = backbone.input_shape[1:]
    model = STARPretraining(
        backbone,
        star_views(height),
        RoutedExperts(tasks=TASKS, dtype=dtype, **projector),
        EquivariantPredictor(dtype=dtype, **predictor),
        dtype=dtype,
        name=name,
        **numbers,
    )
    model.build((None, height, width, channels))
    return model


def describe_star(model):
    """The configuration with which `build_star` makes the model again, or None for another kind."""
    if not isinstance(model, STARPretraining):
        return None
    views = keras.saving.serialize_keras_object(star_views(model.backbone.input_shape[1]))["config"]
    own = keras.saving.serialize_keras_object(model.augmentation)["config"]
    parts = (model.projector, RoutedExperts), (model.predictor, EquivariantPredictor)
    if not all(type(part) is kind for part, kind in parts):
        return None
    if model.projector.tasks != TASKS or model.projector.experts is not None:
        return None
    if _without_names(own) != _without_names(views):
        return None
    architecture, config = registry.describe(model.backbone)
    return {
        "backbone": {"architecture": architecture, **config},
        "projector": {key: _plain(getattr(model.projector, key)) for key in _PROJECTOR},
        "predictor": {key: _plain(getattr(model.predictor, key)) for key in _PREDICTOR},
        **{key: getattr(model, key) for key in _NUMBERS},
    }


def build_lambda_equitune(backbone, num_classes, hidden_units=(100,), dtype=None, name=None, **head):
    """A `LambdaEquiTune` classifier, from plain data."""
    backbone = dict(backbone)
    backbone = create(backbone.pop("architecture"), dtype=dtype, **backbone)
    checks.bound_weights((1, (backbone.output_shape[-1], *hidden_units, 1)))
    return LambdaEquiTune(backbone, num_classes, hidden_units, name=name, **head)


def describe_lambda_equitune(model):
    """The configuration with which `build_lambda_equitune` makes the model again, or None."""
    if not isinstance(model, LambdaEquiTune):
        return None
    architecture, config = registry.describe(model.backbone)
    return {
        "backbone": {"architecture": architecture, **config},
        "num_classes": model.num_classes,
        "hidden_units": list(model.hidden_units),
        "classifier_activation": model.classifier_activation,
    }


def build_equitune_q_network(network, states, actions, dtype=None, name=None, **options):
    """An `EquiTuneQNetwork`, from plain data."""
    network = dict(network)
    network = create(network.pop("architecture"), dtype=dtype, **network)
    if options.get("weighting") == "lambda":
        features = (network.state_size, *network.hidden_units)[-1]
        checks.bound_weights((1, (features, *options.get("score_units", ()), 1)))
    try:
        return EquiTuneQNetwork(network, Linear(states), Permutation(actions), name=name, **options)
    except ValueError as error:
        raise ConfigError(f"`states` and `actions` must be groups that fit the network: {error}") from None


def describe_equitune_q_network(model):
    """The configuration with which `build_equitune_q_network` makes the model again, or None."""
    if not (isinstance(model, EquiTuneQNetwork) and isinstance(model.network, QNetwork)):
        return None
    if not (type(model.states) is Linear and type(model.actions) is Permutation) or model.states.center:
        return None
    architecture, config = registry.describe(model.network)
    return {
        "network": {"architecture": architecture, **config},
        "states": model.states.matrices,
        "actions": model.actions.permutations,
        "weighting": model.weighting,
        "score_units": list(model.score_units),
    }


def build_equivariant_seq2seq(model, rings, dtype=None, name=None, **options):
    """A built `EquivariantSequenceToSequence` with a `VocabularyCycle`, from plain data."""
    model = dict(model)
    model = create(model.pop("architecture"), dtype=dtype, **model)
    if options.get("weighting") == "lambda":
        checks.bound_weights((1, (model.units, *options.get("hidden_units", ()), 1)))
    try:
        group = VocabularyCycle(rings, model.vocabulary_size)
        equivariant = EquivariantSequenceToSequence(model, group, name=name, **options)
    except ValueError as error:
        raise ConfigError(f"`rings` must exchange words of the model: {error}") from None
    equivariant.build()
    return equivariant


def describe_equivariant_seq2seq(model):
    """The configuration with which `build_equivariant_seq2seq` makes the model again, or None."""
    if not isinstance(model, EquivariantSequenceToSequence) or type(model.group) is not VocabularyCycle:
        return None
    architecture, config = registry.describe(model.model)
    return {
        "model": {"architecture": architecture, **config},
        "rings": model.group.rings,
        **{key: _plain(getattr(model, key)) for key in ORBIT_OPTIONS},
    }


def _nested_in(*architectures):
    """A check for the configuration of a model inside another, of one of a few architectures."""

    def check(key, value):
        config = registry.nested(key, value)
        if config["architecture"] not in architectures:
            raise checks.wrong(
                f"{key}.architecture", f"one of {', '.join(architectures)}", config["architecture"]
            )
        return config

    return check


def _plain(value):
    return list(value) if isinstance(value, tuple) else value


def _without_names(config):
    """A serialised configuration without what two equal objects may differ in."""
    if isinstance(config, dict):
        return {key: _without_names(value) for key, value in config.items() if key not in ("name", "seed")}
    return [_without_names(value) for value in config] if isinstance(config, list | tuple) else config


registry.register(
    "star",
    build_star,
    describe_star,
    OPTIONS,
    required=("backbone", "projector", "predictor"),
    backbone="backbone",
)
registry.register(
    "lambda_equitune",
    build_lambda_equitune,
    describe_lambda_equitune,
    {"backbone": registry.nested_backbone, "hidden_units": _WIDTHS, **registry.HEAD_OPTIONS},
    required=("backbone", "num_classes"),
)
registry.register(
    "dual_encoder",
    dual_encoder.build,
    dual_encoder.describe,
    dual_encoder.OPTIONS,
    required=("backbone", "vocabulary"),
    backbone="backbone",
)
registry.register(
    "equitune_q_network",
    build_equitune_q_network,
    describe_equitune_q_network,
    {
        "network": _nested_in("q_network"),
        "states": checks.sequence(checks.sequence(_ROW, 1, 64), 1, 64),
        "actions": checks.sequence(checks.sequence(checks.integer(0, 65_535), 1, 65_536), 1, 64),
        "weighting": checks.choice("mean", "argmin", "lambda"),
        "score_units": _WIDTHS,
    },
    required=("network", "states", "actions"),
    whole=True,
)
registry.register(
    "equivariant_seq2seq",
    build_equivariant_seq2seq,
    describe_equivariant_seq2seq,
    {
        "model": _nested_in(*(f"{cell}_seq2seq" for cell in CELLS)),
        "rings": checks.sequence(checks.sequence(checks.integer(0, 65_535), 1, 1024), 1, 1024),
        **ORBIT_OPTIONS,
    },
    required=("model", "rings"),
    whole=True,
)
