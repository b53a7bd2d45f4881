"""What recipes share: a command line made from their own arguments, measurements, the results file."""

from star_keras.recipes.devices import set_precision, set_strategy
from star_keras.recipes.flags import command_line
from star_keras.recipes.orbit_weights import learn_orbit_weights, orbit_outputs
from star_keras.recipes.pretraining import measure, num_steps, pretrain, pretraining_results
from star_keras.recipes.results import (
    mean_and_deviation,
    results_file,
    spread,
    sweep,
    time_left,
    write_results,
)

__all__ = [
    "command_line",
    "learn_orbit_weights",
    "mean_and_deviation",
    "measure",
    "num_steps",
    "orbit_outputs",
    "pretrain",
    "pretraining_results",
    "results_file",
    "set_precision",
    "set_strategy",
    "spread",
    "sweep",
    "time_left",
    "write_results",
]
