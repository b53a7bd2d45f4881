"""What `EquiTune` was made for: zero-shot classifiers of images, control, fair text, commands."""

from star_keras.applications import scan

__all__ = ["scan"]
