"""Files of results: many runs in one that goes on, one run in one; how numbers are told."""

import json
import math
import os
import pathlib
import platform
import time

import numpy as np

from star_keras.files import write_text


def sweep(function, runs, path, minutes=None):
    """Calls `function(**run)` for every run that a file of results does not hold yet, and adds the results.

    One line of JSON is one run: its arguments and what the function returned. After each the file is
    written anew, whole or not at all, so the same call goes on where the last one was stopped.

    Args:
        function: takes a run's arguments, returns a dict of plain JSON.
        runs: list of dicts of plain JSON, the arguments of each run.
        path: of the results, a `.jsonl` file.
        minutes: start no further run after as many. Defaults to None: do all.

    Returns:
        The rows of `runs`, in their order, without those that are still to do.

    Example:

    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/squares.jsonl"
    >>> rows = sweep(lambda x: {"square": x * x}, [{"x": 2}, {"x": 3}], path)
    1/2 {'x': 2}: 0 s
    2/2 {'x': 3}: 0 s
    >>> rows[1]
    {'x': 3, 'square': 9}
    """
    path, until = pathlib.Path(path), time.monotonic() + 60 * (math.inf if minutes is None else minutes)
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    for number, run in enumerate(runs, start=1):
        if _row(rows, run) or time.monotonic() > until:
            continue
        began = time.monotonic()
        rows.append({**run, **function(**run)})
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
        print(f"{number}/{len(runs)} {run}: {time.monotonic() - began:.0f} s", flush=True)
    return [row for row in (_row(rows, run) for run in runs) if row]


def results_file(folder, name, smoke=False):
    """`folder/name.jsonl`; runs in the small have a file of their own, lest they be taken for whole ones."""
    return pathlib.Path(folder) / f"{name}{'_smoke' if smoke else ''}.jsonl"


def mean_and_deviation(values, form=".1f", factor=1):
    """What a table says of a value's runs: "mean ± standard deviation", of one run its value, of none a dash.

    Args:
        values: array or list of numbers.
        form: of both numbers, as `format` takes it. Defaults to ".1f".
        factor: of all values, such as 100 for percent. Defaults to 1.

    Example:

    >>> mean_and_deviation([0.81, 0.83], factor=100)
    '82.0 ± 1.4'
    """
    values = factor * np.asarray(values)
    if len(values) < 2:
        return f"{values[0]:{form}}" if len(values) else "–"
    return f"{values.mean():{form}} ± {values.std(ddof=1):{form}}"


def spread(values):
    """What a file of results holds of a value's runs: mean, standard deviation (of one run 0) and each.

    Args:
        values: list of numbers.

    Example:

    >>> spread([0.5, 0.75, 1.0])
    {'mean': 0.75, 'std': 0.25, 'runs': [0.5, 0.75, 1.0]}
    """
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return {"mean": float(np.mean(values)), "std": deviation, "runs": list(values)}


def time_left(minutes):
    """How much is left of a limit that several sweeps share: a function that returns minutes.

    Args:
        minutes: from now on; None for no limit, and then the function returns None.

    Example:

    >>> left = time_left(5)
    >>> 4.9 < left() <= 5
    True
    """
    until = math.inf if minutes is None else time.monotonic() + 60 * minutes
    return lambda: None if minutes is None else (until - time.monotonic()) / 60


def write_results(path, results):
    """Writes a results file, whole or not at all, with what it was measured on, and prints its heart."""
    machine = {"system": platform.system(), "machine": platform.machine(), "cores": os.cpu_count()}
    path = pathlib.Path(path)
    write_text(path, json.dumps({**results, "machine": machine}, indent=1) + "\n")
    for name in [name for name in ("linear_probe", "nearest_neighbor") if name in results]:
        print(f"{name}: {results[name]['mean']:.1%} ± {results[name]['std']:.1%}")
    print(f"All results are in {path}.")


def _row(rows, run):
    return next((row for row in rows if run.items() <= row.items()), None)
