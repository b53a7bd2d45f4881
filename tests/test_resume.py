"""Laws of Resume, on a network of two layers: Resume knows nothing of STAR, test_backends.py has that."""

import h5py
import keras
import numpy as np
import pytest

from star_keras.callbacks import Resume
from star_keras.exceptions import NonFiniteError, ResumeError
from star_keras.training import SoftNearestNeighborRegularization

ROWS = np.random.default_rng(0).normal(size=(12, 4)).astype("float32")


def small_network(seed=0, units=3, loss="mse"):
    keras.utils.set_random_seed(seed)
    layers = [
        keras.Input((4,)),
        keras.layers.Dense(units, activation="relu", name="code"),
        keras.layers.Dense(1),
    ]
    model = keras.Sequential(layers)
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 12)
    model.compile(keras.optimizers.SGD(schedule, momentum=0.9, weight_decay=5e-3), loss)
    return model


def fit(folder, epochs, seed=0, loss="mse", **kwargs):
    model = small_network(seed, loss=loss)
    resume = Resume(folder, **kwargs)
    batches = resume.batches((ROWS, ROWS[:, :1]), batch_size=4, seed=3)
    model.fit(
        batches, epochs=epochs, initial_epoch=resume.epoch, shuffle=False, callbacks=[resume], verbose=0
    )
    return model, resume


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(tmp_path):
    straight, log = fit(tmp_path / "straight", 4)
    fit(tmp_path / "broken", 2)
    resumed, resumed_log = fit(tmp_path / "broken", 4, seed=9)
    assert resumed_log.epoch == 4
    assert resumed_log.history == log.history
    for one, other in zip(straight.variables, resumed.variables, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=one.path)
    for one, other in zip(straight.optimizer.variables, resumed.optimizer.variables, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=one.path)


def test_random_layers_go_on_drawing_where_they_stopped(tmp_path):
    def fit(folder, epochs):
        keras.utils.set_random_seed(0)
        layers = [keras.Input((4,)), keras.layers.GaussianNoise(1.0, seed=1), keras.layers.Dense(1)]
        model = keras.Sequential(layers)
        model.compile(keras.optimizers.SGD(0.1), "mse")
        resume = Resume(folder)
        batches = resume.batches((ROWS, ROWS[:, :1]), batch_size=4)
        begin = dict(initial_epoch=resume.epoch, shuffle=False, verbose=0)
        model.fit(batches, epochs=epochs, callbacks=[resume], **begin)
        return model.get_weights()

    straight = fit(tmp_path / "straight", 4)
    fit(tmp_path / "broken", 2)
    for one, other in zip(straight, fit(tmp_path / "broken", 4), strict=True):
        np.testing.assert_array_equal(one, other)


def test_every_epoch_has_its_own_order_and_each_image_at_most_once(tmp_path):
    batches = Resume(tmp_path).batches(np.arange(10), batch_size=3, seed=0)
    epochs = []
    for _ in range(3):
        epochs.append(np.concatenate([batches[i] for i in range(len(batches))]))
        batches.on_epoch_end()
    assert all(len(set(order)) == 9 for order in epochs)
    assert not np.array_equal(epochs[0], epochs[1])
    assert not np.array_equal(epochs[1], epochs[2])


def test_a_shuffling_fit_is_told_to_stop_shuffling(tmp_path):
    batches = Resume(tmp_path).batches(np.arange(30), batch_size=3)
    batches[0]
    with pytest.raises(ResumeError, match="shuffle=False"):
        batches[5]


def test_wrong_initial_epoch_is_refused(tmp_path):
    fit(tmp_path, 1)
    resume = Resume(tmp_path)
    batches = resume.batches((ROWS, ROWS[:, :1]), 4)
    with pytest.raises(ResumeError, match="initial_epoch"):
        small_network().fit(batches, epochs=2, shuffle=False, callbacks=[resume], verbose=0)


def test_another_model_is_refused(tmp_path):
    fit(tmp_path, 1)
    resume = Resume(tmp_path)
    batches = resume.batches((ROWS, ROWS[:, :1]), 4)
    with pytest.raises(ResumeError, match="another"):
        small_network(units=5).fit(
            batches, epochs=2, initial_epoch=1, shuffle=False, callbacks=[resume], verbose=0
        )


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    (tmp_path / "checkpoint.weights.h5").write_bytes(b"not a checkpoint")
    with pytest.raises(ResumeError, match="checkpoint"):
        Resume(tmp_path)


