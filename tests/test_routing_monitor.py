"""Laws of the monitor of routing, and of the search for weights that are not finite."""

import keras
import numpy as np
import pytest

import star_keras as sk
from star_keras.callbacks import RoutingMonitor
from star_keras.exceptions import NonFiniteError
from star_keras.guards.finite import nonfinite_layer
from star_keras.training import SoftNearestNeighborRegularization

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(24, 6)).astype("float32"), RNG.integers(0, 3, 24)


def wrapped(model):
    model = SoftNearestNeighborRegularization(model, ("code",))
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    return model


def layers(**options):
    options = {"hidden_units": (7,), "batch_norm": False, **options}
    code = keras.layers.Dense(5, activation="relu", name="code")
    experts = sk.layers.RoutedExperts(3, num_experts=4, name="experts", **options)
    return [code, experts, keras.layers.Softmax(name="end")]


def mixture(**options):
    return keras.Sequential([keras.Input((6,)), *layers(**options)])


def look(model, images=X, **options):
    """What a monitor writes at the end of an epoch that changes no weight."""
    monitor, logs = RoutingMonitor(images, **options), {}
    monitor.set_model(model)
    monitor.set_params({"epochs": 1})
    monitor.on_train_begin()
    monitor.on_epoch_end(0, logs)
    return logs


def spoil(variable, index=..., value=np.nan):
    values = np.array(keras.ops.convert_to_numpy(variable))
    values[index] = value
    variable.assign(values)


def test_the_monitor_logs_the_routing_of_a_wrapped_model():
    model = wrapped(mixture())
    monitor = RoutingMonitor(X, Y, batch_size=7)
    logs = model.fit(X, Y, epochs=2, verbose=0, callbacks=[monitor]).history
    experts = model.model.get_layer("experts")
    code = keras.Model(model.model.inputs[0], experts.input)(X)
    entropy = sk.metrics.RoutingEntropy(4)
    entropy.update_state(experts.route(code))
    np.testing.assert_allclose(logs["routing_entropy"][-1], entropy.result(), rtol=1e-5)
    similarity = sk.evaluation.expert_similarity(experts).mean
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


# --- what is not finite ---------------------------------------------------------------------------


@pytest.mark.fault(49)
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("depth", [0, 1])
def test_an_expert_with_broken_weights_is_named(depth, value):
    model = wrapped(mixture())
    spoil(model.model.get_layer("experts").expert_layers[depth].kernel, (2, 0, 0), value)
    with pytest.raises(NonFiniteError, match=r"weights of the layer 'experts', in its experts \[2\]"):
        look(model)


@pytest.mark.fault(49)
def test_broken_statistics_of_an_expert_and_experts_of_ones_own_are_named():
    model = mixture(batch_norm=True)
    spoil(model.get_layer("experts").normalizations[0].moving_mean, 3 * 7 + 1)
    with pytest.raises(NonFiniteError, match=r"in its experts \[3\]"):
        look(model)
    own = [keras.layers.Dense(3) for _ in range(4)]
    model = mixture(hidden_units=(), experts=own)
    for expert in own[1:3]:
        spoil(expert.kernel)
    with pytest.raises(NonFiniteError, match=r"in its experts \[1, 2\]"):
        look(model)


@pytest.mark.fault(49)
def test_broken_routers_are_named():
    model = mixture()
    spoil(model.get_layer("experts").router_layers[0].bias, (0, 0))
    with pytest.raises(NonFiniteError, match="weights of the layer 'experts', in its routers"):
        look(model)


@pytest.mark.fault(49)
def test_the_first_broken_layer_is_named_although_its_activation_hides_it():
    model = mixture()
    spoil(model.get_layer("experts").expert_layers[0].kernel)
    spoil(model.get_layer("code").bias)
    with pytest.raises(NonFiniteError, match="weights of the layer 'code'. "):
        look(wrapped(model))


