"""The numbers of a report as one short table: each beside its floor and beside the untrained network."""

import math
import typing

import numpy as np

_ACCURACY, _FEATURES, _VIEWS = "Accuracy on frozen features", "Features", "Views"
_REDUNDANCY, _ROUTING = "Redundancy", "Routing"
_EQUIVARIANCE = (
    ("mrr", "Mean reciprocal rank", "number", "higher"),
    ("hits_at_1", "Hits at 1", "percent", "higher"),
    ("hits_at_5", "Hits at 5", "percent", "higher"),
    ("prediction_error", "Prediction error", "number", "lower"),
    ("gain", "Gain over ignoring the view", "number", "higher"),
)


class Row(typing.NamedTuple):
    """One number.

    Attributes:
        group: what rows of one kind have in common, their heading.
        label: what it is.
        value: the number, a mean where there are several seeds; None where it does not apply.
        spread: standard deviation over seeds that draw training images; standard error by the number of
            test images where they all draw the same, or there is one; of few-shot half of the 95 %
            interval; None of other measures.
        spread_of: "seeds", "test images", "episodes" or None.
        floor: what chance, or no knowledge at all, gives; None where there is none.
        untrained: the same of the untrained network, or None.
        unit: "percent" for parts of one, else "number".
        better: "higher", "lower", or "" where neither is.
        samples: what it was measured on, in words.
        seeds: list of integers.
    """

    group: str
    label: str
    value: float | None
    spread: float | None
    spread_of: str | None
    floor: float | None
    untrained: float | None
    unit: str
    better: str
    samples: str
    seeds: list


def rows(measures, untrained, train_images):
    """The table of the measures of a model and of its untrained twin, a list of `Row`.

    Args:
        measures, untrained: `{measure: list of runs}`, as in `Report`.
        train_images: number of training images, which runs draw from.
    """
    found = []
    for name, label in (("linear_probe", "Linear probe"), ("nearest_neighbor", "Nearest neighbour")):
        if name in measures:
            found.append(_accuracy(label, measures[name], untrained.get(name, []), train_images))
    found += [_few_shot(run, _twin(untrained, "few_shot", run, "shots")) for run in _of(measures, "few_shot")]
    for run in _of(measures, "spread"):
        found += _spread(run, _twin(untrained, "spread", run))
    for index, run in enumerate(_of(measures, "equivariance")):
        found += _equivariance(run, _twin(untrained, "equivariance", run, "predictor"))
        if index + 1 == len(measures["equivariance"]):
            found.append(_parameters(run, _twin(untrained, "equivariance", run, "views")))
    for name, label in (("task_correlation", "tasks"), ("expert_correlation", "experts")):
        found += [_correlation(label, run, _twin(untrained, name, run)) for run in _of(measures, name)]
    for run in _of(measures, "routing"):
        found += _routing(run, _twin(untrained, "routing", run))
    return found


def shown(value, unit):
    """A number of a row as text: "71.3 %", "0.482", and a dash for None."""
    if value is None:
        return "–"
    if unit == "percent":
        return f"{100 * value:.1f} %"
    return (f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}").replace("-", "−")


def shown_value(row):
    """The number of a row with its spread, as text."""
    if row.spread is None:
        return shown(row.value, row.unit)
    spread = f"{100 * row.spread:.1f}" if row.unit == "percent" else shown(row.spread, row.unit)
    return f"{shown(row.value, row.unit).removesuffix(' %')} ± {spread}" + " %" * (row.unit == "percent")


def _of(measures, name):
    return measures.get(name, [])


def _twin(untrained, name, run, *keys):
    """The run of the untrained network with the same arguments, or an empty dict."""
    return next((other for other in _of(untrained, name) if all(other[key] == run[key] for key in keys)), {})


def _accuracy(label, runs, untrained, train_images):
    values = [run["accuracy"] for run in runs]
    others = [run["accuracy"] for run in untrained]
    drawn = len(values) > 1 and runs[0]["num_train"] < train_images
    errors = [run["standard_error"] for run in runs]
    return Row(
        group=_ACCURACY,
        label=label,
        value=float(np.mean(values)),
        spread=float(np.std(values, ddof=1) if drawn else np.mean(errors)),
        spread_of="seeds" if drawn else "test images",
        floor=float(np.mean([run["floor"] for run in runs])),
        untrained=float(np.mean(others)) if others else None,
        unit="percent",
        better="higher",
        samples=f"{runs[0]['num_train']:,} training and {runs[0]['num_test']:,} test images",
        seeds=[run["seed"] for run in runs],
    )


def _row(group, label, run, key, twin, floor, unit, better, samples):
    return Row(group, label, run[key], None, None, floor, twin.get(key), unit, better, samples, [run["seed"]])


def _few_shot(run, twin):
    words = f"{run['episodes']:,} episodes from {run['num_images']:,} test images"
    label = f"Few-shot: {run['ways']}-way, {run['shots']}-shot"
    row = _row(_ACCURACY, label, run, "accuracy", twin, run["floor"], "percent", "higher", words)
    return row._replace(spread=run["interval"], spread_of="episodes")


def _spread(run, twin):
    words = f"{run['samples']:,} test images"
    rank = f"Effective rank (at most {run['largest_rank']})"
    return [
        _row(_FEATURES, "Spread (at most 1)", run, "spread", twin, 0.0, "number", "higher", words),
        _row(_FEATURES, rank, run, "effective_rank", twin, 1.0, "number", "higher", words),
    ]


def _equivariance(run, twin):
    words = f"{run['views']} views of {run['images']:,} test images"
    by = {"own": "by its own predictor", "fitted": "by a predictor fitted afterwards"}[run["predictor"]]
    if run["predictor"] == "fitted":
        words += f", fitted to {run['fitted_images']:,} others"
    return [
        _row(f"{_VIEWS}, {by}", label, run, key, twin, run["floors"][key], unit, better, words)
        for key, label, unit, better in _EQUIVARIANCE
    ]


def _parameters(run, twin):
    words = f"{run['views']} views of {run['images']:,} test images"
    words += f", fitted to {run['fitted_images']:,} others"
    group, label = f"{_VIEWS}, read from the features", "R² of the parameters"
    return _row(group, label, run, "r2", twin, run["floors"]["r2"], "number", "higher", words)


def _correlation(label, run, twin):
    words = f"{run['samples']:,} test images"
    label = f"Canonical correlation of the {label}"
    return _row(_REDUNDANCY, label, run, "mean", twin, run["floor"], "number", "lower", words)


def _routing(run, twin):
    words = f"{run['samples']:,} test images"
    found = []
    for task, entropy in run["entropies"].items():
        label = f"Entropy, {task} task (even: {math.log(len(run['gates'][task])):.3f})"
        own, other = {"seed": run["seed"], "entropy": entropy}, {}
        if twin:
            other = {"entropy": twin["entropies"][task]}
        found.append(_row(_ROUTING, label, own, "entropy", other, None, "number", "", words))
    return found
