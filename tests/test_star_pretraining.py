"""Laws of STAR pretraining. Networks are small; images are random unless a law needs none."""

import keras
import numpy as np
import pytest
from keras import ops

import star_keras as sk
from star_keras.exceptions import NonFiniteError

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), dtype="uint8")
TASKS = ("invariant", "equivariant")


def small_backbone():
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Rescaling(1 / 127.5, offset=-1, dtype="float32")(inputs)
    x = keras.layers.Conv2D(8, 3, strides=2, use_bias=False)(x)
    x = keras.layers.ReLU()(sk.layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x))
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D(dtype="float32")(x))


def small_model(projector=None, seed=0, **kwargs):
    keras.utils.set_random_seed(seed)
    model = sk.training.STARPretraining(
        backbone=small_backbone(),
        augmentation=sk.augmentation.star_views(16),
        projector=projector or sk.layers.RoutedExperts(6, num_experts=3, tasks=TASKS, hidden_units=(5,)),
        **kwargs,
    )
    model.build(IMAGES.shape)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9, weight_decay=5e-3))
    return model


def gradients(model, images=IMAGES):
    """Gradient of the training loss by variable path, with zeros for variables no loss reaches."""
    import tensorflow as tf

    with tf.GradientTape() as tape:
        loss = model.compute_loss(images, None, model(images, training=True), training=True)
    variables = model.trainable_variables
    found = tape.gradient(loss, [variable.value for variable in variables])
    return {v.path: None if g is None else np.array(g) for v, g in zip(variables, found, strict=True)}


def collapse(model):
    """Makes every embedding the same vector: each last projector bias one, everything before it zero."""
    for variable in model.projector.trainable_variables + model.predictor.trainable_variables:
        variable.assign(ops.zeros_like(variable))
    biases = [v for v in model.projector.trainable_variables if v.shape[-1] == 6 and "bias" in v.path]
    assert biases
    for variable in biases:
        variable.assign(ops.ones_like(variable))


def test_losses_at_collapse_are_those_of_guessing():
    model = small_model()
    collapse(model)
    logs = model.evaluate(IMAGES, batch_size=len(IMAGES), verbose=0, return_dict=True)
    assert logs["invariance_loss"] == pytest.approx(np.log(2 * 12 - 1), abs=1e-5)
    assert logs["equivariance_loss"] == pytest.approx(np.log(4 * 12 - 1), abs=1e-5)
    assert logs["loss"] == pytest.approx(np.log(23) + np.log(47), abs=1e-5)


def test_loss_is_the_sum_of_both_terms_on_the_embeddings():
    model = small_model(invariance_weight=0.5, equivariance_weight=2.0, equivariance_temperature=0.3)
    z = model(IMAGES, training=True)
    z = {name: ops.convert_to_numpy(value) for name, value in z.items()}
    assert sorted(z) == [
        "equivariant_1", "equivariant_2", "invariant_1", "invariant_2", "prediction_1", "prediction_2",
    ]  # fmt: skip
    invariance = sk.losses.NTXent(0.2)(z["invariant_1"], z["invariant_2"])
    equivariance = sk.losses.NTXent(0.3)(
        np.concatenate([z["equivariant_1"], z["equivariant_2"]]),
        np.concatenate([z["prediction_1"], z["prediction_2"]]),
    )
    loss = model.compute_loss(IMAGES, None, z)
    np.testing.assert_allclose(loss, 0.5 * invariance + 2 * equivariance, rtol=1e-6)


def test_nothing_is_detached_and_every_part_learns():
    silent = [path for path, g in gradients(small_model()).items() if g is None or not np.any(g)]
    assert all("embedding" in path and "bias" in path for path in silent), silent


def router_gradients(model):
    """Gradients of the routers' kernels, `{task: (features, experts)}`."""
    router = model.projector.router_layers[-1]
    return dict(zip(TASKS, gradients(model)[router.kernel.path], strict=True))


def test_without_equivariance_its_router_and_predictor_get_zero_gradient():
    model = small_model(equivariance_weight=0.0, predictor=sk.layers.EquivariantPredictor((4,), 4))
    found = gradients(model)
    assert all(gradient is not None for gradient in found.values())
    assert not any(np.any(found[variable.path]) for variable in model.predictor.trainable_variables)
    routers = router_gradients(model)
    assert not np.any(routers["equivariant"])
    assert np.any(routers["invariant"])


def test_without_invariance_its_router_gets_zero_gradient():
    model = small_model(invariance_weight=0.0)
    assert all(gradient is not None for gradient in gradients(model).values())
    routers = router_gradients(model)
    assert not np.any(routers["invariant"])
    assert np.any(routers["equivariant"])


