"""Laws of the regularisation by soft nearest neighbours."""

import keras
import numpy as np
import pytest
from _neighbors import naive

import star_keras as sk
from star_keras.exceptions import NonFiniteError
from star_keras.losses import SoftNearestNeighbor
from star_keras.training import SoftNearestNeighborRegularization

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(24, 6)).astype("float32"), RNG.integers(0, 3, 24)
COMPILE = dict(loss="sparse_categorical_crossentropy", metrics=["accuracy"])


def classifier():
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6,))
    x = keras.layers.Dense(8, activation="relu", name="first")(inputs)
    code = keras.layers.Dense(4, activation="tanh", name="code")(x)
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax", name="classes")(code))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.first = keras.layers.Dense(8, activation="relu", name="first")
        self.code = keras.layers.Dense(4, activation="tanh", name="code")
        self.classes = keras.layers.Dense(3, activation="softmax", name="classes")

    def call(self, inputs):
        return self.classes(self.code(self.first(inputs)))


def wrapped(taps=("first", "code"), model=None, optimizer=None, jit_compile=False, **options):
    model = SoftNearestNeighborRegularization(model or classifier(), taps, **options)
    model.compile(optimizer or keras.optimizers.SGD(0.1, momentum=0.9), jit_compile=jit_compile, **COMPILE)
    return model


def tap_losses(model, temperature, taps=("first", "code")):
    outputs = model(X)
    return [float(SoftNearestNeighbor(temperature)(Y, outputs[tap])) for tap in taps]


def weights(model):
    return [np.asarray(variable.value) for variable in model.weights]


@pytest.mark.parametrize("jit_compile", [False, True])
def test_weight_zero_trains_exactly_the_plain_classifier(jit_compile):
    plain = classifier()
    plain.compile(keras.optimizers.SGD(0.1, momentum=0.9), jit_compile=jit_compile, **COMPILE)
    regularized = wrapped(weight=0, jit_compile=jit_compile)
    histories = [m.fit(X, Y, batch_size=8, epochs=2, shuffle=False, verbose=0) for m in (plain, regularized)]
    exact = dict(rtol=1e-6, atol=1e-7) if jit_compile else dict(rtol=0)  # XLA fuses the two differently
    for one, other in zip(weights(plain), weights(regularized.model), strict=True):
        np.testing.assert_allclose(one, other, **exact)
    for name in ("loss", "accuracy"):
        np.testing.assert_allclose(*(history.history[name] for history in histories), rtol=1e-6)


@pytest.mark.parametrize("weight", [2.0, -0.5])
@pytest.mark.parametrize("reduce", ["min", "sum", "mean", "last"])
def test_the_loss_is_the_compiled_one_plus_the_weighted_reduction_of_the_taps(reduce, weight):
    model = wrapped(reduce=reduce, weight=weight, temperature=0.3)
    losses = tap_losses(model, 0.3)
    reduced = {"min": min, "sum": sum, "mean": np.mean, "last": lambda values: values[-1]}[reduce](losses)
    logs = model.evaluate(X, Y, batch_size=24, verbose=0, return_dict=True)
    labels = np.asarray(model.model(X))[np.arange(24), Y]
    np.testing.assert_allclose(logs["task_loss"], -np.log(labels).mean(), rtol=1e-5)
    np.testing.assert_allclose(logs["loss"], logs["task_loss"] + weight * reduced, rtol=1e-5)
    entanglements = [logs["first_entanglement"], logs["code_entanglement"]]
    np.testing.assert_allclose(entanglements, tap_losses(model, 1.0), rtol=1e-5)


@pytest.mark.parametrize("weight,moves", [(5.0, -1), (-5.0, 1)])
def test_a_positive_weight_disentangles_and_a_negative_one_entangles(weight, moves):
    model = wrapped(("code",), weight=weight, temperature=0.5)
    before = tap_losses(model, 1.0, ("code",))[0]
    model.fit(X, Y, batch_size=24, epochs=15, verbose=0)
    assert moves * (tap_losses(model, 1.0, ("code",))[0] - before) > 0.05


def test_only_the_least_entangled_tap_gets_a_gradient_from_the_minimum():
    runs, losses = {}, None
    for reduce, taps in (("min", ("first", "code")), ("sum", ("first",)), ("sum", ("code",))):
        model = wrapped(taps, reduce=reduce, temperature=0.5)
        losses = tap_losses(model, 0.5) if len(taps) == 2 else losses
        model.train_on_batch(X, Y)
        runs[reduce, taps] = weights(model.model)
    least = ("first", "code")[int(np.argmin(losses))]
    assert abs(losses[0] - losses[1]) > 1e-3
    for one, other in zip(runs["min", ("first", "code")], runs["sum", (least,)], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-7)


