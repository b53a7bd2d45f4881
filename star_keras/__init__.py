"""A Keras 3 model zoo: STAR pretraining, lambda-equitune, and mixtures of experts that do not collapse.

>>> import star_keras as sk
>>> backbone = sk.models.create("resnet20", input_shape=(32, 32, 3))
>>> backbone.output_shape
(None, 64)
"""

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
