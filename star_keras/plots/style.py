"""What all pictures share: style, colours, and what they ask of numbers."""

import functools

import numpy as np

from star_keras.optional import needed

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#F0E442")
MARKERS = "osD^vPX*"
INK, _FAINT = "#333333", "#D9D9D9"
_STYLE = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "grid.color": _FAINT,
    "legend.frameon": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "figure.facecolor": "white",
}


def styled(function):
    """Draws in the style of this module and leaves the user's own untouched."""

    @functools.wraps(function)
    def draw(*args, **kwargs):
        with library().rc_context(_STYLE):
            return function(*args, **kwargs)

    return draw


def library():
    """Matplotlib, imported when a picture is asked for.

    Raises:
        ImportError: if it is not installed; names the extra.
    """
    needed("matplotlib.image", "Pictures need Matplotlib", "plots")
    import matplotlib

    return matplotlib


def new_figure(width, height):
    """An empty figure of so many inches that belongs to no window."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def filled(name, mapping):
    """`mapping`, if it is a dict that holds something, else ValueError, which calls it by `name`."""
    if not isinstance(mapping, dict) or not mapping:
        raise ValueError(f"`{name}` must be a filled dict by name. Received: {mapping!r}")
    return mapping


def finite(name, values):
    """`values` as a float64 array, if all are finite, else ValueError, which calls them by `name`."""
    values = np.asarray(values, "float64")
    if not values.size or not np.isfinite(values).all():
        raise ValueError(f"{name!r} must have finite values to be drawn. Received: {values.tolist()}")
    return values
