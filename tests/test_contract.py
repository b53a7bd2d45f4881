"""Every public class keeps the manners of Keras. The cases are in `contract_cases.py`."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from contract import ABSTRACT, exists, public_classes
from contract_cases import CASES
from contract_elsewhere import gather, record
from keras import ops

import star_keras

BACKENDS = ("tensorflow", "jax", "torch")
POLICIES = ("mixed_bfloat16", "mixed_float16")
INTEGERS = {"int32", "int64", "uint32"}


def cases(*kinds, **conditions):
    """Parametrises a test over the cases of these kinds, all by default."""
    chosen = [
        pytest.param(case, id=identity)
        for identity, case in CASES.items()
        if exists(case.path)
        and (not kinds or case.kind in kinds)
        and all(getattr(case, name) == value for name, value in conditions.items())
    ]
    return pytest.mark.parametrize("case", chosen)


def flat(structure):
    """Tensors of a structure as float32 arrays, in the order of Keras."""
    record(found := {}, "x", structure)
    return list(found.values())


def shapes(structure):
    return keras.tree.map_structure(lambda tensor: tuple(tensor.shape), structure)


def plain(value):
    """A config value: tuples as lists, Keras objects as records without the shapes they were built for."""
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if key != "build_config"}
    if isinstance(value, (str, int, float, type(None))):
        return value
    return plain(json.loads(json.dumps(keras.saving.serialize_keras_object(value))))


@pytest.fixture
def policy(request):
    keras.config.set_dtype_policy(request.param)
    return request.param


def test_every_public_class_has_a_case():
    covered = {case.path for case in CASES.values()} | ABSTRACT
    missing = [path for path in public_classes() if path not in covered]
    assert not missing, f"Add a case for each of these to tests/contract_cases.py: {missing}"


@cases()
def test_config_is_what_the_user_passed_also_after_building(case):
    if not isinstance(case.owner, type):
        pytest.skip("made by a function: Keras writes its config")
    arguments = case.user_arguments
    instance = case.owner(**arguments)
    before = instance.get_config()
    assert json.loads(json.dumps(plain(before))) == plain(before)
    for name, value in arguments.items():
        assert plain(before[name]) == plain(value), name
    case.run(instance, *case.arrays())
    assert plain(instance.get_config()) == plain(before)


@cases()
def test_serialised_and_deserialised_it_is_the_same(case):
    record_of_it = keras.saving.serialize_keras_object(case.make())
    again = keras.saving.deserialize_keras_object(json.loads(json.dumps(record_of_it)))
    assert plain(keras.saving.serialize_keras_object(again)) == plain(record_of_it)
    if isinstance(case.owner, type):
        assert type(again) is case.owner
        assert keras.saving.get_registered_name(case.owner) == f"star_keras>{case.owner.__name__}"


@cases("layer", "model")
def test_frozen_it_is_frozen_when_it_is_made_again(case):
    frozen = case.make()
    case.model(frozen)
    frozen.trainable = False
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(frozen))
    case.model(again)
    for instance in (frozen, again):
        assert not [weight.path for weight in instance.weights if weight.trainable]


@cases("model")
def test_with_a_frozen_part_it_is_made_again_with_that_part_frozen(case):
    for number, part in enumerate(case.model(case.make()).layers):
        if not part.weights:
            continue
        model = case.make()
        case.model(model)
        model.layers[number].trainable = False
        again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(model))
        case.model(again)
        assert [w.trainable for w in again.weights] == [w.trainable for w in model.weights], part.name


@cases("layer", "model")
def test_made_frozen_it_is_frozen(case):
    if not isinstance(case.owner, type) or case.path.startswith("training."):
        pytest.skip("made by a function, or made to train parts that are frozen one by one")
    frozen = case.owner(**case.user_arguments, trainable=False)
    for instance in (case.owner.from_config(frozen.get_config()), frozen):
        case.model(instance)
        assert not [weight.path for weight in instance.weights if weight.trainable]


@cases("layer", "model")
def test_symbolic_and_eager_shapes_and_types_agree(case):
    instance, arrays = case.make(), case.arrays()
    symbols = keras.tree.map_structure(lambda a: keras.KerasTensor(a.shape, dtype=str(a.dtype)), arrays)
    promised = instance.compute_output_spec(*symbols)
    outputs = case.run(instance, *arrays)
    assert shapes(promised) == shapes(outputs)
    for symbol, output in zip(keras.tree.flatten(promised), keras.tree.flatten(outputs), strict=True):
        assert symbol.dtype == keras.backend.standardize_dtype(output.dtype)


@cases("layer", "model")
def test_weights_exist_after_build_alone(case):
    built, called = case.make(), case.make()
    built.build(*case.shapes())
    called(*case.arrays())
    assert [tuple(v.shape) for v in built.variables] == [tuple(v.shape) for v in called.variables]


@cases("layer", "model", same_everywhere=True)
def test_batch_size_may_be_unknown_until_the_call(case):
    tf = pytest.importorskip("tensorflow")
    model, arrays = case.model(), case.arrays()
    signature = keras.tree.map_structure(lambda a: tf.TensorSpec((None, *a.shape[1:]), a.dtype), arrays)

    @tf.function(input_signature=signature)
    def infer(*inputs):
        return model(inputs if len(inputs) > 1 else inputs[0], training=False)

    whole, part = flat(infer(*arrays)), flat(infer(*keras.tree.map_structure(lambda a: a[:3], arrays)))
    for all_rows, some_rows in zip(whole, part, strict=True):
        np.testing.assert_allclose(some_rows, all_rows[:3], rtol=1e-5, atol=1e-5)


@cases("loss", "metric", "function")
def test_jitted_it_computes_the_same(case):
    tf = pytest.importorskip("tensorflow")
    instance, arrays = case.make(), case.arrays()
    jitted = tf.function(lambda *inputs: case.run(instance, *inputs), jit_compile=True)(*arrays)
    for actual, expected in zip(flat(jitted), flat(case.run(case.make(), *arrays)), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


@cases("layer", "model")
def test_one_jitted_training_step_moves_the_weights(case):
    model = case.model()
    if not model.trainable_variables:
        pytest.skip("has no weights")
    before = [flat(variable)[0] for variable in model.trainable_variables]
    assert np.isfinite(case.train_one_step(model, jit_compile=True))
    after = [flat(variable)[0] for variable in model.trainable_variables]
    assert all(np.isfinite(values).all() for values in after)
    assert any(np.abs(new - old).max() > 0 for new, old in zip(after, before, strict=True))


@pytest.mark.parametrize("policy", POLICIES, indirect=True)
@cases()
def test_half_precision_is_finite_and_keeps_variables_in_float32(case, policy):
    instance, arrays = case.make(), case.arrays()
    if case.kind == "loss":
        arrays = [in_half(array, policy) for array in arrays]
    training = {"training": True} if case.kind in ("layer", "model") and case.call is None else {}
    outputs = case.run(instance, *arrays, **training)
    assert all(np.isfinite(values).all() for values in flat(outputs))
    assert {variable.dtype for variable in getattr(instance, "variables", [])} <= {"float32", *INTEGERS}
    if case.kind == "loss":
        kinds = {keras.backend.standardize_dtype(value.dtype) for value in keras.tree.flatten(outputs)}
        assert kinds == {"float32"}


def in_half(array, policy):
    """What a layer of this policy would hand to a loss; labels stay as they are."""
    return ops.cast(array, policy.removeprefix("mixed_")) if array.dtype == "float32" else array


# --- other processes, other backends --------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Every case saved, and its outputs and its weights after one step here in `expected.npz`."""
    folder = tmp_path_factory.mktemp("contract")
    np.savez(folder / "expected.npz", **gather(lambda identity, case: save(identity, case, folder)))
    return folder


