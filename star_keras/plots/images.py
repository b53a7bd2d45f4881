"""Images beside their views, and beside those that a representation takes for the most alike."""

import numpy as np

from star_keras.plots.style import filled, new_figure, styled


@styled
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

    Example:

    >>> from star_keras.evaluation import nearest_images
    >>> images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3))
    >>> pixels = images.reshape(6, -1)
    >>> figure = retrieval(images[:2], images[2:], {"pixels": nearest_images(pixels[:2], pixels[2:], k=3)})
    >>> len(figure.axes)
    8
    """
    for space, found in filled("neighbors", neighbors).items():
        if len(found.indices) != len(queries):
            raise ValueError(
                f"Each query needs a row of neighbours. Received: {len(queries)} queries and "
                f"{len(found.indices)} rows of {space!r}"
            )
        low, high = np.min(found.indices), np.max(found.indices)
        if low < 0 or high >= len(bank):
            raise ValueError(f"Indices must be 0 to {len(bank) - 1}. Received: {low} to {high} of {space!r}")
    counts = [found.indices.shape[1] for found in neighbors.values()]
    figure = new_figure(0.85 * (1 + sum(counts)) + 0.5 * len(counts), 1.0 * len(queries) + 0.5)
    blocks = figure.subfigures(1, 1 + len(counts), width_ratios=[1.25, *counts], wspace=0.03)
    _image_grid(blocks[0], "query", [[image] for image in queries])
    for block, (space, found) in zip(blocks[1:], neighbors.items(), strict=True):
        images = [[bank[index] for index in row] for row in found.indices]
        captions = [[f"{value:.3f}" for value in row] for row in found.similarities]
        _image_grid(block, f"{space} (cosine)", images, captions)
    return figure


@styled
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

    Example:

    >>> from star_keras import augmentation
    >>> flip = augmentation.HorizontalFlip()
    >>> images = np.zeros((2, 8, 8, 3), "float32")
    >>> drawn = [flip.sample(2, (8, 8, 3), seed) for seed in (0, 1)]
    >>> seen = np.stack([flip.apply(images, one) for one in drawn], axis=1)
    >>> told = np.stack([flip.encode(one) for one in drawn], axis=1)
    >>> figure = views(images, seen, told, flip.columns)
    >>> [axes.get_title(loc="left") for axes in figure.axes[:3]]
    ['image', 'view 1', 'view 2']
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
    figure = new_figure(1.75 * len(rows[0]), (1.9 + 0.17 * len(columns)) * len(rows) + 0.4)
    panels = _image_grid(figure, "", rows, captions, size=8)
    panels[0, 0].set_title("image")
    for index in range(1, len(rows[0])):
        panels[0, index].set_title(f"view {index}")
    return figure


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
