"""Every benchmark runs, and the table says what the measurements say. No time is asserted."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

FOLDER = Path(__file__).parent / "benchmarks"
if keras.backend.backend() != "tensorflow":
    pytest.skip("the benchmarks run on TensorFlow", allow_module_level=True)


@pytest.fixture
def script(monkeypatch):
    """Imports a script of the folder, as running it would."""
    for name in ("BENCH_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    monkeypatch.syspath_prepend(FOLDER)
    yield importlib.import_module
    for path in FOLDER.glob("*.py"):
        sys.modules.pop(path.stem, None)


def measured(seconds, cpu, foreign=0.0, **facts):
    return {"median_s": seconds, "cpu_s": cpu, "foreign": foreign, "peak_delta_mb": 1.0, **facts}


@pytest.mark.parametrize(
    ("name", "case", "implementation"),
    [
        ("ntxent", "ntxent-4", "star_keras"),
        ("snnl", "snnl-9", "star_keras-squared"),
        ("mmoe", "e2-b4-h3", "star_keras"),
        ("mmoe", "e2-b4-h3", "first-call-e2"),
        ("augment", "aug16", "star_keras"),
        ("equitune", "B1", "star_keras"),
        *(("overhead", f"control-{act}", "lambda") for act in ("inference", "training")),
        ("overhead", "text-latency", "equitune"),
        ("overhead", "text-generation", "equizero"),
        ("probe", "60x4", "star_keras"),
        pytest.param("overhead", "images-inference", "lambda", marks=pytest.mark.slow),
        pytest.param("overhead", "zero_shot-inference", "equizero", marks=pytest.mark.slow),
        pytest.param("overhead", "commands-training", "equizero", marks=pytest.mark.slow),
        pytest.param("simclr_step", "bs2", "star_keras-fp32", marks=pytest.mark.slow),
        pytest.param("simclr_step", "bs2", "star_keras-bf16-views", marks=pytest.mark.slow),
        pytest.param("startup", "load", "star_keras", marks=pytest.mark.slow),
        ("startup", "import", "star_keras"),
    ],
)
def test_every_case_runs(name, case, implementation, script):
    run, facts = script(name).make(case, implementation)
    run()
    json.dumps(facts)


def test_a_measurement_has_the_fields_of_the_peers(script):
    calls = []
    row = script("protocol").measure(lambda: calls.append(np.ones(10)), repetitions=3, warmup=2, attempts=1)
    assert len(calls) == 5 and row["reps"] == 3
    assert {"median_s", "min_s", "cpu_s", "foreign", "peak_delta_mb"} <= set(row)
    assert 0 < row["min_s"] <= row["median_s"]


def test_speed_compares_medians_of_quiet_rounds_with_the_fastest_peer(script):
    run = script("run")
    case = run.Case("g", "case", "fast", (("s", "c", "ours"),), (("s", "c", "slow"), ("s", "c", "quick")))
    rows = {
        "ours": [measured(0.1, 0.1), measured(0.3, 0.3), measured(9.0, 0.1, 0.9), measured(0.2, 0.2)],
        "slow": [measured(0.8, 0.8)],
        "quick": [measured(0.4, 0.4), measured(0.6, 0.6)],
    }
    ours, slow, quick = run.summarise(case, rows, threads=1)
    assert ours["seconds"] == pytest.approx(0.2) and ours["rounds"] == 3  # without the disturbed round
    assert quick["seconds"] == pytest.approx(0.5)
    assert [row["speed"] for row in (ours, slow, quick)] == pytest.approx([2.5, 0.625, 1.0])
    assert [row["target"] for row in (ours, slow, quick)] == ["fast", "", ""]


def test_a_single_thread_that_never_had_quiet_is_timed_by_its_cpu(script):
    run = script("run")
    case = run.Case("g", "case", "", (("s", "c", "ours"),))
    rows = {"ours": [measured(5.0, 1.0, 0.9), measured(7.0, 1.2, 0.9)]}
    (one,) = run.summarise(case, rows, threads=1)
    assert (one["seconds"], one["clock"], one["speed"]) == (pytest.approx(1.1), "CPU", None)
    (two,) = run.summarise(case, rows, threads=2)
    assert (two["seconds"], two["clock"]) == (pytest.approx(6.0), "wall")


def test_the_limit_is_the_same_arithmetic_at_the_measured_peak(script):
    run = script("run")
    case = run.Case("g", "case", "", (("s", "c", "ours"),), limit=("l", "matmul-f32", "torch"))
    quiet = {"gflops": 80.0, "min_s": 0.2, "cpu_s": 0.2}
    waited = {"gflops": 40.0, "min_s": 0.5, "cpu_s": 0.2}  # of one thread: 20 GFLOP in 0.2 s
    rows = {"ours": [measured(0.3, 0.3, flops=20e9)], run.PEAK: [quiet, waited]}
    assert run.summarise(case, rows, threads=1)[0]["limits"] == pytest.approx(0.3 * 100 / 20)
    assert run.summarise(case, rows, threads=2)[0]["limits"] == pytest.approx(0.3 * 80 / 20)


def test_a_later_run_replaces_its_own_cases_and_keeps_the_others(script, tmp_path):
    run = script("run")
    row = run.summarise(run.Case("g", "first", "", (("s", "c", "ours"),)), {"ours": [measured(1, 1)]}, 1)[0]
    result = {"machine": run.machine(), "command": "run.py", "date": "2026-01-01", "rows": [row]}
    path = tmp_path / "table.json"
    run.write(path, result)
    run.write(path, {**result, "rows": [{**row, "case": "second"}]})
    run.write(path, {**result, "rows": [{**row, "seconds": 0.25}]})
    rows = {row["case"]: row["seconds"] for row in json.loads(path.read_text())["rows"]}
    assert rows == {"first": 0.25, "second": 1.0}
    assert "| first | 1 | ours | 250 ms |" in path.with_suffix(".md").read_text()
    run.write(path, {**result, "machine": {**run.machine(), "cores": 0}})
    assert [row["case"] for row in json.loads(path.read_text())["rows"]] == ["first"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["table.json", "table.md"]


@pytest.mark.slow
def test_the_command_runs_ours_and_the_peers_in_turns(tmp_path):
    peers = tmp_path / "peers"
    peers.mkdir()
    # A peer that needs a second for everything.
    line = json.dumps(measured(1.0, 1.0))
    (peers / "augment.py").write_text(f"print({line!r})")
    command = [sys.executable, FOLDER / "run.py", "--only", "aug32", "--rounds", "1"]
    command += ["--peers", peers, "--out", tmp_path / "table.json"]
    process = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-2000:]
    views, peer = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert (views["implementation"], peer["implementation"]) == ("star_keras", "torch-batched")
    assert (peer["speed"], views["speed"]) == (1, pytest.approx(1 / views["seconds"]))
    assert process.stdout.startswith("# Benchmarks")


def test_an_unknown_case_is_refused_by_name(script, capsys):
    with pytest.raises(SystemExit):
        script("run").main(["--only", "ntxant"])
    assert "ntxent-4096" in capsys.readouterr().err