def save(identity, case, folder):
    """Writes the files of one case and returns what other processes have to compute from them."""
    expected = {}
    if case.kind not in ("layer", "model"):
        record(expected, f"{identity}/computed", case.run(case.make(), *case.arrays()))
        return expected
    model = case.model()
    model.save(folder / f"{identity}.keras")
    model.save_weights(folder / f"{identity}.weights.h5")
    outputs = model(case.model_inputs(), training=False)
    record(expected, f"{identity}/loaded", outputs)
    record(expected, f"{identity}/rebuilt", outputs)
    if case.same_everywhere and model.trainable_variables:
        case.train_one_step(model, jit_compile=False)
        record(expected, f"{identity}/trained", list(model.weights))
    return expected


@pytest.fixture(scope="module")
def answers(folder):
    """What a new process of each backend computes from the saved files."""
    script = Path(__file__).with_name("contract_elsewhere.py")
    root = str(Path(star_keras.__file__).parents[1])
    processes = {}
    for backend in BACKENDS:
        if importlib.util.find_spec(backend) is not None:
            environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": root, "JAX_PLATFORMS": "cpu"}
            processes[backend] = subprocess.Popen(
                [sys.executable, str(script), str(folder)],
                env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip
    logs = {backend: process.communicate()[0] for backend, process in processes.items()}
    for backend, process in processes.items():
        assert process.returncode == 0, f"{backend}:\n{logs[backend]}"
    return {backend: dict(np.load(folder / f"{backend}.npz")) for backend in processes}


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@cases()
def test_a_new_process_of_any_backend_computes_the_same(case, backend, folder, answers, request):
    if backend not in answers:
        pytest.skip(f"{backend} is not installed")
    if backend != "tensorflow" and not case.same_everywhere:
        pytest.skip("draws random numbers, which differ between backends")
    identity = next(name for name, other in CASES.items() if other is case)
    expected = dict(np.load(folder / "expected.npz"))
    for results in (expected, answers[backend]):
        assert f"{identity}/error" not in results, str(results[f"{identity}/error"])
    keys = [key for key in expected if key.startswith(f"{identity}/")]
    assert keys and keys == [key for key in answers[backend] if key.startswith(f"{identity}/")]
    for key in keys:
        np.testing.assert_allclose(answers[backend][key], expected[key], rtol=1e-5, atol=1e-5, err_msg=key)
