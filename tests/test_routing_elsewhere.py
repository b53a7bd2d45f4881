"""Laws of routing that arithmetic could break on one backend alone, on the two others."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FILES = [str(Path(__file__).parent / f"test_{name}.py") for name in ("gates", "metrics", "routing_monitor")]
LAWS = "in_float64 or finite_gradient or no_gate or nan or broken or deep or without_input"


@pytest.mark.slow
@pytest.mark.fault(49)
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_gates_metrics_and_monitor_obey_their_laws_on_other_backends(backend):
    pytest.importorskip(backend)
    environment = {**os.environ, "KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "-k", LAWS, *FILES]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-4000:]
    assert "failed" not in result.stdout and " passed" in result.stdout
