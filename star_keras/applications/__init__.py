"""What `EquiTune` was made for: zero-shot classifiers of images, control, fair text, commands."""
