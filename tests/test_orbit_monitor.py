"""The monitor of orbits logs what was weighted, and tells the failures of the method apart."""

import keras
import numpy as np
import pytest
from _arrays import array
from _equitune import classifier, sample
from keras import ops

from star_keras import groups
from star_keras.callbacks import OrbitMonitor
from star_keras.exceptions import NonFiniteError
from star_keras.layers import EquiTune


def watch(weights, weighting="lambda"):
    """A monitor of a wrapper that returns these weights."""
    score = keras.layers.Dense(1) if weighting == "lambda" else "entropy"
    wrapper = EquiTune(classifier(), groups.Cyclic(4), weighting=weighting, score=score)
    weights = np.asarray(weights, "float32")
    wrapper.orbit_weights = lambda x: weights[: len(x)]
    monitor = OrbitMonitor(np.zeros((len(weights), 4, 4, 2), "float32"))
    monitor.set_model(wrapper)
    return monitor


def test_the_monitor_logs_entropy_greatest_weight_and_histogram():
    weights = [[1, 0, 0, 0], [0.5, 0.5, 0, 0], [0.25] * 4, [0, 0, 0.1, 0.9]]
    values = watch(weights).measure()
    last = -(0.1 * np.log(0.1) + 0.9 * np.log(0.9)) / np.log(4)
    np.testing.assert_allclose(values["orbit_entropy"], (0 + 0.5 + 1 + last) / 4, rtol=1e-6)
    np.testing.assert_allclose(values["orbit_max_weight"], (1 + 0.5 + 0.25 + 0.9) / 4, rtol=1e-6)
    winners = [values[f"orbit_winner_{element}"] for element in range(4)]
    np.testing.assert_allclose(winners, [1.75 / 4, 0.75 / 4, 0.25 / 4, 1.25 / 4], rtol=1e-6)


def test_the_monitor_tells_uniform_and_constant_weights():
    assert "The weights of lambda are uniform" in watch(np.full((9, 4), 0.25)).diagnose()[0]
    assert not watch(np.eye(4)[[0, 1, 2, 3, 0]]).diagnose()
    (sentence,) = watch(np.eye(4)[[2] * 30], "argmin").diagnose()
    assert "Element 2 of the group wins for 100% of the rows" in sentence


@pytest.mark.fault(57)
def test_the_monitor_raises_where_weights_are_nan():
    with pytest.raises(NonFiniteError, match="NaN for 1 of 2 rows"):
        watch([[0.25] * 4, [np.nan] * 4]).measure()


def test_the_monitor_finds_a_proxy_that_is_worse_than_the_mean():
    # The loss is the true one with its sign reversed: the worst member of each orbit is chosen.
    x = sample("quarter turns", 64, "float32")
    model = classifier()
    mean = EquiTune(model, groups.Cyclic(4))
    labels = array(mean(x)).argmax(axis=-1)
    worst = EquiTune(model, groups.Cyclic(4), weighting="argmin", score=lambda y: -entropy_of(y))
    worst.compile("sgd", "mse")
    monitor = OrbitMonitor(x, labels, batch_size=24)
    with pytest.warns(UserWarning, match="'argmin' classifies worse than the mean.* of 64 rows"):
        history = worst.fit(x, np.zeros((64, 4)), epochs=2, callbacks=[monitor], verbose=0).history
    assert len(history["orbit_accuracy"]) == 2 and set(history) >= {f"orbit_winner_{g}" for g in range(4)}


def entropy_of(logits):
    p = ops.softmax(logits)
    return -ops.sum(p * ops.log(p), axis=-1)


def test_the_monitor_finds_a_wrapper_inside_and_says_when_there_is_none():
    inputs = keras.Input((4, 4, 2))
    wrapper = EquiTune(classifier(), groups.Cyclic(4), name="turned")
    monitor = OrbitMonitor(sample("quarter turns", dtype="float32"), every=2)
    monitor.set_model(keras.Model(inputs, keras.layers.Softmax()(wrapper(inputs))))
    assert monitor.find() is wrapper and monitor.measure()["orbit_entropy"] == pytest.approx(1)
    monitor.layer = "mirrored"
    with pytest.raises(ValueError, match="Received: layer='mirrored'.*turned"):
        monitor.on_train_begin()
