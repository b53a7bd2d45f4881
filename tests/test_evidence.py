"""Every script of evidence runs in the small and judges what was claimed; going on is tried with three."""

import importlib
import json
import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest
from _prepared import write_prepared

from star_keras import data

EVIDENCE = pathlib.Path(__file__).parent.parent / "examples" / "evidence"


@pytest.fixture
def printed(tmp_path, monkeypatch):
    """Runs a script in the small and returns what it prints; its results are in the working directory."""
    monkeypatch.chdir(tmp_path)

    def run(script, *more):
        command = [sys.executable, str(EVIDENCE / f"{script}.py"), "--smoke", "--results", ".", *more]
        finished = subprocess.run(command, capture_output=True, text=True)
        assert finished.returncode == 0, finished.stderr[-3000:]
        return finished.stdout

    return run


def results(name):
    return [json.loads(line) for line in pathlib.Path(f"{name}_smoke.jsonl").read_text().splitlines()]


def finished_runs(text):
    """How many runs a script told of as done."""
    return text.count(" s\n")


@pytest.mark.slow
def test_evidence_on_mixtures_goes_on_and_is_compared(printed):
    first, again = printed("moe_collapse"), printed("moe_collapse")
    rows = results("moe_collapse_fashion_mnist")
    assert len(rows) == finished_runs(first) == 3 + 2 * 4 and not finished_runs(again)
    for picture in ("runs", "experts"):
        content = pathlib.Path(f"moe_collapse_fashion_mnist_smoke_{picture}.png").read_bytes()
        assert content.startswith(b"\x89PNG")
    assert "| experts on pixels |" in again and "- dead experts: snnl - baseline" in again
    # Two seeds have no p value.
    over_sets = again.partition("accuracy, %, p among 0 sets (Holm):\n- fashion_mnist: ")[2]
    assert over_sets.partition("\n")[0].endswith(", p nan: within noise")