def test_a_history_of_thousands_of_epochs_is_kept(tmp_path):
    model, resume = fit(tmp_path, 1)
    resume.history["accuracy"] = list(np.random.default_rng(0).random(10_000))
    resume._store()
    assert Resume(tmp_path).history == resume.history
    assert fit(tmp_path, 2)[1].epoch == 2


def test_a_checkpoint_of_the_first_format_goes_on(tmp_path):
    _, before = fit(tmp_path, 1)
    with h5py.File(tmp_path / "checkpoint.weights.h5", "r+") as file:
        file.attrs["star_keras_resume"], file.attrs["history"] = 1, file["history"].asstr()[()]
        del file["history"], file.attrs["run"]
    _, after = fit(tmp_path, 2)
    assert after.epoch == 2 and after.history["loss"][:1] == before.history["loss"]


def test_time_budget_pauses_at_an_epoch_and_the_run_goes_on(tmp_path):
    _, resume = fit(tmp_path, 3, minutes=1e-9)
    assert resume.epoch == 1
    _, resume = fit(tmp_path, 3)
    assert resume.epoch == 3


def test_nan_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path):
    fit(tmp_path, 1)
    before = (tmp_path / "checkpoint.weights.h5").read_bytes()
    with pytest.raises(NonFiniteError, match="kept"):
        fit(tmp_path, 2, loss=lambda truth, predicted: keras.ops.mean(predicted) * np.nan)
    assert (tmp_path / "checkpoint.weights.h5").read_bytes() == before


