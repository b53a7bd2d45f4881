"""Sweeps: many runs into one file, whole after every run, and on from where they stopped."""

import json

import keras
import numpy as np
import pytest

import star_keras as sk
from star_keras import callbacks, recipes
from star_keras.recipes import devices, num_steps, set_precision, sweep

RUNS = [{"method": method, "seed": seed} for method in ("plain", "new") for seed in (0, 1)]


def score(method, seed):
    return {"accuracy": seed + (method == "new") / 2}


def test_what_is_done_is_not_done_again(tmp_path, capsys):
    path = tmp_path / "results" / "runs.jsonl"
    done = []

    def counted(**run):
        done.append(run)
        if len(done) == 3:
            raise KeyboardInterrupt
        return score(**run)

    with pytest.raises(KeyboardInterrupt):
        sweep(counted, RUNS, path)
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {**run, **score(**run)} for run in RUNS[:2]
    ]
    rows = sweep(counted, RUNS, path)
    assert rows == [{**run, **score(**run)} for run in RUNS]
    assert done == [*RUNS[:3], *RUNS[2:]]
    assert [file.name for file in path.parent.iterdir()] == ["runs.jsonl"]
    assert "4/4" in capsys.readouterr().out


def test_rows_of_other_runs_stay_in_the_file(tmp_path):
    path = tmp_path / "runs.jsonl"
    sweep(score, RUNS[:1], path)
    assert sweep(score, RUNS[2:], path) == [{**run, **score(**run)} for run in RUNS[2:]]
    assert len(path.read_text().splitlines()) == 3


def test_no_run_begins_when_time_is_up(tmp_path):
    path = tmp_path / "runs.jsonl"
    sweep(score, RUNS[:1], path)
    assert sweep(score, RUNS, path, minutes=0) == [{**RUNS[0], **score(**RUNS[0])}]


def test_one_run_has_no_deviation_and_several_have_that_of_a_sample():
    assert recipes.spread([0.7]) == {"mean": 0.7, "std": 0.0, "runs": [0.7]}
    assert recipes.spread((1.0, 3.0)) == {"mean": 2.0, "std": 2**0.5, "runs": [1.0, 3.0]}


@pytest.mark.parametrize(
    ("seconds", "chosen"), [((1.0, 2.0), "float32"), ((1.1, 1.0), "float32"), ((1.3, 1.0), "mixed_bfloat16")]
)
def test_auto_precision_is_bfloat16_where_that_is_clearly_faster(seconds, chosen, monkeypatch, capsys):
    monkeypatch.setattr(devices, "_seconds_of_a_step", lambda: seconds)
    assert set_precision() == chosen == keras.config.dtype_policy().name
    assert chosen in capsys.readouterr().out


def test_a_moment_of_other_work_does_not_change_what_was_measured(monkeypatch):
    ticks = iter(np.cumsum(np.tile([0, 3, 0, 1], devices.ROUNDS)).tolist())
    slow = {0, 7, 8}

    class Clock:
        busy, asked = 0.0, 0

        def perf_counter(self):
            Clock.busy += 100.0 * (self.asked // 2 in slow and self.asked % 2)
            Clock.asked += 1
            return next(ticks) + Clock.busy

    monkeypatch.setattr(devices, "time", Clock())
    assert devices._seconds_of_a_step() == (3, 1)


def test_auto_precision_of_a_run_that_goes_on_is_that_it_began_with(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "_seconds_of_a_step", lambda: (1.0, 2.0))
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    resume = callbacks.Resume(tmp_path)
    batches = resume.batches((np.ones((4, 2)), np.ones((4, 1))), batch_size=2)
    assert set_precision("auto", tmp_path) == "float32"
    model.fit(batches, shuffle=False, callbacks=[resume], verbose=0)
    assert set_precision("auto", tmp_path) == "mixed_bfloat16"


def test_a_run_without_a_step_is_refused():
    assert num_steps(range(70), 32, 3) == 6
    for few in ((range(31), 32, 3), (range(70), 32, 0), (range(70), 0, 1)):
        with pytest.raises(ValueError, match="at least one epoch of one batch"):
            num_steps(*few)


def test_auto_precision_is_measured_and_a_named_one_is_taken():
    assert set_precision() in ("float32", "mixed_bfloat16")
    assert set_precision("mixed_float16") == "mixed_float16" == keras.config.dtype_policy().name


def test_an_unknown_strategy_and_a_backend_without_one_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="'one', 'mirrored'.*'two'"):
        recipes.set_strategy("two")
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(ValueError, match="tensorflow.*torch"):
        recipes.set_strategy("mirrored")


@pytest.mark.parametrize("labels", [np.repeat(np.arange(10), 5), np.arange(50) // 49])
def test_images_sorted_by_class_are_monitored(labels, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 3), dtype="uint8")
    model = sk.training.STARPretraining(
        backbone=sk.models.create("resnet20", input_shape=(8, 8, 3)),
        augmentation=sk.augmentation.star_views(8),
        projector=sk.layers.Projector(4),
        equivariance_weight=0.0,
    )
    model.build(images.shape)
    model.compile("sgd")
    history = recipes.pretrain(model, images, (images, labels), tmp_path, 1, batch_size=25, seed=0)
    assert 0 <= history["nearest_neighbor_accuracy"][0] <= 1
