"""The callback that watches whether embeddings collapse."""

import csv
import warnings

import keras
import numpy as np
import pytest

import star_keras as sk
from star_keras.callbacks import CollapseMonitor
from star_keras.callbacks.probes import watched
from star_keras.evaluation import effective_rank, embedding_spread, extract_embeddings
from star_keras.exceptions import NonFiniteError

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(32, 4)).astype("float32"), np.zeros((32, 3), "float32")
IMAGES = RNG.integers(0, 256, (12, 32, 32, 3), dtype="uint8")


def dense(initializer="orthogonal"):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, kernel_initializer=initializer)])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    return model


def fit(model, monitor, epochs=1):
    return model.fit(X, Y, epochs=epochs, callbacks=[monitor], verbose=0).history


def test_logs_are_the_measures_of_the_embeddings():
    model = dense()
    history = fit(model, CollapseMonitor(X, batch_size=5))
    outputs = model.predict(X, verbose=0)
    assert history["backbone_spread"] == [pytest.approx(embedding_spread(outputs))]
    assert history["backbone_effective_rank"] == [pytest.approx(effective_rank(outputs))]


def test_of_a_regularised_classifier_what_it_says_is_looked_at():
    inputs = keras.Input((4,))
    code = keras.layers.Dense(4, kernel_initializer="orthogonal", name="code")(inputs)
    classifier = keras.Model(inputs, keras.layers.Dense(3, kernel_initializer="orthogonal")(code))
    model = sk.training.SoftNearestNeighborRegularization(classifier, ("code",))
    model.compile(keras.optimizers.SGD(0.0), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    labels = np.arange(32) % 3
    probe = sk.callbacks.NearestNeighborProbe((X[:24], labels[:24]), (X[24:], labels[24:]))
    history = model.fit(X, labels, callbacks=[CollapseMonitor(X), probe], verbose=0).history
    assert history["backbone_spread"] == [pytest.approx(embedding_spread(classifier.predict(X, verbose=0)))]
    assert 0 <= history[probe.name][0] <= 1


def test_of_a_regularised_classifier_on_a_backbone_the_backbone_is_looked_at():
    classifier = sk.models.create("resnet20", input_shape=(8, 8, 3), num_classes=3)
    model = sk.training.SoftNearestNeighborRegularization(classifier, (classifier.backbone.layers[-2].name,))
    assert watched(model) is classifier.backbone


def test_every_space_of_a_pretraining_model_is_looked_at():
    model = sk.models.load("star-resnet20", part="pretraining")
    model.compile(keras.optimizers.SGD(0.0))
    history = model.fit(IMAGES, batch_size=6, callbacks=[CollapseMonitor(IMAGES)], verbose=0).history
    for space in ("backbone", "invariant", "equivariant"):
        rows = extract_embeddings(model, IMAGES, space, verbose=0)
        assert history[f"{space}_spread"][0] == pytest.approx(embedding_spread(rows), rel=0.02)
        assert history[f"{space}_effective_rank"][0] == pytest.approx(effective_rank(rows), rel=0.02)


@pytest.mark.filterwarnings("ignore:The embeddings 'backbone' have collapsed")  # noise is alike to it
def test_no_more_images_than_asked_for_are_looked_at_at_once(monkeypatch):
    model = sk.models.load("star-resnet20", part="pretraining")
    seen, project = [], model.projector.call
    monkeypatch.setattr(
        model.projector, "call", lambda rows, **more: seen.append(len(rows)) or project(rows, **more)
    )
    monitor, logs = CollapseMonitor(IMAGES, batch_size=5), {}
    monitor.set_model(model)
    monitor.set_params({})
    monitor.on_train_begin()
    monitor.on_epoch_end(0, logs)
    assert seen == [5, 5, 2]
    rows = extract_embeddings(model, IMAGES, "invariant", verbose=0)
    assert logs["invariant_spread"] == pytest.approx(embedding_spread(rows), rel=1e-5)


@pytest.mark.parametrize("kind", [CollapseMonitor, sk.callbacks.RoutingMonitor])
def test_loggers_behind_a_monitor_write_its_values(kind, tmp_path):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), sk.layers.RoutedExperts(3, num_experts=2)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    loggers = [
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        keras.callbacks.TensorBoard(tmp_path / "board"),
    ]
    history = model.fit(X, Y, epochs=2, callbacks=[kind(X), *loggers], verbose=0).history
    with open(tmp_path / "log.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    names = set(history) - {"loss"}
    assert names and {"epoch", *history} <= lines[0].keys()
    for name in names:
        assert [float(line[name]) for line in lines] == pytest.approx(history[name])
        assert np.isfinite(history[name]).all()
    assert {f"epoch_{name}" for name in names} <= board_scalars(tmp_path / "board" / "train").keys()


def board_scalars(folder):
    """Values of all scalars that TensorBoard finds in a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(folder), {"tensors": 0})
    board.Reload()
    found = {}
    for tag in board.Tags()["tensors"]:
        found[tag] = [event.tensor_proto.float_val for event in board.Tensors(tag)]
    return found


def test_a_collapse_is_told_once():
    one_direction = keras.initializers.Constant(np.outer([1.0, 0, 0, 0], [1.0, 2, 3]))
    with pytest.warns(UserWarning, match="'backbone' have collapsed in epoch 0: .* rank 1.0 of 3") as told:
        history = fit(dense(one_direction), CollapseMonitor(X), epochs=3)
    assert len(told) == 1 and history["backbone_effective_rank"] == pytest.approx([1, 1, 1])


def test_healthy_embeddings_are_met_with_silence():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fit(dense(), CollapseMonitor(X))


def test_answers_of_a_classifier_that_is_sure_of_one_class_are_no_collapse():
    inputs = keras.Input((4,))
    sure = keras.initializers.Constant([9.0, 0, 0])
    outputs = keras.layers.Dense(3, "softmax", kernel_initializer="zeros", bias_initializer=sure)(inputs)
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.SGD(0.0), "mse")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert fit(model, CollapseMonitor(X))["backbone_spread"][0] < 0.1


def test_epochs_between_two_looks_repeat_the_values():
    model = dense()
    model.compile(keras.optimizers.SGD(0.5), "mse")
    ranks = fit(model, CollapseMonitor(X, every=3), epochs=5)["backbone_spread"]
    assert ranks[0] == ranks[1] != ranks[2] == ranks[3] != ranks[4]


def test_bad_numbers_are_named():
    with pytest.raises(NonFiniteError):
        fit(dense(keras.initializers.Constant(np.nan)), CollapseMonitor(X))


@pytest.mark.parametrize("every", [0, 1.5, True])
def test_numbers_of_epochs_that_are_not_whole_and_positive_are_refused(every, tmp_path):
    for kind, inputs in (
        (CollapseMonitor, [X]),
        (sk.callbacks.RoutingMonitor, [X]),
        (sk.callbacks.OrbitMonitor, [X]),
        (sk.callbacks.LinearProbe, [(X, X), (X, X)]),
        (sk.callbacks.NearestNeighborProbe, [(X, X), (X, X)]),
        (sk.callbacks.Resume, [tmp_path]),
    ):
        with pytest.raises(ValueError, match=f"`every` must be a positive whole.*Received: every={every}"):
            kind(*inputs, every=every)


@pytest.mark.parametrize("pause", [1, 2, 3, 5])
def test_a_run_that_goes_on_logs_what_an_unbroken_one_does(pause, tmp_path):
    def run(folder, stop=None):
        model = dense()
        model.compile(keras.optimizers.SGD(0.3), "mse")
        resume, labels = sk.callbacks.Resume(folder), np.arange(32) % 2
        probe = sk.callbacks.NearestNeighborProbe((X, labels), (X[::-1] + 0.3, labels), every=2)
        stops = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: setattr(model, "stop_training", epoch + 1 == stop)
        )
        monitors = [CollapseMonitor(X, every=3), probe, resume, stops]
        batches = resume.batches((X, 2 * X[:, 1:]), batch_size=8, seed=0)
        plan = {"epochs": 7, "initial_epoch": resume.epoch, "shuffle": False, "verbose": 0}
        history = model.fit(batches, callbacks=monitors, **plan).history
        return resume.history, history

    unbroken, _ = run(tmp_path / "one")
    run(tmp_path / "two", stop=pause)
    resumed, rest = run(tmp_path / "two")
    assert resumed == unbroken
    assert rest == {name: values[pause:] for name, values in unbroken.items()}
    assert len(set(unbroken["backbone_spread"])) == 4
