"""Which expert works for which task."""

import keras
import numpy as np
import pytest

import star_keras as sk
from star_keras.evaluation import routing, routing_report
from star_keras.exceptions import NonFiniteError, ShapeError

TASKS = ("invariant", "equivariant")
FEATURES = np.random.default_rng(0).normal(size=(30, 5)).astype("float32")


def layer(**options):
    keras.utils.set_random_seed(0)
    return sk.layers.RoutedExperts(4, 6, **{"tasks": TASKS, **options})


def test_gates_ratios_and_entropies_are_those_of_the_routes():
    one = layer()
    report = routing_report(one, FEATURES, batch_size=7)
    gates = {task: np.asarray(rows, "float64") for task, rows in one.route(FEATURES).items()}
    for task in TASKS:
        np.testing.assert_allclose(report.gates[task], gates[task].mean(axis=0), atol=1e-6)
        expected = -np.mean(np.sum(gates[task] * np.log(gates[task]), axis=1))
        assert report.entropies[task] == pytest.approx(expected, rel=1e-5)
    means = np.stack([report.gates[task] for task in TASKS])
    np.testing.assert_allclose(report.ratios, means.min(axis=0) / means.max(axis=0))
    assert report.samples == 30


def test_a_report_is_read_from_its_dict_which_may_hold_more():
    report = routing_report(layer(), FEATURES)
    again = sk.evaluation.RoutingReport.from_dict({**report.to_dict(), "seed": 3})
    assert again.to_dict() == report.to_dict() and again.order == report.order
    np.testing.assert_array_equal(again.gates["invariant"], report.gates["invariant"])


def test_roles_run_from_the_first_task_over_shared_experts_to_the_last():
    means = np.array([[0.50, 0.01, 0.2, 0.001, 0.289], [0.02, 0.60, 0.2, 0.002, 0.178]])
    ratios, roles, order = routing._roles(list(TASKS), means)
    assert roles == ("invariant", "equivariant", "shared", "unused", "shared")
    assert [place for place in order if place != 3] == [0, 4, 2, 1]
    assert ratios[0] == pytest.approx(0.04)


def test_one_task_shares_everything_with_itself():
    report = routing_report(layer(tasks=None), FEATURES)
    assert set(report.gates) == {"embedding"} and set(report.ratios) == {1.0}


def test_report_of_the_zoo_is_plain_data_of_the_whole_model():
    model = sk.models.load("star-resnet20", part="pretraining")
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype="uint8")
    found = routing_report(model, images, verbose=0).to_dict()
    assert sorted(found["order"]) == list(range(8))
    assert {task: round(sum(gates), 5) for task, gates in found["gates"].items()} == dict.fromkeys(TASKS, 1)
    with pytest.raises(ShapeError, match="Received: an array of shape"):
        routing_report(model, images[:, :8])
    with pytest.raises(ShapeError, match="images of several shapes"):
        routing_report(model, [images[0], images[1, :8]])


def test_what_routes_nothing_or_nothing_finite_is_refused():
    with pytest.raises(ValueError, match="must be a `RoutedExperts` layer.*Received: Dense"):
        routing_report(keras.layers.Dense(3), FEATURES)
    with pytest.raises(ValueError, match="`batch_size` must be a positive whole number. Received"):
        routing_report(layer(), FEATURES, batch_size=-1)
    with pytest.raises(ValueError, match="`inputs` must be finite"):
        routing_report(layer(), FEATURES * np.nan)
    one = layer()
    one.build((None, 5))
    one.router_layers[-1].kernel.assign(one.router_layers[-1].kernel * np.nan)
    with pytest.raises(NonFiniteError, match="Gates must be finite"):
        routing_report(one, FEATURES)
