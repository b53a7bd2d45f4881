"""Bars, boxes and curves: who works for which task, runs of methods, errors by angle, numbers of experts."""

import numpy as np

from star_keras.plots.style import COLOURS, INK, MARKERS, filled, finite, new_figure, styled


@styled
def routing(report):
    """Mean gates of every expert as bars, and how evenly tasks share it as a line.

    Args:
        report: a `RoutingReport`; its order is that of the bars.

    Returns:
        A `matplotlib.figure.Figure`.

    Example:

    >>> from star_keras import evaluation, layers
    >>> experts = layers.RoutedExperts(4, 3, tasks=("invariant", "equivariant"), routing="shared")
    >>> figure = routing(evaluation.routing_report(experts, np.ones((2, 5))))
    >>> [label.get_text() for label in figure.axes[0].get_xticklabels()]
    ['0', '2', '1']
    """
    order, tasks = list(report.order), list(report.gates)
    figure = new_figure(max(5.0, 2.5 + 0.55 * len(order)), 3.6)
    axes = figure.subplots()
    places, width = np.arange(len(order)), 0.8 / len(tasks)
    for index, task in enumerate(tasks):
        offset = (index - (len(tasks) - 1) / 2) * width
        heights = np.asarray(report.gates[task])[order]
        axes.bar(places + offset, heights, width, color=COLOURS[index], label=f"{task} task")
    axes.set_xticks(places, [str(expert) for expert in order])
    axes.set(xlabel="expert, ordered by role", ylabel=f"mean gate over {report.samples:,} images")
    right = axes.twinx()
    right.spines["right"].set_visible(True)
    right.plot(places, np.asarray(report.ratios)[order], color="black", marker="o", label="min / max")
    right.set(ylim=(0, 1.05), ylabel="min / max of an expert's gates\n(1: shared, 0: one task's own)")
    handles = [*axes.get_legend_handles_labels()[0], *right.get_legend_handles_labels()[0]]
    figure.legend(handles=handles, loc="outside upper left", ncols=len(handles))
    return figure


@styled
def methods(panels):
    """Box plots of several methods, one panel a measure, with a point for every run.

    Args:
        panels: `{measure: {method: values of its runs}}`, such as accuracy and routing entropy; the methods
            keep their order and colour over the panels.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: if a method has no finite value.

    Example:

    >>> accuracy = {"one": [71.2, 70.8], "two": [73.0, 72.1]}
    >>> figure = methods({"accuracy, %": accuracy, "entropy": {"two": [0.4, 0.5]}})
    >>> [axes.get_xlabel() for axes in figure.axes]
    ['accuracy, %', 'entropy']
    """
    filled("panels", panels)
    names = list(dict.fromkeys(name for measured in panels.values() for name in measured))
    figure = new_figure(1.0 + 3.4 * len(panels), 1.2 + 0.5 * len(names))
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (measure, measured) in zip(grid, panels.items(), strict=True):
        for place, name in enumerate(names):
            if name in measured:
                _box(
                    axes,
                    place,
                    finite(f"{measure} of {name}", measured[name]),
                    COLOURS[place % len(COLOURS)],
                )
        axes.set_xlabel(measure)
        axes.grid(axis="x")
        axes.set_axisbelow(True)
    grid[0].set_yticks(range(len(names)), names)
    grid[0].set_ylim(len(names) - 0.5, -0.5)
    runs = sorted({len(np.ravel(values)) for measured in panels.values() for values in measured.values()})
    number = str(runs[0]) if len(runs) == 1 else f"{runs[0]} to {runs[-1]}"
    figure.supxlabel(f"points: {number} runs a method; box: quartiles; line: median", fontsize=9)
    return figure


