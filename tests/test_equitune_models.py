"""What `EquiTune` wraps, trains, saves, exports and refuses."""

import re

import keras
import numpy as np
import pytest
from _arrays import array
from _equitune import S3, SETTINGS, SHIFTS, Counting, classifier, network, rng, sample, wrap
from keras import ops

from star_keras import groups
from star_keras.exceptions import NonFiniteError, ShapeError
from star_keras.layers import EquiTune

# Structures of inputs and outputs


def two_inputs():
    image, age = keras.Input((4, 4, 2), name="image"), keras.Input((3,), name="age")
    hidden = keras.layers.Dense(5, "tanh")(keras.layers.Flatten()(image))
    return image, age, keras.layers.Dense(4)(keras.layers.Concatenate()([hidden, age]))


@pytest.mark.fault(54)
@pytest.mark.parametrize("kind", [dict, list])
@pytest.mark.parametrize("rows", [None, 3])
def test_only_the_inputs_that_are_named_move(kind, rows):
    image, age, outputs = two_inputs()
    model = keras.Model({"image": image, "age": age} if kind is dict else [image, age], outputs)
    wrapper = EquiTune(model, groups.Cyclic(4), inputs="image", max_orbit_batch=rows)
    values = rng(2).normal(size=(3, 4, 4, 2)).astype("float32"), rng(3).normal(size=(3, 3)).astype("float32")
    x = dict(zip(("image", "age"), values, strict=True)) if kind is dict else list(values)

    def call(k):
        turned = np.rot90(values[0], k, axes=(1, 2)).copy()
        return array(model({**x, "image": turned} if kind is dict else [turned, values[1]]))

    np.testing.assert_allclose(array(wrapper(x)), np.mean([call(k) for k in range(4)], axis=0), atol=1e-5)
    assert wrapper.equivariance_error(x).max() < 1e-5


def test_a_wrapper_of_a_wrapper_of_several_inputs_moves_by_both_groups():
    image, age, outputs = two_inputs()
    model = keras.Model({"image": image, "age": age}, outputs)
    inner = EquiTune(model, groups.Flip("width"), inputs=["image"])
    outer = EquiTune(inner, groups.Flip("height"), inputs=["image"])
    x = {"image": rng(2).normal(size=(3, 4, 4, 2)), "age": rng(3).normal(size=(3, 3))}
    x = {name: values.astype("float32") for name, values in x.items()}
    moved = [{**x, "image": x["image"][:, ::down, ::right]} for down in (1, -1) for right in (1, -1)]
    expected = np.mean([array(model(one)) for one in moved], axis=0)
    np.testing.assert_allclose(array(outer(x)), expected, atol=1e-6)


@pytest.mark.fault(54)
def test_several_inputs_without_names_and_names_of_no_input_are_refused():
    image, age, outputs = two_inputs()
    x = {"image": np.zeros((2, 4, 4, 2), "float32"), "age": np.zeros((2, 3), "float32")}
    model = keras.Model({"image": image, "age": age}, outputs)
    with pytest.raises(ValueError, match="needs `inputs`.*Received: inputs=None"):
        EquiTune(model, groups.Cyclic(4))(x)
    with pytest.raises(ValueError, match=r"Received: inputs=\['picture'\].*image"):
        EquiTune(model, groups.Cyclic(4), inputs=["picture"])(x)
    with pytest.raises(ValueError, match="not named"):
        EquiTune(classifier(), groups.Cyclic(4), inputs=["image"])(x["image"])


