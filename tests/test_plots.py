"""Pictures show the numbers they are given, in one style, and leave the user's own alone."""

import io

import matplotlib
import numpy as np
import pytest
from _elsewhere import run_elsewhere

import star_keras as sk
from star_keras import plots
from star_keras.evaluation import nearest_images, routing_report

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (6, 8, 8, 3), dtype="uint8")
TASKS = ("invariant", "equivariant")


def png(figure):
    file = io.BytesIO()
    figure.savefig(file, dpi=40)
    return file.getvalue()


def texts(axes):
    return [text.get_text() for text in axes.texts]


def report():
    layer = sk.layers.RoutedExperts(4, 5, tasks=TASKS)
    return routing_report(layer, RNG.normal(size=(30, 3)))


def views():
    return plots.views(IMAGES[:2], np.stack([IMAGES[:2]] * 3, 1), RNG.normal(size=(2, 3, 2)), ("flip", "hue"))


FIGURES = {
    "routing": lambda: plots.routing(report()),
    "correlations": lambda: plots.correlations({"experts": np.eye(3)}, floor=0.2),
    "methods": lambda: plots.methods({"accuracy": {"one": [0.1, 0.2, 0.4], "two": [0.3]}}),
    "retrieval": lambda: plots.retrieval(
        IMAGES[:2], IMAGES[2:], {"pixels": nearest_images(*np.split(IMAGES.reshape(6, -1), [2]), k=2)}
    ),
    "views": views,
    "group_errors": lambda: plots.group_errors({"alone": [0.1, 0.9, 0.5, 0.9]}),
    "over_experts": lambda: plots.over_experts({"accuracy": {"STAR": [[0.4, 0.5], [0.6, 0.7]]}}, [2, 4]),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_picture_is_drawn_and_the_users_style_stays(name):
    before = dict(matplotlib.rcParams)
    assert png(FIGURES[name]()).startswith(b"\x89PNG")
    assert dict(matplotlib.rcParams) == before


def test_bars_are_the_gates_in_the_order_of_the_roles():
    found = report()
    axes, right = plots.routing(found).axes
    heights = [[bar.get_height() for bar in bars] for bars in axes.containers]
    np.testing.assert_allclose(heights, [found.gates[task][list(found.order)] for task in TASKS])
    np.testing.assert_allclose(right.lines[0].get_ydata(), found.ratios[list(found.order)])


def test_cells_and_ticks_of_a_heat_map_follow_the_order():
    matrix = np.array([[1, 0.25, 0.5], [0.25, 1, 0.75], [0.5, 0.75, 1]])
    axes = plots.correlations({"experts": matrix}, order=(2, 0, 1)).axes[0]
    assert texts(axes)[:3] == ["1.00", ".50", ".75"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["2", "0", "1"]


def test_numbers_are_written_as_short_as_they_are():
    matrix = np.array([[1, -0.001], [-0.001, 1]])
    assert texts(plots.correlations({"cosines": matrix - 0.1 * np.eye(2)}).axes[0]) == [
        ".90",
        ".00",
        ".00",
        ".90",
    ]
    figure = plots.views(IMAGES[:1], IMAGES[None, :1], [[[14.0, -0.0351]]], ("crop_left", "hue"))
    assert figure.axes[1].get_xlabel() == "crop_left 14\nhue -0.04"


def test_a_curve_runs_through_the_means_of_the_runs():
    axes = plots.over_experts({"accuracy": {"STAR": [[0.4, 0.5], [0.6, 0.7]]}}, [2, 4]).axes[0]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [0.45, 0.65])


def test_a_polar_curve_closes():
    axes = plots.group_errors({"alone": [0.1, 0.9, 0.5, 0.9]}).axes[0]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [0.1, 0.9, 0.5, 0.9, 0.1])


def test_every_run_of_a_method_is_a_point():
    axes = plots.methods({"accuracy": {"one": [0.1, 0.2, 0.4], "two": [0.3]}}).axes[0]
    assert [len(points.get_offsets()) for points in axes.collections] == [3, 1]


def test_the_name_of_a_line_stands_where_curves_are_farther_from_it():
    marks = {"accuracy": {"low": 0.3, "high": 0.8}}
    figure = plots.over_experts({"accuracy": {"STAR": [0.4, 0.7], "other": [0.5, 0.6]}}, [2, 4], marks)
    low, high = figure.axes[0].texts
    assert (low.get_text(), low.get_ha()) == ("low", "right")
    assert (high.get_text(), high.get_ha()) == ("high", "left")


@pytest.mark.parametrize(
    "draw, message",
    [
        (lambda: plots.correlations({"one": np.ones((2, 3))}), "must be square. Received: 'one'"),
        (lambda: plots.correlations({}), "`matrices` must be a filled dict"),
        (lambda: plots.correlations({"one": np.full((2, 2), np.nan)}), "'one' must have finite values"),
        (
            lambda: plots.retrieval(IMAGES[:3], IMAGES[:2], {"one": nearest_images(np.eye(3), np.eye(3), 1)}),
            "Indices must be 0 to 1. Received: 0 to 2 of 'one'",
        ),
        (lambda: plots.methods({"accuracy": {"one": [np.nan]}}), "finite values"),
        (lambda: plots.group_errors({"one": [-1.0, 2.0]}), "must not be negative"),
        (lambda: plots.over_experts({"accuracy": {}}, [2, 4]), "`accuracy` must be a filled dict"),
        (lambda: plots.over_experts({"accuracy": {"one": [0.1]}}, [2, 4]), "2 numbers and 1 rows of 'one'"),
        (lambda: plots.views(IMAGES, IMAGES[:, None], np.ones((6, 1, 2)), ("flip",)), "6 images, views"),
        (
            lambda: plots.retrieval(IMAGES, IMAGES, {"one": nearest_images(np.eye(3), k=1)}),
            "6 queries and 3 rows of 'one'",
        ),
    ],
)
def test_what_cannot_be_drawn_is_refused(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()


def test_the_package_does_without_matplotlib_until_a_picture_is_drawn():
    script = """
import sys

sys.modules["matplotlib"] = None
import star_keras

try:
    star_keras.plots.group_errors({"one": [1.0, 2.0]})
except ImportError as error:
    assert "star-keras[plots]" in str(error)
else:
    raise AssertionError("drawn without Matplotlib")
"""
    run_elsewhere(script)