@pytest.mark.fault(49)
def test_what_overflows_on_the_way_is_named():
    images = X.copy()
    images[3] = np.inf
    with pytest.raises(NonFiniteError, match="features that reach 'experts'.*in 1 of 24 rows.*inputs"):
        look(keras.Sequential([keras.Input((6,)), *layers()[1:]]), images)
    model = mixture()
    spoil(model.get_layer("experts").expert_layers[1].bias, (1, 0), 3e38)
    spoil(model.get_layer("experts").expert_layers[1].kernel, (1, slice(None), 0), 3e38)
    with pytest.raises(NonFiniteError, match=r"outputs of the experts \[1\] of 'experts'"):
        look(model)
    model = mixture()
    spoil(model.get_layer("experts").router_layers[0].kernel, value=3e38)
    with pytest.raises(NonFiniteError, match="gates of 'experts'"):
        look(model, 10 * X)


@pytest.mark.fault(49)
def test_the_first_layer_that_is_not_finite_is_found_however_deep_it_lies():
    inner = keras.Sequential([keras.Input((6,)), *(keras.layers.Dense(6, name=name) for name in "abc")])
    inputs = keras.Input((6,))
    model = keras.Model(inputs, keras.layers.Dense(2, name="d", dtype="bfloat16")(inner(inputs)))
    assert nonfinite_layer(model) is None
    for name, index in (("d", 0), ("c", 1), ("b", 5)):
        layer = model.get_layer(name) if name == "d" else inner.get_layer(name)
        layer.bias.assign(np.where(np.arange(layer.units) == index % layer.units, -np.inf, 0))
        assert nonfinite_layer(model) is layer
    assert nonfinite_layer(inner.get_layer("b")) is inner.get_layer("b")
    assert nonfinite_layer(inner.get_layer("a")) is None


@pytest.mark.fault(49)
def test_a_weight_of_the_model_itself_is_found_and_what_is_not_built_has_none():
    model = SoftNearestNeighborRegularization(mixture(), ("code",), temperature="trainable")
    model.inverse_temperature.assign(np.nan)
    assert nonfinite_layer(model) is model
    spoil(model.model.get_layer("experts").router_layers[0].kernel, 0)
    assert nonfinite_layer(model) is model.model.get_layer("experts")
    assert nonfinite_layer(keras.Sequential(layers())) is None


# --- what cannot be watched -----------------------------------------------------------------------


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.code, self.experts, self.end = layers()

    def call(self, inputs):
        return self.end(self.experts(self.code(inputs)))


def test_a_sequential_model_without_input_is_watched_like_another():
    for model in (keras.Sequential(layers()), wrapped(keras.Sequential(layers()))):
        model.compile("sgd", "sparse_categorical_crossentropy")
        logs = model.fit(X, Y, verbose=0, callbacks=[RoutingMonitor(X, Y)]).history
        assert 0 < logs["routing_entropy"][0] < np.log(4)


@pytest.mark.parametrize("wrap", [False, True])
def test_a_subclassed_model_is_refused_at_the_start(wrap):
    model = wrapped(Subclassed()) if wrap else Subclassed()
    model.compile("sgd", "sparse_categorical_crossentropy")
    starts = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: pytest.fail("started"))
    with pytest.raises(ValueError, match="Received: a `Subclassed`.*from `keras.Input`"):
        model.fit(X, Y, verbose=0, callbacks=[RoutingMonitor(X), starts])


def test_a_layer_inside_another_model_is_refused():
    inputs = keras.Input((6,))
    with pytest.raises(ValueError, match="Received: 0 such layers"):
        look(keras.Model(inputs, mixture()(inputs)))


@pytest.mark.fault(45)
@pytest.mark.parametrize("labels", [Y[:-1], np.eye(3)[Y], np.array(1), Y / 1.0, Y == 1])
def test_labels_that_are_not_one_for_each_image_are_refused(labels):
    with pytest.raises(ValueError, match=r"Received: `labels` of shape .* for 24 images"):
        RoutingMonitor(X, labels)
    RoutingMonitor(X, Y[:, None])
    RoutingMonitor({"left": X, "right": X}, Y.tolist())


@pytest.mark.parametrize("name", ["every", "batch_size"])
@pytest.mark.parametrize("value", [0, 2.5, True, "1"])
def test_numbers_that_are_not_whole_and_positive_are_refused(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be a positive whole number. Received: {name}="):
        RoutingMonitor(X, **{name: value})


def test_a_model_without_experts_is_refused():
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3, name="code")])
    with pytest.raises(ValueError, match="Received: 0 such layers"):
        look(wrapped(model))