@pytest.mark.slow
def test_evidence_on_mixtures_has_a_full_recipe_and_reads_prepared_sets(printed, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    splits = {
        name: (rng.integers(0, 256, (count, 32, 32, 3), "uint8"), np.arange(count) % 100)
        for name, count in (("train", 300), ("test", 100))
    }
    write_prepared(tmp_path, "cifar100", **splits)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    text = printed("moe_collapse", "--data", "cifar100", "--full")
    assert finished_runs(text) == 3 + 2 and "cifar100: mean and deviation over 1 seeds" in text
    lines = pathlib.Path("moe_collapse_cifar100_smoke_full.jsonl").read_text().splitlines()
    assert [json.loads(line)["method"] for line in lines] == ["baseline", "snnl"]


@pytest.mark.slow
def test_evidence_on_equitune_goes_on_and_judges_each_ordering(printed):
    started = printed("equitune_cnn", "--minutes", "0.0001")
    first, again = printed("equitune_cnn"), printed("equitune_cnn")
    rows = results("equitune_cnn")
    assert len(rows) == 2 + 2 * 4 + 2 + 2 * 2 + 2
    assert finished_runs(started) + finished_runs(first) == len(rows) and not finished_runs(again)
    assert "| λ-equitune | fine-tuned |" in again and "| 100 % |" in again
    assert again.count("λ-equitune above equitune: ") == 2
    assert again.count("uniform weights in place of the trained λ: ") == 2
    wrapped = [row for row in rows if "invariance_error" in row]
    assert len(wrapped) == len(rows) - 2 and max(row["invariance_error"] for row in wrapped) < 1e-5
    for row in rows:
        if row["stage"] == "zero-shot" and row["method"] == "lambda" and row["split"] == "test":
            (mean,) = (
                other["turned"]
                for other in rows
                if (other["method"], other["stage"], other["seed"]) == ("equitune", "zero-shot", row["seed"])
            )
            assert row["uniform_weights"] == mean


def test_sweeps_of_one_script_share_its_minutes(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(EVIDENCE))
    minutes, done = [0], []
    clock = types.SimpleNamespace(monotonic=lambda: 60 * minutes[0])
    monkeypatch.setattr(importlib.import_module("star_keras.recipes.results"), "time", clock)

    def of_a_minute(**run):
        minutes[0] += 1
        done.append(run["stage"])
        return {"turned": 0.5}

    cnn = importlib.import_module("equitune_cnn")
    monkeypatch.setattr(cnn, "Experiment", lambda smoke: of_a_minute)
    cnn.run(str(tmp_path), minutes=4.5, smoke=True)
    assert done == ["zero-shot"] * 5


@pytest.mark.slow
def test_evidence_on_fair_text_is_fair_to_the_last_bits_and_is_judged(printed):
    text, rows = printed("equitune_language"), results("equitune_language")
    assert len(rows) == finished_runs(text) == 2 * 2 * 4
    for row in rows:
        assert len(row["sentiment"]) == {"ranks": 3, "genders": 2}[row["group"]]
        assert (row["method"] == "equi") == (row.get("greatest_variation", 1) < 1e-5)
    assert text.count("| EquizeroLM | – |") == 2
    assert text.count("gap of EquiLM below that of the model alone: ") == 2


@pytest.mark.slow
def test_evidence_on_zero_shot_classifiers_goes_on_and_judges_each_ordering(printed):
    own = ("equitune_zero_shot", "--folder", "encoders")
    started, first, again = printed(*own, "--minutes", "0.0001"), printed(*own), printed(*own)
    rows = results("equitune_zero_shot")
    assert len(rows) == 1 + 1 + 2 * 4 + 2 * 3
    assert finished_runs(started) + finished_runs(first) == len(rows) and not finished_runs(again)
    assert "| λ-equitune, joint | – |" in again
    assert again.count("equitune above classifier alone: ") == 1
    assert again.count("λ-equitune, joint above equizero: ") == 1
    wrapped = [row for row in rows if row["method"] != "pretrained"]
    assert max(row["invariance_error"] for row in wrapped) < 1e-4


@pytest.mark.slow
def test_evidence_on_control_judges_each_ordering(printed):
    text = printed("equitune_control")
    rows = results("equitune_control")
    assert len(rows) == finished_runs(text) == 2 * 2
    assert "| λ-equitune |" in text and "(shortest ways: -" in text
    assert text.count(": equitune above network alone: ") == 2 * 2
    for row in rows:
        assert max(row["equivariance_error"].values()) < 1e-5
        assert set(row["zero_shot"]) == set(row["fine_tuned"]) == {"pretrained", "mean", "argmin", "lambda"}


@pytest.mark.slow
def test_evidence_on_commands_judges_each_ordering(printed):
    own = ("equitune_scan", "--cells", "gru", "--tasks", "add_jump", "--folder", "models")
    text = printed(*own)
    rows = results("equitune_scan")
    assert len(rows) == finished_runs(text) == 5 + 5
    assert {row["stage"] for row in rows} == {"zero-shot", "fine-tuned"}
    assert all(0 <= row["exact_match"] <= 1 for row in rows)
    assert text.count("| zero-shot | gru | equizero | sentence | 2 |") == 1
    assert [path.name for path in pathlib.Path("models").iterdir()] == ["add_jump-gru-0"]


def test_evidence_on_commands_judges_what_two_seeds_or_more_have_of_both(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(EVIDENCE))
    scan = importlib.import_module("equitune_scan")
    plan = [run for seed in (0, 1, 2) for run in each_run(scan, seed)]
    rows = [{**run, "exact_match": 0.1 + 0.2 * number / len(plan)} for number, run in enumerate(plan)]
    scan.print_verdicts(rows)
    lines = capsys.readouterr().out.splitlines()
    # Equitune by sentence and by step, equizero by both and λ for each order, fine-tuning of four methods,
    # and one between two.
    assert len(lines) == 1 + (2 + 4 + 2 + 4 + 1) + (2 + 2 + 1 + 4 + 1)
    assert sum(": equizero above equitune" in line for line in lines) == 6 + 2
    assert sum("λ-equitune above equitune" in line for line in lines) == 3
    assert sum("fine-tuned above zero-shot" in line for line in lines) == 8
    scan.print_verdicts([row for row in rows if row["seed"] == 0 or row["stage"] == "zero-shot"])
    assert "fine-tuned" not in capsys.readouterr().out


def each_run(scan, seed):
    for task in scan.TASKS:
        model = {"task": task, "cell": "gru", "seed": seed}
        yield from scan.zero_shot(model, smoke=False)
        yield from scan.trained(model, smoke=False)


@pytest.mark.slow
def test_evidence_on_other_mixtures_judges_each(printed):
    text = printed("moe_variants")
    assert len(results("moe_variants")) == finished_runs(text) == 2 * 2
    assert "| long tail | with |" in text and text.count(" by the neighbour loss") == 2 * 2


@pytest.mark.slow
def test_evidence_on_detection_judges(data_folder, printed, monkeypatch):
    text = printed("detection")
    assert len(results("detection")) == finished_runs(text) == 2 + 2 * 2
    assert "| random initialisation |" in text and "AP: star-resnet20 - random" in text
    monkeypatch.syspath_prepend(str(EVIDENCE))
    random = importlib.import_module("detection").Experiment(smoke=True).backbone("random", seed=1)
    means = [weight for weight in random.weights if weight.name == "moving_mean"]
    assert means and all(np.any(weight.numpy()) for weight in means)


@pytest.mark.slow
def test_evidence_on_transfer_judges(printed):
    text = printed("transfer")
    rows = results("transfer")
    assert len(rows) == finished_runs(text) == 3 * 2
    assert all(row["floor"] <= 0.2 < row["accuracy"] for row in rows)
    assert "Fashion-MNIST: star-resnet20 - random like star-resnet20" in text


@pytest.mark.slow
def test_evidence_on_rotations_of_the_plane_judges(printed):
    text = printed("equitune_continuous")
    rows = results("equitune_continuous")
    assert len(rows) == finished_runs(text) == 3 * 2
    assert all(np.isfinite(row["error"]) and row["change_when_turned"] > 0 for row in rows)
    assert "equitune errs less than network alone: " in text


@pytest.mark.slow
def test_evidence_on_pretraining_compares_and_draws_methods(data_folder, printed):
    first, again = printed("comparison"), printed("comparison", "--detect")
    rows, detected = results("comparison"), results("comparison_detection")
    assert len(rows) == finished_runs(first) == 2 * 2 and len(detected) == finished_runs(again) == 2 * 2
    assert "STAR, 8 experts beside SimCLR\n- CIFAR-10, %: better by " in again
    assert again.count("min/max of experts") == 2 and again.count("\n| chance |") == 3
    assert "| STAR, 8 experts |" in again and "\n4. routing: an expert near 1, others near 0: " in again
    assert "| | AP of cells, % | AP50 | AP75 |" in again and "| | AP of cells, %" not in first
    for row in rows:
        assert ("neighbors" in row) == (row["seed"] == 0)
        assert ("own_mrr" in row) == ("routing" in row) == (row["method"] == "star 8")
        assert row["transfer"] == np.mean(list(row["sets"].values()))
        assert row["floors"]["error"] == 1 and row["floors"]["mrr"] == 0.75
    folders = {path.name for path in pathlib.Path("runs/comparison").iterdir()}
    assert "smoke star 8 1 mixed_bfloat16" in folders and len(folders) == 4
    for picture in ("routing", "matrix"):
        assert pathlib.Path(f"comparison_smoke_{picture}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_evidence_on_proxies_ranks_them_and_judges_each_pair(printed):
    text, rows = printed("equitune_proxies"), results("equitune_proxies")
    assert len(rows) == finished_runs(text) == 4 * 2
    assert text.count("entropy above equitune (mean): ") == text.count("above equizero, max value: ") / 2 == 4
    (ranked,) = (line for line in text.splitlines() if line.startswith("| equizero, confidence |"))
    assert sum(f"({rank})" in cell for cell in ranked.split("|") for rank in (1, 2, 3)) == 4
    assert "| best in | proxy | images | commands | CartPole | gridworld |" in text
    assert text.count("- best everywhere: ") == 1
    # Of two actions and a mirror, the member that is surest says what the mean says.
    for row in rows:
        if row["application"] == "CartPole":
            assert row["confidence"] == row["equitune"]


@pytest.mark.slow
def test_evidence_on_other_images_reads_from_memory_what_the_network_says(printed):
    text, rows = printed("equitune_images"), results("equitune_images")
    assert len(rows) == finished_runs(text) == 2 * (3 + 2 + 1)
    title = "STAR ResNet-20, linear layer, CIFAR-10"
    assert text.count(f"\n| {title}, zero-shot | ") == text.count(f"\n| {title}, fine-tuned | – | – |") == 1
    assert text.count(f"\n- {title}: linear above one layer: ") == 1
    assert text.count("uniform weights in place of the trained λ: ") == 2
    for row in rows:
        assert row.get("memory_error", 0) < 1e-5 and row.get("invariance_error", 0) < 1e-5
        assert ("memory_error" in row) == (row["stage"] == "zero-shot")


@pytest.mark.slow
def test_evidence_on_efficientnet_builds_the_published_network(data_folder, monkeypatch):
    monkeypatch.syspath_prepend(str(EVIDENCE))
    network = importlib.import_module("converted").efficientnet_lite0()
    found = data.load("imagenette224_small", split="val")
    with np.load(data_folder / "imagenette224_small.npz") as file:
        numbers = file["imagenet_index"]
    answers = network.predict(found.images[::10], verbose=0)
    assert np.mean(answers[:, numbers].argmax(-1) == found.labels[::10]) >= 0.96
    assert np.mean(answers.argmax(-1) == numbers[found.labels[::10]]) >= 0.6