def test_the_temperature_is_annealed_by_the_epoch_also_when_a_run_goes_on():
    model, seen = wrapped(), []
    note = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(float(np.asarray(model.annealed_temperature.value)))
    )
    model.fit(X, Y, epochs=3, verbose=0, callbacks=note)
    model.fit(X, Y, epochs=15, initial_epoch=14, verbose=0, callbacks=[note])
    np.testing.assert_allclose(seen, [1.0, 2**-0.55, 3**-0.55, 15**-0.55], rtol=1e-6)
    np.testing.assert_allclose(seen[-1], 0.226, atol=1e-3)
    logs = model.evaluate(X, Y, batch_size=24, verbose=0, return_dict=True)
    expected = logs["task_loss"] + min(tap_losses(model, seen[-1]))
    np.testing.assert_allclose(logs["loss"], expected, rtol=1e-5)


def test_epochs_and_temperatures_do_not_trace_the_step_again():
    traces = []

    class Counted(SoftNearestNeighborRegularization):
        def compute_loss(self, *args, **kwargs):
            traces.append(1)
            return super().compute_loss(*args, **kwargs)

    model = Counted(classifier(), ("code",))
    model.compile("sgd", **COMPILE)
    model.fit(X, Y, batch_size=8, epochs=1, verbose=0)
    once = len(traces)
    model.fit(X, Y, batch_size=8, epochs=4, initial_epoch=1, verbose=0)
    assert len(traces) == once


def test_a_trainable_temperature_stays_positive_and_moves():
    model = wrapped(temperature="trainable", optimizer=keras.optimizers.SGD(3.0), weight=3.0)
    assert len(model.trainable_variables) == len(model.model.trainable_variables) + 1
    model.fit(X, Y, batch_size=24, epochs=5, verbose=0)
    temperature = 1 / np.log1p(np.exp(float(np.asarray(model.inverse_temperature.value))))
    assert temperature > 0 and abs(temperature - 1) > 1e-3


def test_a_trainable_temperature_takes_the_steps_of_its_own_slope():
    model = wrapped(("code",), temperature="trainable", optimizer=keras.optimizers.SGD(50.0), weight=2.0)
    start = float(np.asarray(model.inverse_temperature.value))
    np.testing.assert_allclose(1 / np.log1p(np.exp(start)), 1, rtol=1e-6)
    by_temperature = naive(Y, np.asarray(model(X)["code"]), 1.0, "cosine")[2]
    slope = -by_temperature / (1 + np.exp(-start))  # of T = 1 / softplus(w), where T is 1
    assert abs(slope) > 1e-4
    model.fit(X, Y, batch_size=24, epochs=1, verbose=0)
    moved = float(np.asarray(model.inverse_temperature.value)) - start
    np.testing.assert_allclose(moved, -50 * 2.0 * slope, rtol=1e-4)


@pytest.mark.parametrize("exclude", [False, True])
def test_weight_decay_draws_a_temperature_that_is_not_excluded(exclude):
    optimizer = keras.optimizers.SGD(1.0, weight_decay=0.1)
    if exclude:
        optimizer.exclude_from_weight_decay(var_names=["inverse_temperature"])
    model = wrapped(("code",), temperature="trainable", optimizer=optimizer)
    before = float(np.asarray(model.inverse_temperature.value))
    variables = model.trainable_variables
    optimizer.apply([np.zeros(variable.shape, "float32") for variable in variables], variables)
    moved = float(np.asarray(model.inverse_temperature.value)) - before
    np.testing.assert_allclose(moved, 0 if exclude else -0.1 * before, atol=1e-6)