def test_a_failed_write_leaves_the_old_checkpoint_and_no_rubbish(tmp_path, monkeypatch):
    fit(tmp_path, 1)
    before = (tmp_path / "checkpoint.weights.h5").read_bytes()

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full_disk)
    with pytest.raises(OSError, match="No space"):
        fit(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.weights.h5"]
    assert (tmp_path / "checkpoint.weights.h5").read_bytes() == before


@pytest.mark.fault(41)
@pytest.mark.parametrize("rows, batch_size", [(0, 4), (3, 4), (4, 0)])
def test_data_that_fills_no_batch_is_refused_up_front(tmp_path, rows, batch_size):
    with pytest.raises(ValueError, match="batch_size"):
        Resume(tmp_path).batches(ROWS[:rows], batch_size=batch_size)


def test_a_fit_that_was_interrupted_goes_on_from_the_checkpoint(tmp_path):
    straight, _ = fit(tmp_path / "straight", 3)
    model, resume = fit(tmp_path / "broken", 1)
    batches = resume.batches((ROWS, ROWS[:, :1]), batch_size=4, seed=3)
    interrupted = keras.callbacks.LambdaCallback(on_train_batch_end=interrupt_at(1))
    arguments = dict(epochs=3, shuffle=False, verbose=0)
    with pytest.raises(KeyboardInterrupt):
        model.fit(batches, initial_epoch=resume.epoch, callbacks=[interrupted, resume], **arguments)
    model.fit(batches, initial_epoch=resume.epoch, callbacks=[resume], **arguments)
    for one, other in zip(straight.variables, model.variables, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=one.path)


def test_a_second_fit_with_the_same_batches_goes_on_in_their_order(tmp_path):
    straight, log = fit(tmp_path / "straight", 3)
    model, resume = small_network(), Resume(tmp_path / "twice")
    batches = resume.batches((ROWS, ROWS[:, :1]), batch_size=4, seed=3)
    for epochs in (1, 3):
        begin = dict(initial_epoch=resume.epoch, shuffle=False, verbose=0)
        model.fit(batches, epochs=epochs, callbacks=[resume], **begin)
    assert resume.history == log.history
    for one, other in zip(straight.variables, model.variables, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=one.path)


def test_epochs_that_were_finished_but_not_stored_are_taken_once_more(tmp_path):
    straight, log = fit(tmp_path / "straight", 5)
    fit(tmp_path / "broken", 2, every=2)
    model, resume = small_network(), Resume(tmp_path / "broken", every=2)
    batches = resume.batches((ROWS, ROWS[:, :1]), batch_size=4, seed=3)
    interrupted = keras.callbacks.LambdaCallback(on_train_batch_end=interrupt_at(4))
    arguments = dict(epochs=5, shuffle=False, verbose=0)
    with pytest.raises(KeyboardInterrupt):
        model.fit(batches, initial_epoch=2, callbacks=[interrupted, resume], **arguments)
    assert resume.epoch == 3
    with pytest.raises(ResumeError, match="goes on with epoch 2"):
        model.fit(batches, initial_epoch=resume.epoch, callbacks=[resume], **arguments)
    model.fit(batches, initial_epoch=resume.epoch, callbacks=[resume], **arguments)
    assert resume.history == log.history
    for one, other in zip(straight.variables, model.variables, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=one.path)


def test_an_interruption_before_the_first_checkpoint_asks_for_a_new_model(tmp_path):
    model, resume = small_network(), Resume(tmp_path)
    interrupted = keras.callbacks.LambdaCallback(on_train_batch_end=interrupt_at(1))
    batches = resume.batches((ROWS, ROWS[:, :1]), batch_size=4)
    with pytest.raises(KeyboardInterrupt):
        model.fit(batches, shuffle=False, callbacks=[interrupted, resume], verbose=0)
    with pytest.raises(ResumeError, match="make the model and `Resume` again"):
        model.fit(batches, shuffle=False, callbacks=[resume], verbose=0)


def interrupt_at(step):
    steps = iter(range(step + 1))

    def count(batch, logs):
        if next(steps) == step:
            raise KeyboardInterrupt

    return count


@pytest.mark.fault(62)
@pytest.mark.parametrize(
    "change, told",
    [
        (dict(optimizer=keras.optimizers.Adam), "optimizer"),
        (dict(momentum=0.5), "Received: optimizer.config.momentum 0.5 in place of 0.9. Use"),
        (dict(steps=24), "decay_steps 24 in place of 12"),
        (dict(batch_size=3), "batch size 3 in place of 4"),
        (dict(seed=4), "seed 4 in place of 3"),
        (dict(rows=ROWS[:-1]), "images 11 .* in place of 12"),
        (dict(rows=ROWS + 1), "images 12 .* in place of 12"),
        (dict(policy="mixed_bfloat16"), "precision mixed_bfloat16 in place of float32"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value,
)
def test_a_run_of_another_kind_does_not_go_on(change, told, tmp_path):
    one_epoch(tmp_path)
    before = (tmp_path / "checkpoint.weights.h5").read_bytes()
    with pytest.raises(ResumeError, match=told):
        one_epoch(tmp_path, **change)
    assert (tmp_path / "checkpoint.weights.h5").read_bytes() == before


def one_epoch(
    folder,
    optimizer=keras.optimizers.SGD,
    steps=12,
    batch_size=4,
    seed=3,
    rows=ROWS,
    policy="float32",
    **more,
):
    layer = keras.layers.Dense(1, dtype=policy)
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layer(inputs))
    model.dtype_policy = keras.dtype_policies.get(policy)
    rate = keras.optimizers.schedules.CosineDecay(0.1, steps) if "rate" not in more else more.pop("rate")
    model.compile(
        optimizer(rate, **({"momentum": 0.9} if optimizer is keras.optimizers.SGD else {}) | more), "mse"
    )
    resume = Resume(folder)
    batches = resume.batches((rows, rows[:, :1]), batch_size, seed)
    begin = dict(epochs=resume.epoch + 1, initial_epoch=resume.epoch, shuffle=False, verbose=0)
    model.fit(batches, callbacks=[resume], **begin)
    return resume


def test_a_plain_learning_rate_may_change(tmp_path):
    one_epoch(tmp_path, rate=0.1)
    assert one_epoch(tmp_path, rate=0.01).epoch == 2


@pytest.mark.fault(40)
def test_weights_that_are_nan_are_neither_stored_nor_restored(tmp_path):
    model, resume = fit(tmp_path, 1)
    before = (tmp_path / "checkpoint.weights.h5").read_bytes()
    batches = resume.batches((ROWS, ROWS[:, :1]), batch_size=4, seed=3)
    spoil = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda *_: model.layers[0].bias.assign(np.full(3, np.nan))
    )
    arguments = dict(epochs=2, initial_epoch=1, shuffle=False, verbose=0)
    with pytest.raises(NonFiniteError, match="'code'.*checkpoint of epoch 1"):
        model.fit(batches, callbacks=[spoil, resume], **arguments)
    assert (tmp_path / "checkpoint.weights.h5").read_bytes() == before
    with h5py.File(tmp_path / "checkpoint.weights.h5", "r+") as file:
        file["layers/dense/vars/0"][0, 0] = np.inf
    with pytest.raises(NonFiniteError, match="for the layer 'code'"):
        fit(tmp_path, 2)


@pytest.mark.fault(63)
@pytest.mark.parametrize("epoch", [0, 1])
def test_of_two_runs_that_store_in_one_folder_the_second_stops(epoch, tmp_path):
    begins = keras.callbacks.LambdaCallback(on_epoch_begin=lambda now, _: now == epoch and fit(tmp_path, 3))
    model, resume = small_network(), Resume(tmp_path)
    batches = resume.batches((ROWS, ROWS[:, :1]), batch_size=4, seed=3)
    with pytest.raises(ResumeError, match="One run at a time .* another process"):
        model.fit(batches, epochs=3, shuffle=False, callbacks=[begins, resume], verbose=0)
    assert Resume(tmp_path).epoch == 3
    with pytest.raises(ResumeError, match="One run at a time"):
        model.fit(batches, epochs=3, shuffle=False, callbacks=[resume], verbose=0)
    assert [path.name for path in tmp_path.iterdir()] == [resume.path.name]


def test_a_run_that_stops_early_is_stored_to_its_last_epoch(tmp_path):
    model, resume = small_network(), Resume(tmp_path, every=5)
    stop = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: setattr(model, "stop_training", epoch == 2)
    )
    batches = resume.batches((ROWS, ROWS[:, :1]), batch_size=4)
    model.fit(batches, epochs=9, shuffle=False, callbacks=[stop, resume], verbose=0)
    assert resume.epoch == Resume(tmp_path).epoch == 3


