"""The folder of the user's own sets and texts."""

import os
import pathlib

VARIABLE = "STAR_KERAS_DATA"


def folder():
    """The folder that `STAR_KERAS_DATA` names, or None where it names none."""
    name = os.environ.get(VARIABLE)
    return pathlib.Path(name).expanduser() if name else None
