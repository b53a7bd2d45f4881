"""What `EquiTune` was made for: zero-shot classifiers of images, control, fair text, commands."""

from star_keras.applications import control, language, scan, zero_shot

__all__ = ["control", "language", "scan", "zero_shot"]