def test_simclr_takes_two_passes_and_star_three():
    passes = []

    class Counting(keras.layers.Layer):
        def call(self, inputs):
            passes.append(1)
            return inputs

    def count(weight):
        inputs = keras.Input((16, 16, 3))
        features = keras.layers.GlobalAveragePooling2D()(Counting()(inputs))
        model = sk.training.STARPretraining(
            keras.Model(inputs, features), sk.augmentation.star_views(16), sk.layers.Projector(4),
            equivariance_weight=weight,
        )  # fmt: skip
        model.build(IMAGES.shape)
        passes.clear()
        model(IMAGES)
        return len(passes)

    assert (count(0.0), count(1.0)) == (2, 3)


def test_separate_passes_move_running_statistics_three_times_and_joint_once():
    def momentum_left(passes):
        model = small_model(passes=passes)
        norm = next(layer for layer in model.backbone.layers if "normalization" in layer.name)
        norm.moving_mean.assign(1e6 * np.ones(8))
        model(IMAGES, training=True)
        return float(ops.convert_to_numpy(norm.moving_mean)[0]) / 1e6

    assert momentum_left("separate") == pytest.approx(0.9**3, abs=1e-4)
    assert momentum_left("joint") == pytest.approx(0.9, abs=1e-4)


def test_joint_and_separate_passes_agree_when_statistics_are_fixed():
    separate, joint = small_model(), small_model(passes="joint")
    joint.set_weights(separate.get_weights())
    one, other = separate(IMAGES, training=False), joint(IMAGES, training=False)
    for name in one:
        np.testing.assert_allclose(one[name], other[name], atol=1e-5)


def test_evaluation_repeats_itself_and_leaves_training_draws_alone():
    model = small_model()
    before = np.array(model.seed_generator.state)
    first, second = (model.evaluate(IMAGES, verbose=0, return_dict=True) for _ in range(2))
    model.predict(IMAGES, verbose=0)
    assert first == second
    np.testing.assert_array_equal(before, np.array(model.seed_generator.state))
    model.fit(IMAGES, verbose=0)
    assert np.any(before != np.array(model.seed_generator.state))


def test_the_two_views_of_training_differ_and_change_from_step_to_step():
    model = small_model()
    first, second = model(IMAGES, training=True), model(IMAGES, training=True)
    assert np.any(np.array(first["invariant_1"]) != np.array(first["invariant_2"]))
    assert np.any(np.array(first["invariant_1"]) != np.array(second["invariant_1"]))