@pytest.mark.fault(54)
@pytest.mark.parametrize("rows", [None, 3])
def test_every_output_of_a_dict_or_tuple_is_averaged(rows):
    inputs = keras.Input((4, 4, 2))
    maps = keras.layers.Conv2D(2, 3, padding="same")(inputs)
    vector = keras.layers.Dense(3)(keras.layers.Flatten()(maps))
    group, x = groups.Dihedral(4), sample("dihedral", dtype="float32")
    structures = {
        "dict": ({"maps": maps, "classes": vector}, {"maps": group, "classes": None}),
        "tuple": ((maps, maps), group),
        "list": ([vector, vector], None),
    }
    for outputs, output_group in structures.values():
        model = keras.Model(inputs, outputs)
        wrapper = EquiTune(model, group, output_group, max_orbit_batch=rows)
        assert wrapper.equivariance_error(x).max() < 1e-5
        found = wrapper(x)
        assert type(found) is type(outputs) and len(found) == len(outputs)
        if isinstance(outputs, dict):
            alone = EquiTune(keras.Model(inputs, maps), group, group)(x)
            np.testing.assert_allclose(array(found["maps"]), array(alone), atol=1e-6)


@pytest.mark.fault(55)
def test_feature_maps_need_a_word_about_how_they_move():
    maps, x = network((4, 4, 2), (4, 4, 2)), sample("dihedral", dtype="float32")
    with pytest.raises(ValueError, match=r"feature map.*Received: output of shape \(None, 4, 4, 2\)"):
        EquiTune(maps, groups.Dihedral(4))(x)
    turned = EquiTune(maps, groups.Dihedral(4), groups.Dihedral(4))
    assert turned.equivariance_error(x).max() < 1e-5
    invariant = EquiTune(maps, groups.Dihedral(4), "invariant")
    np.testing.assert_allclose(array(invariant(x)), array(invariant(np.rot90(x, axes=(1, 2)))), atol=1e-5)
    sequences = EquiTune(network((2, 3), (2, 3)), groups.Permutation(S3))  # nothing spatial moves
    assert sequences(np.ones((2, 2, 3), "float32")).shape == (2, 2, 3)


@pytest.mark.fault(55)
def test_regular_outputs_turn_their_pixels_and_permute_their_channels():
    group = groups.Joint(groups.Cyclic(4), groups.Permutation(SHIFTS))
    wrapper = EquiTune(network((4, 4, 4), (4, 4, 4)), groups.Cyclic(4), group)
    x = sample("regular channels", dtype="float32")
    turned = array(wrapper(np.rot90(x, axes=(1, 2)).copy()))
    expected = np.roll(np.rot90(array(wrapper(x)), axes=(1, 2)), 1, axis=-1)
    np.testing.assert_allclose(turned, expected, atol=1e-5)


@pytest.mark.fault(52)
def test_images_that_are_not_square_are_refused_before_the_model_runs():
    model = Counting()
    with pytest.raises(ShapeError, match=r"square maps.*Received: shape \(4, 6, 2\)"):
        EquiTune(model, groups.Cyclic(4))(np.zeros((2, 4, 6, 2), "float32"))
    assert not model.seen
    with pytest.raises(ShapeError, match="at least 3 axes beside the batch"):
        EquiTune(model, groups.Flip())(np.zeros((2, 4, 6), "float32"))
    assert EquiTune(model, groups.Dihedral(2))(np.ones((2, 4, 6, 2), "float32")).shape == (2, 2)


# Broken scores


def broken_wrapper(weighting):
    """A wrapper whose score is NaN on the second row."""
    score = keras.layers.Dense(1) if weighting == "lambda" else "max_value"
    wrapper = EquiTune(classifier(), groups.Cyclic(4), weighting=weighting, score=score)
    x = sample("quarter turns", dtype="float32")
    x[1, 0, 0, 0] = np.nan
    return wrapper, x


@pytest.mark.fault(57)
@pytest.mark.parametrize("weighting", ["lambda", "argmin"])
def test_a_score_that_is_nan_raises_eagerly(weighting):
    wrapper, x = broken_wrapper(weighting)
    for ask in (wrapper, wrapper.orbit_weights):
        with pytest.raises(NonFiniteError, match="Received: nan for 4 of 12"):
            ask(x)


