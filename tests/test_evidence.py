"""Every script of evidence runs in the small, goes on where it stopped, and judges what was claimed."""

import json
import pathlib
import subprocess
import sys

import pytest

EVIDENCE = pathlib.Path(__file__).parent.parent / "examples" / "evidence"


@pytest.mark.slow
def test_evidence_is_gathered_goes_on_and_is_compared(tmp_path):
    command = [sys.executable, str(EVIDENCE / "moe_collapse.py"), "--smoke"]
    first, again = (
        subprocess.run([*command, "--results", "."], capture_output=True, text=True, cwd=tmp_path)
        for _ in range(2)
    )
    assert first.returncode == 0, first.stderr[-3000:]
    rows = (tmp_path / "moe_collapse_fashion_mnist.jsonl").read_text().splitlines()
    assert len(rows) == len(set(rows)) == 3 + 2 * 4
    assert first.stdout.count(" s\n") == len(rows) and " s\n" not in again.stdout
    for picture in ("runs", "experts"):
        content = (tmp_path / f"moe_collapse_fashion_mnist_{picture}.png").read_bytes()
        assert content.startswith(b"\x89PNG")
    assert "| experts on pixels |" in again.stdout and "accuracy: snnl - baseline" in again.stdout


@pytest.mark.slow
def test_evidence_on_equitune_goes_on_and_judges_each_ordering(tmp_path):
    command = [sys.executable, str(EVIDENCE / "equitune_cnn.py"), "--smoke"]
    started, first, again = (
        subprocess.run(
            [*command, "--results", ".", *more], capture_output=True, text=True, cwd=tmp_path, check=True
        ).stdout
        for more in (["--minutes", "0.0001"], [], [])
    )
    rows = [json.loads(line) for line in (tmp_path / "equitune_cnn.jsonl").read_text().splitlines()]
    assert len(rows) == 2 + 2 * 4 + 2 + 2 * 2 + 2
    assert started.count(" s\n") + first.count(" s\n") == len(rows) and " s\n" not in again
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


@pytest.mark.slow
def test_evidence_on_fair_text_is_fair_to_the_last_bits_and_is_judged(tmp_path):
    command = [sys.executable, str(EVIDENCE / "equitune_language.py"), "--smoke"]
    printed = subprocess.run(
        [*command, "--results", "."], capture_output=True, text=True, cwd=tmp_path, check=True
    ).stdout
    rows = [json.loads(line) for line in (tmp_path / "equitune_language.jsonl").read_text().splitlines()]
    assert len(rows) == printed.count(" s\n") == 2 * 2 * 4
    for row in rows:
        assert len(row["sentiment"]) == {"ranks": 3, "genders": 2}[row["group"]]
        assert (row["method"] == "equi") == (row.get("greatest_variation", 1) < 1e-5)
    assert printed.count("| EquizeroLM | – |") == 2
    assert printed.count("gap of EquiLM below that of the model alone: ") == 2


@pytest.mark.slow
def test_evidence_on_zero_shot_classifiers_goes_on_and_judges_each_ordering(tmp_path):
    script = EVIDENCE / "equitune_zero_shot.py"
    command = [sys.executable, str(script), "--smoke", "--results", ".", "--folder", "encoders"]
    started, first, again = (
        subprocess.run([*command, *more], capture_output=True, text=True, cwd=tmp_path, check=True).stdout
        for more in (["--minutes", "0.0001"], [], [])
    )
    rows = [json.loads(line) for line in (tmp_path / "equitune_zero_shot.jsonl").read_text().splitlines()]
    assert len(rows) == 1 + 1 + 2 * 4 + 2 * 3
    assert started.count(" s\n") + first.count(" s\n") == len(rows) and " s\n" not in again
    assert "| λ-equitune, joint | – |" in again
    assert again.count("equitune above classifier alone: ") == 1
    assert again.count("λ-equitune, joint above equizero: ") == 1
    wrapped = [row for row in rows if row["method"] != "pretrained"]
    assert max(row["invariance_error"] for row in wrapped) < 1e-4


@pytest.mark.slow
def test_evidence_on_control_goes_on_and_judges_each_ordering(tmp_path):
    command = [sys.executable, str(EVIDENCE / "equitune_control.py"), "--smoke"]
    first, again = (
        subprocess.run(
            [*command, "--results", "."], capture_output=True, text=True, cwd=tmp_path, check=True
        ).stdout
        for _ in range(2)
    )
    rows = [json.loads(line) for line in (tmp_path / "equitune_control.jsonl").read_text().splitlines()]
    assert len(rows) == 2 * 2
    assert first.count(" s\n") == len(rows) and " s\n" not in again
    assert "| λ-equitune |" in again and "(shortest ways: -" in again
    assert again.count("equitune above network alone: ") == 2 * 2
    for row in rows:
        assert max(row["equivariance_error"].values()) < 1e-5
        assert set(row["zero_shot"]) == set(row["fine_tuned"]) == {"pretrained", "mean", "argmin", "lambda"}


@pytest.mark.slow
def test_evidence_on_commands_goes_on_and_judges_each_ordering(tmp_path):
    command = [sys.executable, str(EVIDENCE / "equitune_scan.py"), "--smoke", "--cells", "gru"]
    command += ["--tasks", "add_jump"]
    first, again = (
        subprocess.run(
            [*command, "--results", ".", "--folder", "models"],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            check=True,
        ).stdout
        for _ in range(2)
    )
    rows = [json.loads(line) for line in (tmp_path / "equitune_scan.jsonl").read_text().splitlines()]
    assert len(rows) == first.count(" s\n") == 5 + 5 and " s\n" not in again
    assert {row["stage"] for row in rows} == {"zero-shot", "fine-tuned"}
    assert all(0 <= row["exact_match"] <= 1 for row in rows)
    assert again.count("| zero-shot | gru | equizero | sentence | 2 |") == 1
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["add_jump-gru-0"]


@pytest.mark.slow
def test_evidence_on_other_mixtures_goes_on_and_judges_each(tmp_path):
    command = [sys.executable, str(EVIDENCE / "moe_variants.py"), "--smoke", "--results", "."]
    first, again = (
        subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True).stdout
        for _ in range(2)
    )
    rows = (tmp_path / "moe_variants.jsonl").read_text().splitlines()
    assert len(rows) == first.count(" s\n") == 2 * 2 and " s\n" not in again
    assert "| long tail | with |" in again and "points of accuracy by the neighbour loss" in again


@pytest.mark.slow
def test_evidence_on_detection_goes_on_and_judges(data_folder, tmp_path):
    command = [sys.executable, str(EVIDENCE / "detection.py"), "--smoke", "--results", "."]
    first, again = (
        subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True).stdout
        for _ in range(2)
    )
    rows = (tmp_path / "detection.jsonl").read_text().splitlines()
    assert len(rows) == first.count(" s\n") == 2 + 2 * 2 and " s\n" not in again
    assert "| random initialisation |" in again and "AP: star-resnet20 - random" in again