@pytest.mark.parametrize("routing", ["learned", "shared", "separate"])
def test_relatives_of_the_method_are_settings(routing):
    experts = {"learned": 4, "shared": 3, "separate": 2}[routing]
    projector = sk.layers.RoutedExperts(
        6, num_experts=experts, tasks=TASKS, hidden_units=(5,), routing=routing
    )
    history = small_model(projector).fit(IMAGES, batch_size=6, epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_trains_finite_with_images_and_losses_in_float32(policy):
    keras.config.set_dtype_policy(policy)
    model = small_model()
    view, columns = model._view(ops.cast(IMAGES, "float32"), 1, True)
    history = model.fit(IMAGES, batch_size=6, epochs=3, verbose=0).history
    assert keras.backend.standardize_dtype(view.dtype) == "float32"
    assert keras.backend.standardize_dtype(columns.dtype) == "float32"
    assert all(keras.backend.standardize_dtype(v.dtype) == "float32" for v in model.trainable_variables)
    assert np.isfinite(history["loss"]).all()


def test_uint8_and_float_images_are_the_same_images():
    model = small_model()
    one, other = model(IMAGES), model(IMAGES.astype("float32"))
    np.testing.assert_array_equal(one["invariant_1"], other["invariant_1"])


def test_configuration_round_trip_keeps_outputs():
    model = small_model()
    copy = sk.training.STARPretraining.from_config(model.get_config())
    copy.build(IMAGES.shape)
    copy.set_weights(model.get_weights())
    np.testing.assert_array_equal(copy(IMAGES)["prediction_1"], model(IMAGES)["prediction_1"])


def test_seed_state_travels_with_the_weights(tmp_path):
    model = small_model()
    model.fit(IMAGES, batch_size=4, verbose=0)
    model.save_weights(tmp_path / "model.weights.h5")
    other = small_model(seed=1)
    other.optimizer.build(other.trainable_variables)
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(model.seed_generator.state, other.seed_generator.state)


@pytest.mark.parametrize(
    "arguments",
    [
        {"passes": "both"},
        {"invariance_weight": -1.0},
        {"invariance_weight": 0.0, "equivariance_weight": 0.0},
        {"invariance_weight": float("nan")},
        {"equivariance_weight": float("inf")},
        {"temperature": 0.0},
    ],
    ids=str,
)
def test_wrong_arguments_say_what_was_received(arguments):
    with pytest.raises(ValueError, match="Received"):
        small_model(**arguments)


@pytest.mark.parametrize("seed", [None, -1, 0.5, 2**32 - 2])
def test_a_seed_that_cannot_draw_both_views_is_refused(seed):
    config = {**small_model().get_config(), "seed": seed}
    with pytest.raises(ValueError, match=r"whole number in \[0, 2\*\*32 - 2\). Received: seed="):
        sk.training.STARPretraining.from_config(config)


def test_a_projector_without_a_task_that_counts_is_refused_when_it_is_built():
    experts = sk.layers.RoutedExperts(6, 2, tasks=("invariant", "other"))
    with pytest.raises(ValueError, match="the tasks 'invariant', 'equivariant'. Received: .* 'other'; name"):
        small_model(projector=experts)
    model = small_model(projector=experts, equivariance_weight=0.0)
    assert "equivariance_loss" not in model.fit(IMAGES, verbose=0).history


@pytest.mark.fault(42)
def test_a_batch_of_one_is_refused():
    model = small_model()
    with pytest.raises(ValueError, match="2 samples"):
        model.compute_loss(y_pred=model(IMAGES[:1]))


def test_weights_per_image_are_refused():
    with pytest.raises(ValueError, match="sample_weight"):
        small_model().fit(IMAGES, np.zeros(12), sample_weight=np.ones(12), verbose=0)


def test_decay_of_keras_sgd_follows_the_coupled_rule_of_the_recipe():
    """200 steps along a steady gradient; what is left is the start of the momentum, some ten steps long."""
    rate, momentum, decay = 0.03, 0.9, 5e-4
    rng = np.random.default_rng(0)
    start, gradient = rng.normal(size=20), 0.1 * rng.normal(size=20)

    def coupled(decay):
        weights, velocity = start.copy(), np.zeros(20)
        for _ in range(200):
            velocity = momentum * velocity + gradient + decay * weights
            weights = weights - rate * velocity
        return weights

    def of_keras(decay):
        variable = keras.Variable(start, dtype="float64")
        optimizer = keras.optimizers.SGD(rate, momentum=momentum, weight_decay=decay)
        for _ in range(200):
            optimizer.apply([ops.convert_to_tensor(gradient)], [variable])
        return np.asarray(variable)

    effect = np.abs(coupled(decay) - coupled(0)).max()
    assert np.abs(of_keras(decay / (1 - momentum)) - coupled(decay)).max() < 0.15 * effect
    assert np.abs(of_keras(decay) - coupled(decay)).max() > 0.8 * effect


def test_regularisers_of_the_parts_are_added_to_the_loss():
    plain, penalised = small_model(), small_model()
    kernel = next(layer for layer in penalised.backbone.layers if isinstance(layer, keras.layers.Conv2D))
    kernel.kernel_regularizer = keras.regularizers.L2(0.5)
    kernel.kernel.regularizer = kernel.kernel_regularizer
    penalty = 0.5 * float(ops.sum(ops.square(kernel.kernel)))
    losses = [model.evaluate(IMAGES, batch_size=12, verbose=0) for model in (plain, penalised)]
    assert losses[1][0] == pytest.approx(losses[0][0] + penalty, rel=1e-5)


@pytest.mark.fault(40)
def test_nan_stops_pretraining_and_names_the_layer_or_the_loss():
    model = small_model()
    convolution = next(layer for layer in model.backbone.layers if isinstance(layer, keras.layers.Conv2D))
    whole = convolution.kernel.numpy()
    convolution.kernel.assign(whole * np.nan)
    with pytest.raises(NonFiniteError, match=f"{convolution.name!r} before training"):
        model.fit(IMAGES, batch_size=6, verbose=0)
    convolution.kernel.assign(whole)
    model.compile(keras.optimizers.SGD(1e38))
    with pytest.raises(NonFiniteError, match="batch 1, in equivariance_loss, invariance_loss"):
        model.fit(IMAGES, batch_size=6, verbose=0)
    model = small_model()
    convolution = next(layer for layer in model.backbone.layers if isinstance(layer, keras.layers.Conv2D))
    convolution.kernel.regularizer = keras.regularizers.L2(3e38)
    with pytest.raises(NonFiniteError, match="batch 0, in a regulariser of its parts"):
        model.fit(IMAGES, batch_size=6, verbose=0)


def test_fit_takes_a_list_of_callbacks_that_keras_has_made():
    model, seen = small_model(), []
    callback = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(epoch))
    made = keras.callbacks.CallbackList([callback], add_history=True, model=model)
    model.fit(IMAGES, batch_size=6, callbacks=made, verbose=0)
    assert seen == [0]


def test_a_backbone_that_is_not_built_is_refused():
    unbuilt = keras.Sequential([keras.layers.GlobalAveragePooling2D()])
    with pytest.raises(ValueError, match="a Sequential without an `input_shape`.*keras.Input"):
        sk.training.STARPretraining(unbuilt, sk.augmentation.star_views(16), sk.layers.Projector(4))