@pytest.mark.fault(57)
@pytest.mark.parametrize("weighting", ["lambda", "argmin"])
@pytest.mark.parametrize("ties", ["mean", "first"])
@pytest.mark.parametrize("jit", [True, False])
def test_a_score_that_is_nan_gives_nan_weights_in_a_graph(weighting, ties, jit):
    tf = pytest.importorskip("tensorflow")
    wrapper, x = broken_wrapper(weighting)
    wrapper.ties = ties
    wrapper.build(x.shape)
    weights = array(tf.function(wrapper.orbit_weights, jit_compile=jit)(x))
    outputs = array(tf.function(wrapper, jit_compile=jit)(x))
    assert np.isnan(weights[1]).all() and np.isnan(outputs[1]).all()
    np.testing.assert_allclose(weights[[0, 2]].sum(axis=1), 1, atol=1e-6)
    assert np.isfinite(outputs[[0, 2]]).all()


def test_scores_must_be_one_number_for_each_row():
    x = sample("quarter turns", dtype="float32")
    for score in (lambda y: y, ops.mean, lambda y: ops.mean(y, axis=1)[:5]):
        with pytest.raises(ShapeError, match="one number for each row"):
            EquiTune(classifier(), groups.Cyclic(4), weighting="argmin", score=score)(x)
    with pytest.raises(ShapeError, match=r"Received: outputs of shape \(None, 2\)"):
        EquiTune(classifier(), groups.Cyclic(4), weighting="lambda", score=keras.layers.Dense(2))(x)
    maps = keras.layers.Conv2D(3, 3, name="maps")
    pooled = keras.Sequential([keras.Input((4, 4, 2)), maps, keras.layers.Flatten()])
    with pytest.raises(ShapeError, match=r"for features of shape \(None, 2, 2, 3\)"):
        EquiTune(pooled, groups.Cyclic(4), weighting="lambda", score=keras.layers.Dense(1), features="maps")(
            x
        )


# Training, saving, export


def compiled(wrapper, **options):
    wrapper.compile(keras.optimizers.Adam(0.02), "mse", **options)
    return wrapper


@pytest.mark.parametrize("weighting, options", [("lambda", {}), ("argmin", {"gradient": "selected"})])
def test_it_fits_in_jitted_steps_and_stays_equivariant(weighting, options):
    wrapper = compiled(wrap("quarter turns", weighting, invariant=True, **options), jit_compile=True)
    x = sample("quarter turns", 12, "float32")
    y = (x**2).mean(axis=(1, 2, 3), keepdims=True).reshape(-1, 1) * np.ones((1, 4))
    losses = wrapper.fit(x, y, batch_size=6, epochs=15, verbose=0).history["loss"]
    assert losses[-1] < 0.8 * losses[0]
    assert wrapper.equivariance_error(x).max() < 1e-4
    np.testing.assert_allclose(wrapper.predict(x, verbose=0), array(wrapper(x)), atol=1e-5)


def frozen_copy(model):
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    copy.trainable = False
    return copy


def test_stages_are_set_by_trainable_and_frozen_features_keep_lambda_fixed():
    model = classifier()
    wrapper = EquiTune(
        model,
        groups.Cyclic(4),
        weighting="lambda",
        score=keras.layers.Dense(1),
        features=frozen_copy(model),
    )
    x, y = sample("quarter turns", 6, "float32"), rng(4).normal(size=(6, 4)).astype("float32")

    def moved_by_a_step():
        parts = wrapper.model, wrapper.score
        before = [np.concatenate([w.ravel() for w in part.get_weights()]) for part in parts]
        compiled(wrapper).fit(x, y, verbose=0)
        after = [np.concatenate([w.ravel() for w in part.get_weights()]) for part in parts]
        return [bool((old != new).any()) for old, new in zip(before, after, strict=True)]

    wrapper.build(x.shape)
    wrapper.model.trainable = False
    assert moved_by_a_step() == [False, True]
    wrapper.model.trainable, wrapper.score.trainable = True, False
    weights = array(wrapper.orbit_weights(x))
    assert moved_by_a_step() == [True, False]
    np.testing.assert_array_equal(array(wrapper.orbit_weights(x)), weights)
    wrapper.score.trainable = True
    assert moved_by_a_step() == [True, True]


