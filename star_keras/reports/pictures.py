"""The pictures of a page, as data URIs that need no other file."""

import base64
import io

import numpy as np
from keras import ops

from star_keras import plots
from star_keras.evaluation.measures import views_of
from star_keras.evaluation.routing import RoutingReport

LARGEST_THUMBNAIL = 96
VIEWED_IMAGES, VIEWS = 3, 4


def thumbnail(image):
    """An image, thinned to at most 96 pixels a side, as a PNG."""
    step = -(-max(image.shape[:2]) // LARGEST_THUMBNAIL)
    pixels = np.clip(np.round(np.asarray(image[::step, ::step], "float32")), 0, 255).astype("uint8")
    pixels = np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels
    file = io.BytesIO()
    plots.library().image.imsave(file, pixels, format="png")
    return _uri(file)


def routing_bars(run):
    """The gates of a routing run as bars, a PNG."""
    return _drawn(plots.routing(RoutingReport.from_dict(run)), 5.2, 3.6)


def heat_map(run, title, names="expert", order=None):
    """The matrix of a correlation run as a heat map with its floor, a PNG."""
    figure = plots.correlations({title: run["matrix"]}, floor=run["floor"], names=names, order=order)
    return _drawn(figure, 4.8, 4.0)


def viewed(document):
    """`(image, [(view, {column: number})])` of a few test images, by the augmentation of the model."""
    augmentation = views_of(document.loaded)
    seed = document.report.settings.seeds[0]
    images = document.test_images[:VIEWED_IMAGES]
    parameters = augmentation.sample(len(images) * VIEWS, images.shape[1:], seed)
    augmented = ops.convert_to_numpy(augmentation.apply(images.repeat(VIEWS, axis=0), parameters))
    encoded = ops.convert_to_numpy(augmentation.encode(parameters))
    described = [dict(zip(augmentation.columns, row.tolist(), strict=True)) for row in encoded]
    pairs = list(zip(augmented, described, strict=True))
    return [(image, pairs[VIEWS * index : VIEWS * (index + 1)]) for index, image in enumerate(images)]


def _drawn(figure, width, height):
    """The figure in a size whose letters can be read on a telephone."""
    file = io.BytesIO()
    figure.set_size_inches(width, height)
    figure.savefig(file, format="png", dpi=150)
    return _uri(file)


def _uri(file):
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
