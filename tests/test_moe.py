"""Laws of the regularisation by soft nearest neighbours, of the small mixture and of its monitor."""

import keras
import numpy as np
import pytest

import star_keras as sk
from star_keras.callbacks import RoutingMonitor
from star_keras.exceptions import ConfigError, NonFiniteError, ShapeError
from star_keras.losses import SoftNearestNeighbor
from star_keras.training import SoftNearestNeighborRegularization

# Raised inside Keras when it turns a TensorFlow variable into an array.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")

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
    with pytest.raises(ValueError, match=r"whole numbers. Received: \[0.5"):
        model.fit(X, Y + 0.5 - Y[0], verbose=0)


# --- the network ----------------------------------------------------------------------------------


def test_the_network_has_the_layers_of_our_reading():
    model = sk.models.create("moe_cnn", num_classes=10, num_experts=5)
    shapes = {name: tuple(model.get_layer(name).output.shape[1:]) for name in ("conv_1", "conv_2", "code")}
    assert shapes == {"conv_1": (14, 14, 64), "conv_2": (6, 6, 128), "code": (50,)}
    assert model.get_layer("flatten").output.shape[-1] == 4608
    small = sk.models.create("moe_cnn", num_classes=10, input_shape=(28, 28, 3))
    assert small.get_layer("flatten").output.shape[-1] == 3200
    experts = model.get_layer("experts")
    assert (experts.num_experts, experts.hidden_units, experts.router_units) == (5, (100,), (100,))


@pytest.mark.fault(31)
def test_sizes_that_come_to_too_much_together_are_refused_before_anything_is_made():
    with pytest.raises(ConfigError, match="may come to 268435456 weights. Received: 4"):
        sk.models.create("moe_cnn", num_classes=10, num_experts=1024, hidden_units=(65536, 65536))
    backbone = {"architecture": "resnet20", "input_shape": [32, 32, 3]}
    for projector in (
        {"units": 65536, "num_experts": 1024},
        {"units": 8, "num_experts": 2, "router_units": (65536, 65536)},
    ):
        with pytest.raises(ConfigError, match="may come to 268435456 weights"):
            sk.models.create("star", backbone=backbone, projector=projector, predictor={})


@pytest.mark.parametrize(
    "inner", [{"architecture": "gpt", "vocabulary_size": 9}, {"architecture": "resnet20", "num_classes": 3}]
)
def test_what_is_no_backbone_is_refused_where_one_is_asked_for(inner):
    with pytest.raises(ConfigError, match="`backbone`.*the configuration of a backbone"):
        sk.models.create("star", backbone=inner, projector={"units": 8, "num_experts": 2}, predictor={})


def test_the_network_mixes_logits_and_ends_in_probabilities_of_float32():
    images = RNG.integers(0, 256, (4, 14, 14, 3), dtype="uint8")
    model = sk.models.create(
        "moe_cnn", num_classes=7, num_experts=3, input_shape=(14, 14, 3), dtype="mixed_bfloat16"
    )
    experts = model.get_layer("experts")
    code = keras.Model(model.input, experts.input)(images)
    gates = np.asarray(experts.route(code))
    outputs = np.asarray(keras.ops.cast(experts.expert_outputs(code), "float32"))
    logits = np.einsum("be,beu->bu", gates, outputs)
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert model(images).dtype == "float32"
    np.testing.assert_allclose(model(images), expected, atol=5e-3)


def test_the_network_is_saved_and_made_again_by_its_configuration(tmp_path):
    config = dict(
        num_classes=4, num_experts=2, input_shape=(14, 15, 3), hidden_units=[6], router_units=[], top_k=1
    )
    model = sk.models.create("moe_cnn", **config)
    sk.models.save(model, tmp_path / "moe")
    images = RNG.integers(0, 256, (3, 14, 15, 3), dtype="uint8")
    again = sk.models.load(tmp_path / "moe")
    np.testing.assert_allclose(again(images), model(images), atol=1e-6)


@pytest.mark.parametrize(
    "error,arguments",
    [
        (ShapeError, dict(num_classes=3, input_shape=(13, 32, 3))),
        (ShapeError, dict(num_classes=3, input_shape=(None, None, 3))),
        (ConfigError, dict()),
        (ConfigError, dict(num_classes=3, num_experts=10**6)),
        (ValueError, dict(num_classes=3, num_experts=2, top_k=3)),
    ],
    ids=str,
)
def test_impossible_networks_are_refused(error, arguments):
    with pytest.raises(error, match="Received|needs"):
        sk.models.create("moe_cnn", **arguments)


# --- the monitor ----------------------------------------------------------------------------------


def mixture(**options):
    inputs = keras.Input((6,))
    code = keras.layers.Dense(5, activation="relu", name="code")(inputs)
    experts = sk.layers.RoutedExperts(3, num_experts=4, batch_norm=False, name="experts", **options)(code)
    return keras.Model(inputs, keras.layers.Softmax(name="end")(experts))


def test_the_monitor_logs_the_routing_of_a_wrapped_model():
    model = wrapped(("code",), model=mixture())
    monitor = RoutingMonitor(X, Y, batch_size=7)
    logs = model.fit(X, Y, epochs=2, verbose=0, callbacks=[monitor]).history
    experts = model.model.get_layer("experts")
    code = keras.Model(model.model.input, experts.input)(X)
    entropy = sk.metrics.RoutingEntropy(4)
    entropy.update_state(experts.route(code))
    np.testing.assert_allclose(logs["routing_entropy"][-1], entropy.result(), rtol=1e-5)
    similarity = sk.metrics.expert_similarity(experts).mean
    np.testing.assert_allclose(logs["expert_similarity"][-1], similarity, rtol=1e-6)
    names = {"utilization_entropy", "routing_information", "dead_experts", "expert_output_similarity"}
    assert names | {"class_routing_entropy", "expert_class_entropy"} <= set(logs)


def test_the_monitor_names_the_tasks_and_repeats_values_between_looks():
    inputs = keras.Input((6,))
    layer = sk.layers.RoutedExperts(2, num_experts=3, tasks=("left", "right"))
    model = keras.Model(inputs, layer(inputs))
    model.compile(keras.optimizers.SGD(1.0), loss={"left": "mse", "right": "mse"})
    targets = {"left": np.ones((24, 2)), "right": np.zeros((24, 2))}
    logs = model.fit(X, targets, epochs=4, verbose=0, callbacks=[RoutingMonitor(X, every=2)]).history
    values = logs["left_routing_entropy"]
    assert "right_dead_experts" in logs and values[1] == values[2] and len(set(values)) == 3


@pytest.mark.fault(49)
def test_gates_that_are_not_finite_are_named():
    model = wrapped(("code",), model=mixture())
    experts = model.model.get_layer("experts")
    kernel = np.full(experts.router_layers[-1].kernel.shape, np.nan)
    experts.router_layers[-1].kernel.assign(kernel)
    with pytest.raises(NonFiniteError, match="NaN or infinity from 'experts'"):
        model.fit(X, Y, verbose=0, callbacks=[RoutingMonitor(X)])


def test_a_model_without_experts_is_refused():
    with pytest.raises(ValueError, match="Received: 0 such layers"):
        wrapped().fit(X, Y, verbose=0, callbacks=[RoutingMonitor(X)])
