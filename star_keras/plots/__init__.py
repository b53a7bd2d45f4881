"""The pictures of the papers, from what `evaluation` measures; each function returns a Matplotlib figure.

Figures stand alone and belong to no window: save them with `figure.savefig("routing.png", dpi=150)`.
Colours are those of Okabe and Ito, which people with any colour vision can tell apart.
"""

from star_keras.plots.charts import group_errors, methods, over_experts, routing
from star_keras.plots.images import retrieval, views
from star_keras.plots.matrices import correlations
from star_keras.plots.style import COLOURS, library

__all__ = [
    "COLOURS",
    "correlations",
    "group_errors",
    "library",
    "methods",
    "over_experts",
    "retrieval",
    "routing",
    "views",
]
