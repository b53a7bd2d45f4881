"""Tests of other files once more, in a process of another backend."""

import os
import subprocess
import sys

import pytest


def assert_laws_hold(backend, files, laws, **switches):
    """Runs the tests of `files` whose names match `laws`, on a backend, which must be installed."""
    pytest.importorskip(backend)
    environment = {**os.environ, "KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu", **switches}
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "-k", laws, *files]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-4000:]
    assert "failed" not in result.stdout and " passed" in result.stdout
