"""Orbits of which training visits a few members, drawn anew for every batch."""

import itertools

import keras
import numpy as np
import pytest
from _arrays import array
from _equitune import Counting, rng, sample, wrap

from star_keras import groups
from star_keras.layers import EquiTune

LARGE = groups.Rotations(12)


@pytest.mark.parametrize("weighting", ["mean", "lambda", "argmin"])
@pytest.mark.parametrize("rows", [None, 1])
def test_as_many_draws_as_members_are_the_whole_orbit(weighting, rows):
    x = sample("dihedral", 3, "float32")
    whole = wrap("dihedral", weighting, invariant=False)
    whole.build(x.shape)
    drawn = EquiTune.from_config({**whole.get_config(), "num_samples": 8, "max_orbit_batch": rows})
    drawn.build(x.shape)
    for one, other in zip(drawn.trainable_variables, whole.trainable_variables, strict=True):
        one.assign(other)
    np.testing.assert_allclose(array(drawn(x, training=True)), array(whole(x)), atol=1e-5)


@pytest.mark.parametrize("count", [1, 2])
def test_each_batch_draws_members_anew_and_averages_them(count):
    x = sample("quarter turns", 2, "float32")
    wrapper = wrap("quarter turns", "mean", invariant=False, num_samples=count)
    wrapper.build(x.shape)
    group = wrapper.group
    members = np.stack(
        [array(group.act(group.inverse(g), wrapper.model(group.act(g, x)))) for g in range(group.order)]
    )
    known = [members[list(chosen)].mean(0) for chosen in itertools.combinations(range(group.order), count)]
    seen = []
    for _ in range(60):
        found = array(wrapper(x, training=True))
        distances = [np.abs(found - one).max() for one in known]
        seen.append(int(np.argmin(distances)))
        assert min(distances) < 1e-5
    assert set(seen) == set(range(len(known)))


def test_inference_visits_all():
    x = sample("dihedral", 3, "float32")
    whole, drawn = (wrap("dihedral", "lambda", invariant=False, num_samples=count) for count in (None, 2))
    for wrapper in (whole, drawn):
        wrapper.build(x.shape)
    for one, other in zip(drawn.trainable_variables, whole.trainable_variables, strict=True):
        one.assign(other)
    np.testing.assert_allclose(array(drawn(x)), array(whole(x)), atol=1e-6)
    np.testing.assert_allclose(array(drawn.orbit_weights(x)), array(whole.orbit_weights(x)), atol=1e-6)


def test_the_model_sees_only_the_drawn_members():
    model = Counting()
    wrapper = EquiTune(model, groups.Dihedral(4), num_samples=3)
    wrapper.build((5, 4, 4, 2))
    model.seen.clear()
    wrapper(np.ones((5, 4, 4, 2), "float32"), training=True)
    assert model.seen == [15]


@pytest.mark.filterwarnings("ignore:.*interpolates")
@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_large_group_is_learned_by_few_draws_and_again_with_the_same_seed(jit_compile):
    x = rng(0).normal(size=(32, 8, 8, 1)).astype("float32")
    targets = x[:, 2:6, 2:6].mean(axis=(1, 2))

    def trained():
        keras.utils.set_random_seed(0)
        inner = keras.Sequential(
            [keras.Input((8, 8, 1)), keras.layers.Conv2D(4, 3, activation="relu"), keras.layers.Flatten()]
        )
        inner.add(keras.layers.Dense(1))
        model = EquiTune(inner, LARGE, num_samples=2)
        model.compile(keras.optimizers.Adam(0.01), "mse", jit_compile=jit_compile)
        losses = model.fit(x, targets, epochs=30, batch_size=16, shuffle=False, verbose=0).history["loss"]
        return losses, [array(weight) for weight in inner.trainable_variables]

    (losses, one), (again, two) = trained(), trained()
    assert losses[-1] < 0.3 * losses[0]
    np.testing.assert_allclose(losses, again, rtol=1e-4)
    for weight, other in zip(one, two, strict=True):
        np.testing.assert_allclose(weight, other, atol=1e-5)


def test_it_is_saved_with_its_number_of_draws(tmp_path):
    x = sample("quarter turns", 2, "float32")
    counts = {"num_samples": np.int64(1), "max_orbit_batch": np.int32(2)}
    wrapper = wrap("quarter turns", "mean", invariant=True, **counts)
    wrapper(x, training=True)
    wrapper.save(tmp_path / "drawn.keras")
    again = keras.models.load_model(tmp_path / "drawn.keras")
    assert (again.num_samples, again.max_orbit_batch) == (1, 2)
    np.testing.assert_allclose(array(again(x)), array(wrapper(x)), atol=1e-6)
    assert np.abs(array(again(x, training=True)) - array(again(x))).max() > 1e-2


@pytest.mark.parametrize("group", [groups.Cyclic(4), groups.Dihedral(4), groups.Flip("width")], ids=repr)
def test_an_element_may_be_a_tensor(group):
    x = rng(0).normal(size=(2, 4, 4, 3)).astype("float32")
    for element in range(group.order):
        drawn = keras.ops.convert_to_tensor(element)
        np.testing.assert_array_equal(array(group.act(drawn, x)), array(group.act(element, x)))
        assert int(group.inverse(drawn)) == group.inverse(element)


@pytest.mark.parametrize("count", [0, 5, 1.5, True, "all"])
def test_a_wrong_number_of_draws_is_refused(count):
    with pytest.raises(ValueError, match="`num_samples` must be a whole number .* from 1 to 4.*Received"):
        wrap("quarter turns", num_samples=count)


def test_the_gradient_of_the_identity_cannot_be_drawn():
    with pytest.raises(ValueError, match="num_samples.*identity.*Received"):
        wrap("quarter turns", "argmin", invariant=True, gradient="identity", num_samples=2)