def test_features_that_share_weights_with_the_model_are_refused():
    model = classifier()
    shared = keras.Model(model.input, model.get_layer("hidden").output)
    wrapper = EquiTune(
        model, groups.Cyclic(4), weighting="lambda", score=keras.layers.Dense(1), features=shared
    )
    with pytest.raises(ValueError, match="must not share weights"):
        wrapper.build((None, 4, 4, 2))


@keras.saving.register_keras_serializable(package="tests")
def spread(outputs):
    return -ops.std(outputs, axis=-1)


@pytest.mark.parametrize(
    "options",
    [
        dict(weighting="argmin", score=spread, max_orbit_batch=4, inputs=None),
        dict(weighting="lambda", score="layer", features="copy"),
        dict(output_group="invariant", combine="probs", max_orbit_batch=None),
    ],
    ids=["function", "copy", "invariant"],
)
def test_saved_and_loaded_it_computes_the_same(options, tmp_path):
    model = classifier()
    named = {"layer": lambda: keras.layers.Dense(1), "copy": lambda: frozen_copy(classifier())}
    options = {
        key: named[value]() if isinstance(value, str) and value in named else value
        for key, value in options.items()
    }
    wrapper, x = EquiTune(model, groups.Dihedral(4), **options), sample("dihedral", dtype="float32")
    expected = array(wrapper(x))
    wrapper.save(tmp_path / "wrapper.keras")
    loaded = keras.saving.load_model(tmp_path / "wrapper.keras")
    np.testing.assert_array_equal(array(loaded(x)), expected)
    wrapper.save_weights(tmp_path / "wrapper.weights.h5")
    blank = EquiTune.from_config(wrapper.get_config())
    blank.build(x.shape)
    assert np.abs(array(blank(x)) - expected).max() > 1e-3
    blank.load_weights(tmp_path / "wrapper.weights.h5")
    np.testing.assert_array_equal(array(blank(x)), expected)


def test_exported_it_computes_the_same(tmp_path):
    tf = pytest.importorskip("tensorflow")
    wrapper, x = wrap("dihedral", "lambda"), sample("dihedral", dtype="float32")
    expected = array(wrapper(x))
    wrapper.export(tmp_path / "exported", verbose=False)
    restored = tf.saved_model.load(str(tmp_path / "exported"))
    np.testing.assert_allclose(array(restored.serve(tf.constant(x))), expected, atol=1e-5)
    np.testing.assert_allclose(array(restored.serve(tf.constant(x[:1]))), expected[:1], atol=1e-5)


def test_it_is_applied_to_every_frame_of_a_film():
    wrapper = EquiTune(network((4, 4, 2)), groups.Cyclic(4))
    film = keras.Input((None, 4, 4, 2), batch_size=2)
    model = keras.Model(film, keras.layers.TimeDistributed(wrapper)(film))
    frames = rng(1).normal(size=(6, 4, 4, 2)).astype("float32")
    found = array(model(frames.reshape((2, 3, 4, 4, 2))))
    assert model.output_shape == (2, None, 4) and found.shape == (2, 3, 4)
    np.testing.assert_allclose(found.reshape((6, 4)), array(wrapper(frames)), atol=1e-6)


def test_a_plain_layer_a_sequential_and_a_model_inside_a_functional_model_can_be_wrapped():
    x = sample("states", dtype="float32")
    group = SETTINGS["states"][0]
    dense = EquiTune(keras.layers.Dense(3, "relu"), group)
    assert dense.equivariance_error(x).max() < 1e-5
    stack = keras.Sequential([keras.layers.Dense(5, "relu", name="hidden"), keras.layers.Dense(3)])
    assert EquiTune(stack, group).equivariance_error(x).max() < 1e-5
    inputs = keras.Input((2,))
    around = keras.Model(inputs, keras.layers.Dense(2)(dense(inputs)))
    np.testing.assert_allclose(array(around(x)), array(around(group.act(1, x))), atol=1e-5)


# Wrong arguments