def test_taps_of_a_subclassed_model_are_those_of_the_same_functional_one():
    functional, subclassed = classifier(), Subclassed()
    subclassed(X)
    subclassed.set_weights(functional.get_weights())
    models = [wrapped(model=functional), wrapped(taps=(subclassed.first, "code"), model=subclassed)]
    assert [model.taps for model in models] == [("first", "code")] * 2
    histories = [m.fit(X, Y, batch_size=8, epochs=2, shuffle=False, verbose=0).history for m in models]
    for name, values in histories[0].items():
        np.testing.assert_allclose(values, histories[1][name], rtol=1e-5, err_msg=name)
    for one, other in zip(*(weights(model.model) for model in models), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_a_tap_that_a_subclassed_model_does_not_call_is_named():
    class Silent(Subclassed):
        def call(self, inputs):
            return self.classes(self.first(inputs))

    silent = Silent()
    silent.code.build((None, 8))
    with pytest.raises(ValueError, match=r"layers that the model calls. Received: not called, \['code'\]"):
        wrapped(model=silent)(X)


def test_the_classifier_is_kept_as_it_was_passed_and_trained():
    inner = classifier()
    model = wrapped(model=inner)
    before = weights(inner)
    model.fit(X, Y, verbose=0)
    assert model.model is inner
    assert any(np.abs(a - b).max() > 0 for a, b in zip(before, weights(inner), strict=True))
    assert inner(X).shape == (24, 3)


WRONG = {
    "no layer": dict(taps=("third",)),
    "none": dict(taps=()),
    "twice": dict(taps=("code", "code")),
    "weight": dict(weight=float("nan")),
    "temperature": dict(temperature="warm"),
    "cold": dict(temperature=0.0),
    "reduce": dict(reduce="max"),
    "distance": dict(distance="euclidean"),
}


@pytest.mark.fault(44)
@pytest.mark.parametrize("arguments", WRONG.values(), ids=WRONG)
def test_wrong_arguments_are_refused_with_what_was_received(arguments):
    with pytest.raises(ValueError, match="Received: "):
        wrapped(**arguments)


def test_a_tap_inside_a_model_of_the_model_is_refused():
    inputs = keras.Input((6,))
    with pytest.raises(ValueError, match="not in a model inside it. Received: the layer 'code'"):
        wrapped(("code",), model=keras.Model(inputs, classifier()(inputs)))


@pytest.mark.fault(45)
def test_one_hot_labels_are_refused_while_training():
    model = SoftNearestNeighborRegularization(classifier(), ("code",))
    model.compile("sgd", "categorical_crossentropy")
    with pytest.raises(ValueError, match="`labels` must be whole numbers"):
        model.fit(X, np.eye(3)[Y], verbose=0)


@pytest.mark.fault(45)
def test_labels_between_classes_are_refused():
    model = SoftNearestNeighborRegularization(classifier(), ("code",))
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(X, Y.astype("float32"), verbose=0)
    with pytest.raises(ValueError, match=r"whole numbers.*Received: \[0.5"):
        model.fit(X, Y + 0.5 - Y[0], verbose=0)
    with pytest.raises(ValueError, match=r"Received: \[1.25\] in 1 of 24 places"):
        model.fit(X, Y, validation_data=(X, np.where(np.arange(24) == 3, 1.25, Y)), verbose=0)


@pytest.mark.fault(45)
def test_labels_of_padding_and_no_labels_are_refused():
    model = wrapped()
    with pytest.raises(ValueError, match=r"other than -1.*Received: \[-1, -1\] in 2 of 24 places"):
        model.fit(X, np.where(np.arange(24) < 2, -1, Y), verbose=0)
    with pytest.raises(ValueError, match="needs labels. Received: y=None"):
        model.fit(X, verbose=0)


# --- NaN ------------------------------------------------------------------------------------------


def spoil(weight, place=0):
    values = np.array(weight.value)
    values.reshape(-1)[place] = np.nan
    weight.assign(values)


class Broken(keras.layers.Layer):
    """NaN where the number of calls says so, whatever the inputs."""

    def call(self, inputs):
        return inputs / keras.ops.zeros_like(inputs[:, :1])


def ends_in(position, inputs):
    """The classifier, with a layer that divides by 0 before the tap, after it, or nowhere."""
    x = keras.layers.Dense(4, activation="tanh", name="code")(Broken()(inputs) if position == 0 else inputs)
    x = Broken()(x) if position == 1 else x
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x))


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize(
    "position,place", [(0, "what the layer 'code' puts out"), (1, "after the layer 'code'")]
)
def test_a_loss_that_is_not_finite_says_where_that_began(position, place, jit_compile):
    model = wrapped(("code",), model=ends_in(position, keras.Input((6,))), jit_compile=jit_compile)
    with pytest.raises(NonFiniteError, match=f"Received: loss=nan in batch 0, .*{place}"):
        model.fit(X, Y, batch_size=8, epochs=2, verbose=0)


def test_weights_that_are_not_finite_are_named_though_the_loss_is():
    model = wrapped()
    spoil(model.model.get_layer("first").bias)  # behind a ReLU that makes zeros of NaN
    with pytest.raises(NonFiniteError, match="in the layer 'first' before training"):
        model.fit(X, Y, verbose=0)
    model = wrapped()
    late = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: epoch == 1 and spoil(model.model.get_layer("first").bias)
    )
    with pytest.raises(NonFiniteError, match="in the layer 'first' after epoch [12]"):
        model.fit(X, Y, epochs=4, callbacks=[late], verbose=0)


def test_a_term_beside_the_task_is_named():
    model = wrapped(weight=1e38, reduce="sum", temperature=1e-6)
    with pytest.raises(NonFiniteError, match="in a term of the loss beside the task"):
        model.fit(X, Y, verbose=0)


# --- export ---------------------------------------------------------------------------------------


def test_exported_after_a_step_of_regularised_training_the_network_computes_the_same(tmp_path):
    tf = pytest.importorskip("tensorflow")
    images = RNG.integers(0, 256, (6, 12, 12, 3)).astype("float32")
    network = sk.models.create("moe_cnn", num_classes=3, num_experts=2, input_shape=(12, 12, 3))
    before = network.get_weights()
    model = wrapped(("code",), model=network, router_weights={"load_balance": 0.1})
    model.fit(images, Y[:6], batch_size=6, verbose=0)
    assert all(np.abs(a - b).max() > 0 for a, b in zip(before, network.get_weights(), strict=True))
    model.model.export(tmp_path / "exported", format="tf_saved_model", verbose=False)
    restored = tf.saved_model.load(str(tmp_path / "exported"))
    for rows in (images, images[:1]):
        served = np.asarray(restored.signatures["serving_default"](tf.constant(rows))["output_0"])
        np.testing.assert_allclose(served, np.asarray(network(rows)), atol=1e-5)
        np.testing.assert_array_equal(np.asarray(restored.serve(tf.constant(rows))), served)
