"""What `EquiTune` was made for: zero-shot classifiers of images, control, fair text, commands."""

from star_keras.applications import control, language, zero_shot

__all__ = ["control", "language", "zero_shot"]
