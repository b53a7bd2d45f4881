"""A Keras 3 model zoo: STAR pretraining, lambda-equitune, and mixtures of experts that do not collapse.

>>> import star_keras as sk
>>> backbone = sk.models.create("resnet20", input_shape=(32, 32, 3))
>>> backbone.output_shape
(None, 64)
"""

try:
    import keras as _keras  # noqa: F401
except ModuleNotFoundError as error:
    if error.name not in ("tensorflow", "jax", "torch"):
        raise
    raise ModuleNotFoundError(
        "Keras needs its backend: that which KERAS_BACKEND names, or its configuration file, or tensorflow. "
        f"Received: {error.name} is not installed; pip install 'star-keras[{error.name}]', or another of the "
        "extras tensorflow, jax and torch, and set KERAS_BACKEND to its name.",
        name=error.name,
    ) from error

from star_keras import (
    applications,
    architectures,
    augmentation,
    callbacks,
    data,
    evaluation,
    exceptions,
    groups,
    layers,
    losses,
    metrics,
    models,
    plots,
    recipes,
    training,
)
from star_keras.version import __version__

__all__ = [
    "__version__",
    "applications",
    "architectures",
    "augmentation",
    "callbacks",
    "data",
    "evaluation",
    "exceptions",
    "groups",
    "layers",
    "losses",
    "metrics",
    "models",
    "plots",
    "recipes",
    "training",
]
