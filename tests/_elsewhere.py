"""Python in a new process, which may be of another backend, and what its scripts share."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
reads_memory = pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads memory from /proc")

# Beginnings of scripts. Devices can be split only before TensorFlow starts.
TWO_CPUS = """
import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
"""
MEMORY = r"""
import re

def megabytes(name):
    return int(re.search(name + r":\s+(\d+) kB", open("/proc/self/status").read())[1]) / 1024

def megabytes_of(call):
    before = megabytes("VmRSS")
    call()
    return megabytes("VmHWM") - before
"""


def run_elsewhere(script, *arguments, backend=None, cwd=None, **switches):
    """Runs code, or the file at a `Path`, in a new process, and returns what it prints.

    Args:
        script, arguments: the code and its `sys.argv[1:]`. It may import the package and helpers of tests.
        backend: that of the process, which must be installed. Defaults to that of this process.
        cwd: the folder it runs in. Defaults to that of this process.
        switches: further variables of the environment.
    """
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3", **switches}
    environment["PYTHONPATH"] = os.pathsep.join(
        filter(None, (str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH")))
    )
    if backend is not None:
        pytest.importorskip(backend)
        environment["KERAS_BACKEND"] = backend
    code = [script] if isinstance(script, Path) else ["-c", script]
    command = list(map(str, [sys.executable, *code, *arguments]))
    finished = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True)
    assert finished.returncode == 0, (finished.stdout + finished.stderr)[-4000:]
    return finished.stdout


def assert_laws_hold(backend, files, laws, **switches):
    """Runs the tests of `files` whose names match `laws`, on a backend, which must be installed."""
    script = "import pytest, sys; sys.exit(pytest.main(sys.argv[1:]))"
    options = ("-q", "-n", "0", "-p", "no:cacheprovider", "-k", laws)
    said = run_elsewhere(script, *options, *files, backend=backend, **switches)
    assert "failed" not in said and " passed" in said
