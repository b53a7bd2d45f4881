"""The pictures of the papers, from what `evaluation` measures; each function returns a Matplotlib figure.

Figures stand alone and belong to no window: save them with `figure.savefig("routing.png", dpi=150)`.
Colours are those of Okabe and Ito, which people with any colour vision can tell apart.
"""

import functools

import numpy as np

from star_keras.optional import needed

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#F0E442")
MARKERS = "osD^vPX*"
_INK, _FAINT = "#333333", "#D9D9D9"
_STYLE = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "grid.color": _FAINT,
    "legend.frameon": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "text.color": _INK,
    "figure.facecolor": "white",
}


def _styled(function):
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


def _figure(width, height):
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


@_styled
def routing(report):
    """Mean gates of every expert as bars, and how evenly tasks share it as a line.

    Args:
        report: a `RoutingReport`; its order is that of the bars.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    order, tasks = list(report.order), list(report.gates)
    figure = _figure(max(5.0, 2.5 + 0.55 * len(order)), 3.6)
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


@_styled
def correlations(matrices, label="mean canonical correlation", floor=None, names="expert", order=None):
    """Square matrices of similarities as heat maps side by side, on one scale.

    Args:
        matrices: `{title: (n, n) array}`, values in [0, 1], or in [-1, 1] such as cosines.
        label: of the scale.
        floor: value that independent data have; marked on the scale. Defaults to None.
        names: what rows and columns are: a word before their numbers, or a list of names. Defaults to
            "expert".
        order: indices of the rows and columns shown, in this order. Defaults to None: as they are.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: if a matrix is not square, or has no finite value.
    """
    matrices = {title: _square(title, matrix) for title, matrix in _filled("matrices", matrices).items()}
    signed = min(np.nanmin(matrix) for matrix in matrices.values()) < -1e-6
    colours, low = ("PuOr", -1) if signed else ("cividis", 0)
    size = max(len(matrix) for matrix in matrices.values())
    side = min(4.6, max(2.8, 0.42 * size + 1))
    figure = _figure(side * len(matrices) + 1.2, side + 0.5)
    panels = figure.subplots(1, len(matrices), squeeze=False)[0]
    for axes, (title, matrix) in zip(panels, matrices.items(), strict=True):
        rows = np.arange(len(matrix)) if order is None else np.asarray(order)
        matrix = matrix[np.ix_(rows, rows)]
        image = axes.imshow(matrix, cmap=colours, vmin=low, vmax=1)
        worded = isinstance(names, str)
        ticks = [str(row) if worded else names[row] for row in rows]
        slant = {} if worded else {"rotation": 40, "ha": "right"}
        axes.set_xticks(range(len(rows)), ticks, **slant)
        axes.set_yticks(range(len(rows)), ticks)
        axes.set(title=title, xlabel=names if worded else "", ylabel=names if worded else "")
        if len(matrix) <= 10:
            _write_cells(axes, image, matrix)
    bar = figure.colorbar(image, ax=list(panels), shrink=0.85)
    bar.set_label(label)
    if floor is not None:
        bar.ax.axhline(floor, color="white", linewidth=3)
        bar.ax.axhline(floor, color="black", linewidth=1.5)
        bar.ax.text(-0.3, floor, "chance", ha="right", va="center", transform=bar.ax.get_yaxis_transform())
    return figure


@_styled
def methods(panels):
    """Box plots of several methods, one panel a measure, with a point for every run.

    Args:
        panels: `{measure: {method: values of its runs}}`, such as accuracy and routing entropy; the methods
            keep their order and colour over the panels.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: if a method has no finite value.
    """
    _filled("panels", panels)
    names = list(dict.fromkeys(name for measured in panels.values() for name in measured))
    figure = _figure(1.0 + 3.4 * len(panels), 1.2 + 0.5 * len(names))
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (measure, measured) in zip(grid, panels.items(), strict=True):
        for place, name in enumerate(names):
            if name in measured:
                _box(
                    axes,
                    place,
                    _finite(f"{measure} of {name}", measured[name]),
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


@_styled
def retrieval(queries, bank, neighbors):
    """Images beside those that a representation takes for the most alike.

    Args:
        queries: images `(n, height, width, channels)` with values in [0, 255]; one row each.
        bank: images that `indices` count in.
        neighbors: `{space: Neighbors}`, one block of columns each, with a row for every query.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: if rows of a space and queries differ in number, or an index lies outside the bank.
    """
    for space, found in _filled("neighbors", neighbors).items():
        if len(found.indices) != len(queries):
            raise ValueError(
                f"Each query needs a row of neighbours. Received: {len(queries)} queries and "
                f"{len(found.indices)} rows of {space!r}"
            )
        low, high = np.min(found.indices), np.max(found.indices)
        if low < 0 or high >= len(bank):
            raise ValueError(f"Indices must be 0 to {len(bank) - 1}. Received: {low} to {high} of {space!r}")
    counts = [found.indices.shape[1] for found in neighbors.values()]
    figure = _figure(0.85 * (1 + sum(counts)) + 0.5 * len(counts), 1.0 * len(queries) + 0.5)
    blocks = figure.subfigures(1, 1 + len(counts), width_ratios=[1.25, *counts], wspace=0.03)
    _image_grid(blocks[0], "query", [[image] for image in queries])
    for block, (space, found) in zip(blocks[1:], neighbors.items(), strict=True):
        images = [[bank[index] for index in row] for row in found.indices]
        captions = [[f"{value:.3f}" for value in row] for row in found.similarities]
        _image_grid(block, f"{space} (cosine)", images, captions)
    return figure


@_styled
def views(images, augmented, parameters, columns, digits=2):
    """Images beside their views, with the parameters under each view.

    Args:
        images: `(n, height, width, channels)` with values in [0, 255].
        augmented: their views, `(n, views, height, width, channels)`.
        parameters: encoded parameters, `(n, views, columns)`.
        columns: names of the columns, as `augmentation.columns`.
        digits: of the numbers. Defaults to 2.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: if the arrays describe different numbers of images, views or columns.
    """
    shape = np.shape(parameters)
    if len(images) != len(augmented) or shape != (*np.shape(augmented)[:2], len(columns)):
        raise ValueError(
            "Needed is one row of parameters for every view of every image. Received: "
            f"{len(images)} images, views {np.shape(augmented)[:2]}, parameters of shape {shape} and "
            f"{len(columns)} columns"
        )
    captions = [["", *(_describe(row, columns, digits) for row in own)] for own in parameters]
    rows = [[image, *own] for image, own in zip(images, augmented, strict=True)]
    figure = _figure(1.75 * len(rows[0]), (1.9 + 0.17 * len(columns)) * len(rows) + 0.4)
    panels = _image_grid(figure, "", rows, captions, size=8)
    panels[0, 0].set_title("image")
    for index in range(1, len(rows[0])):
        panels[0, index].set_title(f"view {index}")
    return figure


@_styled
def group_errors(errors, label="error"):
    """A measure for every element of a cyclic group, at its angle.

    Args:
        errors: `{method: (order,) values}`; element g of n stands at the angle `360 g / n`.
        label: what is measured. Defaults to "error".

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: if a value is not finite or negative.
    """
    figure = _figure(5.4, 5.0)
    axes = figure.subplots(subplot_kw={"projection": "polar"})
    axes.set(theta_zero_location="N", theta_direction=-1)
    axes.grid(True)
    largest = 0.0
    for index, (method, values) in enumerate(_filled("errors", errors).items()):
        values = _finite(method, values)
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


@_styled
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
    """
    _filled("panels", panels)
    figure = _figure(4.0 * len(panels) + 0.4, 3.8)
    for axes, (measure, measured) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        for index, (method, values) in enumerate(measured.items()):
            _curve(axes, method, numbers, _finite(method, values), index)
        for name, value in ((marks or {}).get(measure) or {}).items():
            axes.axhline(value, color=_INK, linestyle="--", linewidth=1)
            axes.annotate(
                name, (1, value), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=9
            )
        axes.set_xscale("log", base=2)
        axes.set_xticks(numbers, [str(number) for number in numbers])
        axes.minorticks_off()
        axes.set(xlabel="number of experts", title=measure)
        axes.grid(axis="y")
        axes.legend()
    figure.supxlabel("line: mean of the runs; band: lowest to highest run", fontsize=9)
    return figure


