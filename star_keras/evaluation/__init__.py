"""What a backbone's features are worth: NumPy in, small result objects out."""

from star_keras.evaluation.features import extract_features
from star_keras.evaluation.probe import (
    LinearProbeResult,
    NearestNeighborResult,
    linear_probe,
    nearest_neighbors,
)

__all__ = [
    "LinearProbeResult",
    "NearestNeighborResult",
    "extract_features",
    "linear_probe",
    "nearest_neighbors",
]