WRONG = [
    (dict(model="resnet20"), "`model` must be a Keras model"),
    (dict(group="C4"), "`group` must be a group"),
    (dict(weighting="max"), "Received: weighting='max'"),
    (dict(ties="last"), "Received: ties='last'"),
    (dict(gradient="true"), "Received: gradient='true'"),
    (dict(combine="logits"), "Received: combine='logits'"),
    (dict(temperature=0.0), "must be positive"),
    (dict(temperature=float("nan")), "must be positive"),
    (dict(max_orbit_batch=0), "Received: max_orbit_batch=0"),
    (dict(max_orbit_batch=True), "Received: max_orbit_batch=True"),
    (dict(max_orbit_batch="all"), "Received: max_orbit_batch='all'"),
    (dict(score="entropy"), "needs no score"),
    (dict(weighting="lambda"), "needs a layer as `score`"),
    (dict(weighting="lambda", score="entropy"), "needs a layer as `score`"),
    (dict(weighting="argmin"), "needs a loss as `score`"),
    (dict(weighting="argmin", score="energy"), "needs a loss.*Received: score='energy'"),
    (dict(features="hidden"), 'read by weighting="lambda" alone'),
    (dict(weighting="lambda", score=keras.layers.Dense(1), features="code"), "features='code'.*hidden"),
    (dict(weighting="lambda", score=keras.layers.Dense(1), features=3), "Received: features=3"),
    (dict(output_group="equivariant"), "Received: output_group='equivariant'"),
    (dict(output_group=groups.Cyclic(2)), "of order 4 and .* of order 2"),
    (
        dict(output_group=groups.Product(groups.Flip("width"), groups.Flip("height"))),
        r"compose\(1, 1\) is 2 in Cyclic\(4\) and 0 in Product",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_wrong_arguments_are_refused_with_what_was_received(arguments, message):
    arguments = {"model": classifier(), "group": groups.Cyclic(4), **arguments}
    with pytest.raises(ValueError, match=message):
        EquiTune(**arguments)


@pytest.mark.parametrize("group", [groups.Cyclic(4), groups.Dihedral(4), groups.Flip()], ids=repr)
@pytest.mark.parametrize("shape", [(1, 2, 4, 4), (1, 2, 6, 4), (1, 2, 2, 4)])
def test_channels_that_come_first_are_told_before_what_the_group_needs(group, shape):
    message = rf"\(None, 4, 4, 2\), channels last. Received: shape {re.escape(str(shape))}. The channels come"
    image, age, outputs = two_inputs()
    x, ages = np.zeros(shape, "float32"), np.zeros((1, 3), "float32")
    with pytest.raises(ShapeError, match=message):
        EquiTune(classifier(), group)(x)
    with pytest.raises(ShapeError, match=message):
        EquiTune(keras.Model([image, age], outputs), group, inputs="image")([x, ages])


def test_oblong_maps_are_told_what_to_do_where_the_model_does_not_say_its_layout():
    with pytest.raises(ShapeError, match="Move channels that come first to the end; crop or pad"):
        EquiTune(keras.layers.Flatten(), groups.Cyclic(4))(np.zeros((1, 3, 4, 4), "float32"))


def test_outputs_that_cannot_be_averaged_or_named_are_refused():
    x = sample("quarter turns", dtype="float32")
    inputs = keras.Input((4, 4, 2))
    vector = keras.layers.Dense(3)(keras.layers.Flatten()(inputs))
    whole = keras.Model(inputs, ops.argmax(vector, axis=-1))
    with pytest.raises(ValueError, match="floating type. Received: an output of type int"):
        EquiTune(whole, groups.Cyclic(4))(x)
    named = keras.Model(inputs, {"a": vector, "b": vector})
    with pytest.raises(ValueError, match=r"names of the outputs. Received: \['c'\]"):
        EquiTune(named, groups.Cyclic(4), {"c": groups.Cyclic(4)})(x)
    with pytest.raises(ValueError, match="looks at a single output"):
        EquiTune(named, groups.Cyclic(4), weighting="argmin", score="entropy")(x)
