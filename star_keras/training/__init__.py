"""Models that train: `compile` and `fit` as for any Keras model."""

from star_keras.training.soft_nearest_neighbor import SoftNearestNeighborRegularization
from star_keras.training.star import STARPretraining

__all__ = ["STARPretraining", "SoftNearestNeighborRegularization"]
