"""The architecture made of parts from several rooms, so that the zoo can save and load it too."""

import keras

from star_keras.augmentation import star_views
from star_keras.layers import EquivariantPredictor, RoutedExperts
from star_keras.models import checks, registry
from star_keras.training import STARPretraining

TASKS = ("invariant", "equivariant")
_WIDTH = checks.integer(1, 65_536)
_COLUMNS = checks.optional(checks.sequence(checks.number(-1e9, 1e9), 11, 11))
_PROJECTOR = {
    "units": _WIDTH,
    "num_experts": checks.integer(1, 1024),
    "hidden_units": checks.widths,
    "router_units": checks.widths,
    "routing": checks.choice("learned", "shared", "separate"),
    "batch_norm": checks.boolean,
    "top_k": checks.optional(checks.integer(1, 1024)),
    "router_temperature": checks.number(1e-6, 1e6),
    "router_noise": checks.number(0, 1e6),
    "expert_dropout": checks.number(0, 1),
}
_PREDICTOR = {
    "hidden_units": checks.widths,
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


def build(backbone, projector, predictor, dtype=None, name=None, **numbers):
    """A `STARPretraining` model with `star_views` and routed experts, from plain data."""
    backbone = registry.create_nested(backbone, dtype=dtype)
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


def describe(model):
    """The configuration with which `build` makes the model again, or None for another kind."""
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
    return {
        "backbone": registry.describe_nested(model.backbone),
        "projector": {key: checks.plain(getattr(model.projector, key)) for key in _PROJECTOR},
        "predictor": {key: checks.plain(getattr(model.predictor, key)) for key in _PREDICTOR},
        **{key: getattr(model, key) for key in _NUMBERS},
    }


def _without_names(config):
    """A serialised configuration without what two equal objects may differ in."""
    if isinstance(config, dict):
        return {key: _without_names(value) for key, value in config.items() if key not in ("name", "seed")}
    return [_without_names(value) for value in config] if isinstance(config, list | tuple) else config


registry.register(
    "star",
    build,
    describe,
    OPTIONS,
    required=("backbone", "projector", "predictor"),
    backbone="backbone",
)
