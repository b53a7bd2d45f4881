"""The wheel: weights travel inside it, and load with no network and no checkout."""

import pathlib
import subprocess
import sys
import zipfile

import pytest

from star_keras import models

ROOT = pathlib.Path(__file__).parent.parent

LOAD = """
import socket, sys, time

def refuse(*_, **__):
    raise AssertionError("the network was touched")

socket.socket.connect = socket.create_connection = refuse
sys.path.insert(0, sys.argv[1])
import star_keras as sk

assert sk.__file__.startswith(sys.argv[1]), sk.__file__
for name in sk.models.list():
    sk.models.verify(name)
images, labels, *_ = sk.data.load("fashion_mnist", split="test")
assert len(labels) == 2000
"""


@pytest.mark.slow
@pytest.mark.fault(25)
def test_presets_and_data_load_from_the_wheel_without_network(tmp_path):
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(tmp_path),
        str(ROOT),
    ]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr[-3000:]
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "installed")
    for preset in models.list():
        assert f"star_keras/zoo/{models.info(preset)['weights']}" in names
    assert not any("/tests/" in name or name.startswith("tests") for name in names)
    loaded = subprocess.run(
        [sys.executable, "-c", LOAD, str(tmp_path / "installed")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert loaded.returncode == 0, loaded.stderr[-3000:]
