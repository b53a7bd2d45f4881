"""Is the representation good? NumPy in, small result objects out."""

from star_keras.evaluation.probe import ProbeResult, extract_features, linear_probe, nearest_neighbors

__all__ = ["ProbeResult", "extract_features", "linear_probe", "nearest_neighbors"]