def _filled(name, mapping):
    if not isinstance(mapping, dict) or not mapping:
        raise ValueError(f"`{name}` must be a filled dict by name. Received: {mapping!r}")
    return mapping


def _finite(name, values):
    values = np.asarray(values, "float64")
    if not values.size or not np.isfinite(values).all():
        raise ValueError(f"{name!r} must have finite values to be drawn. Received: {values.tolist()}")
    return values


def _square(title, matrix):
    matrix = np.asarray(matrix, "float64")
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"Matrices must be square. Received: {title!r} of shape {matrix.shape}")
    if not np.isfinite(matrix).any():
        raise ValueError(f"{title!r} must have finite values to be drawn. Received: none")
    return matrix


def _write_cells(axes, image, matrix):
    """The number of every cell, dark on light and light on dark."""
    for row, column in np.ndindex(*matrix.shape):
        red, green, blue, _ = image.cmap(image.norm(matrix[row, column]))
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
        text = f"{round(matrix[row, column], 2) + 0.0:.2f}".replace("0.", ".", 1)
        axes.text(
            column, row, text, ha="center", va="center", fontsize=8, color="white" if dark else "black"
        )  # fmt: skip


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


def _image_grid(figure, title, rows, captions=None, size=9):
    """Images in a grid of axes without frames; returns the axes."""
    if title:
        figure.suptitle(title, fontsize=10)
    grid = figure.subplots(len(rows), len(rows[0]), squeeze=False)
    for row, images in enumerate(rows):
        for column, image in enumerate(images):
            axes = grid[row, column]
            pixels = np.clip(np.asarray(image, "float32"), 0, 255).astype("uint8")
            axes.imshow(pixels[..., 0] if pixels.shape[-1] == 1 else pixels, cmap="gray", vmin=0, vmax=255)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            if captions is not None:
                axes.set_xlabel(captions[row][column], fontsize=size, labelpad=2)
    return grid


def _describe(values, columns, digits):
    numbers = [round(float(value), digits) + 0.0 for value in values]
    return "\n".join(f"{name} {number:g}" for name, number in zip(columns, numbers, strict=True))
