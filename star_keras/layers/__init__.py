"""Layers: projectors, routed experts, the equivariant predictor, batch normalisation, orbit averages."""

from star_keras.layers.batch_normalization import BatchNormalization
from star_keras.layers.equitune import EquiTune
from star_keras.layers.equivariant_predictor import EquivariantPredictor
from star_keras.layers.projector import Projector
from star_keras.layers.routed_experts import RoutedExperts

__all__ = ["BatchNormalization", "EquiTune", "EquivariantPredictor", "Projector", "RoutedExperts"]
