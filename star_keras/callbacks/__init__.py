"""Callbacks: go on where a run stopped, and look into a model while it trains."""

from star_keras.callbacks.probes import LinearProbe, NearestNeighborProbe
from star_keras.callbacks.resume import Resume

__all__ = ["LinearProbe", "NearestNeighborProbe", "Resume"]
