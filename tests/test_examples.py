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
        ("zero_shot_any_side", ["--smoke"]),
        ("compositional_commands", ["--smoke"]),
        ("moe_without_collapse", ["--smoke"]),
        ("fair_text", ["--smoke"]),
        ("symmetric_control", ["--smoke"]),
    ],
)
def test_an_example_runs_and_draws_its_picture(name, arguments, tmp_path):
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments, "--picture", "picture.png"]
    finished = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