def test_a_part_of_an_epoch_cannot_be_resumed_and_is_refused(tmp_path):
    resume = Resume(tmp_path)
    batches = resume.batches((ROWS, ROWS[:, :1]), batch_size=4)
    with pytest.raises(ResumeError, match="all 3 batches.*Received: 2 steps"):
        small_network().fit(batches, steps_per_epoch=2, shuffle=False, callbacks=[resume], verbose=0)


def test_a_model_that_is_not_built_is_refused_before_it_trains(tmp_path):
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    resume = Resume(tmp_path)
    batches = resume.batches((ROWS, ROWS[:, :1]), batch_size=4)
    with pytest.raises(ResumeError, match="model.build"):
        model.fit(batches, shuffle=False, callbacks=[resume], verbose=0)


def test_a_regularised_classifier_goes_on_without_being_called_before(tmp_path):
    for epochs in (1, 2):
        model = SoftNearestNeighborRegularization(small_network(), "code")
        model.compile("adam", "mse")
        resume = Resume(tmp_path)
        batches = resume.batches((ROWS, np.arange(12) % 3), batch_size=6)
        begin = dict(epochs=epochs, initial_epoch=resume.epoch, shuffle=False, verbose=0)
        model.fit(batches, callbacks=[resume], **begin)
    assert resume.epoch == 2


def test_metrics_of_several_numbers_and_inputs_by_name_go_on(tmp_path):
    labels = np.eye(3, dtype="float32")[np.arange(12) % 3]
    for epoch in (1, 2):
        inputs = keras.Input((4,), name="rows")
        model = keras.Model({"rows": inputs}, keras.layers.Dense(3, "softmax")(inputs))
        model.compile("sgd", "categorical_crossentropy", metrics=[keras.metrics.F1Score()])
        resume = Resume(tmp_path)
        batches = resume.batches(({"rows": ROWS}, labels), batch_size=4)
        begin = dict(epochs=epoch, initial_epoch=resume.epoch, shuffle=False, verbose=0)
        model.fit(batches, callbacks=[resume], **begin)
    assert np.shape(Resume(tmp_path).history["f1_score"]) == (2, 3)
