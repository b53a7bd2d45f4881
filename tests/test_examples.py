"""Every example runs in the small and draws its picture; the README's command runs the quickstart in full."""

import pathlib
import subprocess
import sys

import pytest

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("pretrain_star", ["--count", "128", "--epochs", "2", "--folder", "run"]),
        ("rotation_proof_classifier", ["--smoke"]),
        ("moe_without_collapse", ["--smoke"]),
    ],
)
def test_an_example_runs_and_draws_its_picture(name, arguments, tmp_path):
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments, "--picture", "picture.png"]
    finished = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_evidence_is_gathered_goes_on_and_is_compared(tmp_path):
    command = [sys.executable, str(EXAMPLES / "evidence" / "moe_collapse.py"), "--smoke"]
    first, again = (
        subprocess.run([*command, "--results", "."], capture_output=True, text=True, cwd=tmp_path)
        for _ in range(2)
    )
    assert first.returncode == 0, first.stderr[-3000:]
    rows = (tmp_path / "moe_collapse_fashion_mnist.jsonl").read_text().splitlines()
    assert len(rows) == len(set(rows)) == 3 + 2 * 4
    assert first.stdout.count(" s\n") == len(rows) and " s\n" not in again.stdout
    assert "| experts on pixels |" in again.stdout and "accuracy: snnl - baseline" in again.stdout
