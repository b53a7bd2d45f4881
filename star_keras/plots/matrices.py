"""How alike every two of something are, as heat maps."""

import numpy as np

from star_keras.plots.style import filled, new_figure, styled


@styled
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

    Example:

    >>> cosines = np.array([[1, 0.2, 0.7], [0.2, 1, 0.3], [0.7, 0.3, 1]])
    >>> figure = correlations({"trained": cosines}, label="cosine of two experts", order=(0, 2, 1))
    >>> [text.get_text() for text in figure.axes[0].texts[:3]]
    ['1.00', '.70', '.20']
    """
    matrices = {title: _square(title, matrix) for title, matrix in filled("matrices", matrices).items()}
    signed = min(np.nanmin(matrix) for matrix in matrices.values()) < -1e-6
    colours, low = ("PuOr", -1) if signed else ("cividis", 0)
    size = max(len(matrix) for matrix in matrices.values())
    side = min(4.6, max(2.8, 0.42 * size + 1))
    figure = new_figure(side * len(matrices) + 1.2, side + 0.5)
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
