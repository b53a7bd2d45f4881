"""Laws of the routing metrics: hand-worked values, NumPy in float64, any split into batches."""

import keras
import numpy as np
import pytest

from star_keras import metrics

RNG = np.random.default_rng(0)
CLASSES, EXPERTS = 3, 4
GATES = RNG.dirichlet(np.full(EXPERTS, 0.4), 50)
LABELS = RNG.integers(0, CLASSES, 50)
GATES[:5] = np.eye(EXPERTS)[[0, 1, 1, 3, 0]]
OF_GATES = ("RoutingEntropy", "UtilizationEntropy", "RoutingInformation", "ExpertLoad", "DeadExperts")
OF_CLASSES = ("ClassRoutingEntropy", "ExpertClassEntropy")
ALL = OF_GATES + OF_CLASSES


def entropy(p):
    return -np.sum(np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0), axis=-1)


def naive(name, gates, labels, weights=None):
    """The metric in float64 from all samples at once."""
    weights = np.ones(len(gates)) if weights is None else weights
    mean = np.average(gates, axis=0, weights=weights)
    table = np.stack([(gates * weights[:, None])[labels == c].sum(0) for c in range(CLASSES)])
    values = {
        "RoutingEntropy": np.average(entropy(gates), weights=weights),
        "UtilizationEntropy": entropy(mean),
        "ExpertLoad": mean,
        "DeadExperts": np.sum(mean < 0.1 / EXPERTS),
        "ClassRoutingEntropy": np.mean([entropy(row / row.sum()) for row in table if row.sum()]),
        "ExpertClassEntropy": np.mean([entropy(row / row.sum()) for row in table.T if row.sum()]),
    }
    values["RoutingInformation"] = values["UtilizationEntropy"] - values["RoutingEntropy"]
    return values[name]


def make(name, **options):
    classes = {"num_classes": CLASSES} if name in OF_CLASSES else {}
    return getattr(metrics, name)(num_experts=EXPERTS, **classes, **options)


def update(metric, rows=slice(None), gates=GATES, labels=LABELS, weights=None):
    given = (
        (gates[rows],) if isinstance(metric, metrics.RoutingEntropy.__base__) else (labels[rows], gates[rows])
    )
    metric.update_state(*given, sample_weight=None if weights is None else weights[rows])
    return np.asarray(metric.result())


@pytest.mark.parametrize("name", ALL)
def test_any_split_into_batches_gives_the_float64_value_of_all_samples(name):
    expected = naive(name, GATES, LABELS)
    for cuts in ([0, 50], [0, 1, 50], [0, 20, 21, 50], range(51)):
        metric = make(name)
        for start, stop in zip(cuts[:-1], cuts[1:], strict=True):
            value = update(metric, slice(start, stop))
        np.testing.assert_allclose(value, expected, rtol=2e-6, atol=1e-6)
    metric.reset_state()
    np.testing.assert_allclose(update(metric), expected, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_samples_of_weight_zero_do_not_count(name):
    weights = RNG.uniform(size=50) * (np.arange(50) % 3 > 0)
    expected = naive(name, GATES, LABELS, weights)
    np.testing.assert_allclose(update(make(name), weights=weights), expected, rtol=2e-6, atol=1e-6)


@pytest.mark.fault(49)
@pytest.mark.parametrize("name", ALL)
def test_before_the_first_batch_and_for_one_expert_the_result_is_finite(name):
    assert np.all(np.isfinite(np.asarray(make(name).result())))
    options = {"num_classes": CLASSES} if name in OF_CLASSES else {}
    if name not in ("ExpertLoad", "DeadExperts"):
        options["normalize"] = True
    metric = getattr(metrics, name)(num_experts=1, **options)
    value = update(metric, gates=np.ones((50, 1)))
    assert np.all(np.isfinite(value))
    if name in ("RoutingEntropy", "UtilizationEntropy", "RoutingInformation", "DeadExperts"):
        assert value == 0


@pytest.mark.parametrize(
    "gates,routing,utilization",
    [
        (np.full((8, 4), 0.25), 1, 1),
        (np.eye(4)[np.arange(8) % 4], 0, 1),
        (np.eye(4)[np.zeros(8, int)], 0, 0),
    ],
    ids=["uniform", "one-hot", "collapsed"],
)
def test_normalised_entropies_lie_between_zero_and_one(gates, routing, utilization):
    values = [update(make(name, normalize=True), gates=gates) for name in OF_GATES[:3]]
    np.testing.assert_allclose(values, [routing, utilization, utilization - routing], atol=1e-6)


def test_an_expert_of_each_class_has_no_entropy_left():
    labels = np.arange(9) % 3
    gates = np.eye(4)[labels]  # the last expert gets nothing and does not count
    for name in OF_CLASSES:
        np.testing.assert_allclose(update(make(name), gates=gates, labels=labels), 0, atol=1e-7)
    shared = np.eye(4)[np.zeros(9, int)]
    np.testing.assert_allclose(
        update(make("ExpertClassEntropy"), gates=shared, labels=labels), np.log(3), rtol=1e-6
    )


@pytest.mark.fault(49)
def test_an_expert_that_is_never_used_is_dead_and_one_below_the_threshold_too():
    gates = np.tile([[0.0, 0.02, 0.38, 0.6]], (10, 1))
    assert update(make("DeadExperts"), gates=gates) == 2
    assert update(make("DeadExperts", threshold=0.05), gates=gates) == 1


def test_gates_of_another_width_are_refused():
    with pytest.raises(ValueError, match=r"shape \(batch, 4\).*Received: shape \(5, 3\)"):
        metrics.RoutingEntropy(4).update_state(np.ones((5, 3)))


@pytest.mark.fault(49)
@pytest.mark.parametrize("name", ALL)
def test_a_gate_that_is_nan_is_not_hidden(name):
    gates = GATES.copy()
    gates[7] = np.nan
    assert np.isnan(update(make(name), gates=gates)).all()


@pytest.mark.parametrize("name", OF_CLASSES)
@pytest.mark.parametrize("labels", [LABELS[:-1], np.eye(CLASSES)[LABELS], LABELS[None], np.array(2)])
def test_labels_that_are_not_one_number_for_each_row_of_gates_are_refused(name, labels):
    message = r"shape \(batch,\) or \(batch, 1\).*Received: `labels` of shape .* `gates` of shape \(50, 4\)"
    with pytest.raises(ValueError, match=message):
        make(name).update_state(labels, GATES)
    assert update(make(name), labels=LABELS[:, None]) == update(make(name))


@pytest.mark.parametrize("name", OF_CLASSES)
@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "int32", "uint32", "int64", "uint64", "float32"])
def test_labels_of_any_type_count_and_what_is_no_class_does_not(name, dtype):
    classes = LABELS % 2
    labels = classes.astype(dtype)
    if dtype != "bool":
        beyond = {"float32": [-1.0, 3.0]}.get(dtype) or [np.iinfo(dtype).min or 3, np.iinfo(dtype).max]
        labels[:4] = [*beyond, 3, 3 if labels.itemsize < 8 else 2**32]
    counted = labels == classes
    expected = update(make(name), gates=GATES[counted], labels=classes[counted])
    np.testing.assert_allclose(update(make(name), labels=labels), expected, rtol=1e-6)
    if labels.itemsize < 8:  # tensors of 64 bits are not on every backend
        tensor = keras.ops.convert_to_tensor(labels)
        np.testing.assert_allclose(update(make(name), labels=tensor), expected, rtol=1e-6)
