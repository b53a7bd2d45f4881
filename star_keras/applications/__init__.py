"""What `EquiTune` was made for: zero-shot classifiers of images, control, fair text, commands."""

from star_keras.applications import language, zero_shot

__all__ = ["language", "zero_shot"]
