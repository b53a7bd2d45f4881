"""Low-rank updates of Keras, `enable_lora`, in a model that is saved."""

import keras
import numpy as np
import pytest
from _elsewhere import assert_laws_hold

from star_keras import models

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (4, 16, 16, 3), dtype="uint8")
NAMES = ("code", "conv_1")


def kernels(model):
    return [keras.ops.convert_to_numpy(keras.ops.copy(model.get_layer(name).kernel)) for name in NAMES]


@pytest.mark.parametrize("float16", [False, True])
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_they_are_saved_in_the_kernels_they_update(policy, float16, tmp_path):
    model = models.create("moe_cnn", num_classes=3, num_experts=2, input_shape=(16, 16, 3), dtype=policy)
    shapes, before = [weight.shape for weight in model.get_weights()], kernels(model)
    for name in NAMES:
        model.get_layer(name).enable_lora(2)
        update = model.get_layer(name).lora_kernel_b
        update.assign(0.3 * RNG.normal(size=update.shape))
    models.save(model, tmp_path / "model", float16=float16)
    again = models.load(tmp_path / "model", dtype=policy)
    assert [weight.shape for weight in again.get_weights()] == shapes
    for found, expected, old in zip(kernels(again), kernels(model), before, strict=True):
        assert np.abs(expected - old).max() > 0.05
        np.testing.assert_allclose(found, expected, atol=1e-3 if float16 else 1e-6)
    if policy == "float32" and not float16:
        outputs = (keras.ops.convert_to_numpy(each(IMAGES)) for each in (again, model))
        np.testing.assert_allclose(*outputs, atol=1e-5)


@pytest.mark.slow
@pytest.mark.fault(60)
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_they_are_saved_on_other_backends(backend):
    assert_laws_hold(backend, [__file__], "kernels")
