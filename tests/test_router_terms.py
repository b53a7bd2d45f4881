"""Terms of the router, added by the wrapper that trains."""

import keras
import numpy as np
import pytest

import star_keras as sk
from star_keras import losses
from star_keras.training import SoftNearestNeighborRegularization

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(24, 6)).astype("float32"), RNG.integers(0, 3, 24)
TERMS = ("load_balance", "router_z", "gate_entropy", "importance_variation", "expert_overlap")


def experts(**options):
    return sk.layers.RoutedExperts(3, 4, batch_norm=False, hidden_units=(5,), name="experts", **options)


def classifier():
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6,))
    code = keras.layers.Dense(8, activation="relu", name="code")(inputs)
    return keras.Model(inputs, keras.layers.Softmax()(experts()(code)))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.code = keras.layers.Dense(8, activation="relu", name="code")
        self.experts = experts()

    def call(self, inputs):
        return keras.ops.softmax(self.experts(self.code(inputs)))


def wrapped(model=None, optimizer="sgd", **options):
    model = SoftNearestNeighborRegularization(model or classifier(), ("code",), **options)
    model.compile(optimizer, "sparse_categorical_crossentropy")
    return model


def expected_terms(model):
    layer, code = model.get_layer("experts"), model.get_layer("code")(X)
    gates, logits = layer.route(code), layer.router_logits(code)
    overlaps = [losses.expert_overlap(stack.kernel) for stack in layer.expert_layers]
    return {
        "load_balance": losses.load_balance(gates),
        "router_z": np.mean(losses.router_z(logits)),
        "gate_entropy": np.mean(losses.gate_entropy(gates)),
        "importance_variation": losses.importance_variation(gates),
        "expert_overlap": np.mean([float(overlap) for overlap in overlaps]),
    }


@pytest.mark.parametrize("term", TERMS)
def test_loss_is_that_of_the_task_and_the_weighted_term(term):
    model = wrapped(weight=0, router_weights={term: 0.3})
    found = model.evaluate(X, Y, batch_size=24, verbose=0, return_dict=True)
    value = float(expected_terms(model.model)[term])
    assert found[term] == pytest.approx(value, rel=1e-5)
    assert found["loss"] == pytest.approx(found["task_loss"] + 0.3 * value, rel=1e-5)


def test_terms_add_up_beside_the_neighbours():
    weights = dict.fromkeys(TERMS, 0.1)
    with_terms, without = wrapped(router_weights=weights), wrapped()
    value = sum(float(term) for term in expected_terms(with_terms.model).values())
    losses_found = [m.evaluate(X, Y, batch_size=24, verbose=0)[0] for m in (with_terms, without)]
    assert losses_found[0] - losses_found[1] == pytest.approx(0.1 * value, rel=1e-4)


def test_a_subclassed_model_is_balanced_like_a_functional_one():
    functional, subclassed = classifier(), Subclassed()
    subclassed(X)
    for name in ("code", "experts"):
        subclassed.get_layer(name).set_weights(functional.get_layer(name).get_weights())
    options = {"weight": 0.5, "router_weights": {"load_balance": 0.1, "router_z": 0.01}}
    found = [wrapped(m, **options).evaluate(X, Y, verbose=0) for m in (functional, subclassed)]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)


@pytest.mark.parametrize("factor, sign", [(1.0, 1), (-1.0, -1)])
def test_training_moves_a_term_where_its_factor_points(factor, sign):
    model = wrapped(weight=0, router_weights={"gate_entropy": factor}, optimizer=keras.optimizers.SGD(0.5))
    before = float(expected_terms(model.model)["gate_entropy"])
    model.fit(X, Y, batch_size=24, epochs=30, verbose=0)
    after = float(expected_terms(model.model)["gate_entropy"])
    assert sign * (before - after) > 0.01


def test_a_balanced_router_uses_its_experts_more_evenly():
    def load_after_training(weights):
        model = wrapped(weight=0, router_weights=weights, optimizer=keras.optimizers.Adam(0.02))
        model.fit(X, Y, batch_size=24, epochs=60, verbose=0)
        return float(expected_terms(model.model)["importance_variation"])

    assert load_after_training({"importance_variation": 1.0}) < 0.5 * load_after_training(None)


def test_every_task_of_the_router_counts_alike():
    inputs = keras.Input((6,))
    code = keras.layers.Dense(8, name="code")(inputs)
    outputs = experts(tasks=("one", "two"))(code)
    mixed = keras.layers.Softmax()(keras.layers.Add()([outputs["one"], outputs["two"]]))
    model = wrapped(keras.Model(inputs, mixed), weight=0, router_weights={"load_balance": 1.0})
    gates = model.model.get_layer("experts").route(model.model.get_layer("code")(X))
    expected = np.mean([float(losses.load_balance(task)) for task in gates.values()])
    found = model.evaluate(X, Y, batch_size=24, verbose=0, return_dict=True)
    assert found["load_balance"] == pytest.approx(expected, rel=1e-5)


def test_config_keeps_the_factors():
    model = wrapped(router_weights={"load_balance": 0.01})
    again = SoftNearestNeighborRegularization.from_config(model.get_config())
    assert again.router_weights == {"load_balance": 0.01}
    assert wrapped().get_config()["router_weights"] is None


@pytest.mark.parametrize("weights", [{"balance": 1.0}, {"load_balance": float("nan")}, {"router_z": True}])
def test_unknown_terms_and_factors_are_refused(weights):
    with pytest.raises(ValueError, match="`router_weights` must give finite factors to some of .*Received"):
        wrapped(router_weights=weights)


def test_overlap_of_own_experts_is_refused():
    own = [keras.layers.Dense(2), keras.layers.Dense(2)]
    inputs = keras.Input((6,))
    code = keras.layers.Dense(3, name="code")(inputs)
    model = keras.Model(inputs, sk.layers.RoutedExperts(2, 2, experts=own)(code))
    with pytest.raises(ValueError, match="`expert_overlap` compares kernels.*Received"):
        SoftNearestNeighborRegularization(model, ("code",), router_weights={"expert_overlap": 1.0})


def test_a_model_without_experts_has_no_router():
    plain = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3, name="code")])
    with pytest.raises(ValueError, match="one `RoutedExperts` layer. Received: a model with 0"):
        wrapped(plain, router_weights={"load_balance": 1.0})