@styled
def group_errors(errors, label="error"):
    """A measure for every element of a cyclic group, at its angle.

    Args:
        errors: `{method: (order,) values}`; element g of n stands at the angle `360 g / n`.
        label: what is measured. Defaults to "error".

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: if a value is not finite or negative.

    Example:

    >>> figure = group_errors({"alone": [0.1, 0.9, 0.5, 0.9], "wrapped": [0.1, 0.1, 0.1, 0.1]})
    >>> [round(float(np.degrees(angle))) for angle in figure.axes[0].lines[0].get_xdata()]
    [0, 90, 180, 270, 360]
    """
    figure = new_figure(5.4, 5.0)
    axes = figure.subplots(subplot_kw={"projection": "polar"})
    axes.set(theta_zero_location="N", theta_direction=-1)
    axes.grid(True)
    largest = 0.0
    for index, (method, values) in enumerate(filled("errors", errors).items()):
        values = finite(method, values)
        if values.min() < 0:
            raise ValueError(
                f"Values on a polar axis must not be negative. Received: {values.min()} of {method!r}"
            )
        angles = 2 * np.pi * np.arange(len(values) + 1) / len(values)
        axes.plot(
            angles, [*values, values[0]], label=method, clip_on=False,
            color=COLOURS[index % len(COLOURS)], marker=MARKERS[index % len(MARKERS)],
        )  # fmt: skip
        largest = max(largest, values.max())
    axes.set_ylim(0, 1.05 * largest or 1.0)
    axes.set_rlabel_position(180 / max(map(len, errors.values())))
    for tick in axes.get_yticklabels():
        tick.set_bbox({"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1})
        tick.set_zorder(5)
    axes.set_title(f"{label} (from the centre) by angle of rotation", loc="center", pad=14)
    figure.legend(loc="outside lower center", ncols=min(len(errors), 3))
    return figure


@styled
def over_experts(panels, numbers, marks=None):
    """Curves over the number of experts: mean of the runs, and a band from the lowest to the highest.

    Args:
        panels: `{measure: {method: (len(numbers), runs) values}}`, or `(len(numbers),)` for one run.
        numbers: of experts.
        marks: `{measure: {name: value}}` of horizontal lines, such as a floor or another method. Defaults
            to None.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: if there is another number of rows than of `numbers`, or a value is not finite.

    Example:

    >>> runs = [[0.41, 0.43], [0.46, 0.47]]
    >>> figure = over_experts({"accuracy": {"STAR": runs}}, [2, 4], marks={"accuracy": {"SimCLR": 0.4}})
    >>> figure.axes[0].lines[0].get_ydata().round(3).tolist()
    [0.42, 0.465]
    """
    filled("panels", panels)
    figure = new_figure(4.0 * len(panels) + 0.4, 3.8)
    for axes, (measure, measured) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        for index, (method, values) in enumerate(filled(measure, measured).items()):
            _curve(axes, method, numbers, finite(method, values), index)
        curves = np.array([line.get_ydata() for line in axes.lines])
        for name, value in ((marks or {}).get(measure) or {}).items():
            _mark(axes, name, value, curves)
        axes.set_xscale("log", base=2)
        axes.set_xticks(numbers, [str(number) for number in numbers])
        axes.minorticks_off()
        axes.set(xlabel="number of experts", title=measure)
        axes.grid(axis="y")
        axes.legend()
    figure.supxlabel("line: mean of the runs; band: lowest to highest run", fontsize=9)
    return figure


def _box(axes, place, values, colour):
    values = values.ravel()
    parts = axes.boxplot(
        values, positions=[place], orientation="horizontal", widths=0.55, showfliers=False, patch_artist=True,
        manage_ticks=False, medianprops={"color": "black", "linewidth": 1.5},
    )  # fmt: skip
    parts["boxes"][0].set(facecolor=colour, alpha=0.45)
    offsets = 0.3 * (np.arange(len(values)) % 3 - 1) / 3
    axes.scatter(values, place + offsets, s=14, color=colour, edgecolor="black", linewidth=0.5, zorder=3)


def _curve(axes, method, numbers, values, index):
    values = values.reshape(len(values), -1)
    if len(values) != len(numbers):
        raise ValueError(
            f"Each number of experts needs a row of values. Received: {len(numbers)} numbers and "
            f"{len(values)} rows of {method!r}"
        )
    colour = COLOURS[index % len(COLOURS)]
    axes.fill_between(numbers, values.min(axis=1), values.max(axis=1), color=colour, alpha=0.2, linewidth=0)
    axes.plot(numbers, values.mean(axis=1), color=colour, marker=MARKERS[index % len(MARKERS)], label=method)


def _mark(axes, name, value, curves):
    """A horizontal line with its name where curves are farther from it, at their beginning or their end."""
    first, last = np.abs(curves[:, [0, -1]] - value).min(axis=0)
    place, side, indent = (0, "left", 4) if first > last else (1, "right", -4)
    axes.axhline(value, color=INK, linestyle="--", linewidth=1)
    axes.annotate(
        name, (place, value), (indent, 2), ha=side, va="bottom", fontsize=9, textcoords="offset points",
        xycoords=("axes fraction", "data"),
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 1},
    )  # fmt: skip
