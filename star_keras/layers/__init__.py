"""Layers: projectors, routed experts, the equivariant predictor, orbit averages, fast standard layers."""

from star_keras.layers.batch_normalization import BatchNormalization
from star_keras.layers.convolution import Conv2D
from star_keras.layers.equitune import EquiTune
from star_keras.layers.equivariant_predictor import EquivariantPredictor
from star_keras.layers.projector import Projector
from star_keras.layers.routed_experts import RoutedExperts

__all__ = ["BatchNormalization", "Conv2D", "EquiTune", "EquivariantPredictor", "Projector", "RoutedExperts"]
