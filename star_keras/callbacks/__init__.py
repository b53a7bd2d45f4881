"""Callbacks: go on where a run stopped, and look into a model while it trains."""

from star_keras.callbacks.collapse import CollapseMonitor
from star_keras.callbacks.orbit import OrbitMonitor
from star_keras.callbacks.probes import LinearProbe, NearestNeighborProbe
from star_keras.callbacks.resume import Resume
from star_keras.callbacks.routing import RoutingMonitor

__all__ = [
    "CollapseMonitor",
    "LinearProbe",
    "NearestNeighborProbe",
    "OrbitMonitor",
    "Resume",
    "RoutingMonitor",
]
