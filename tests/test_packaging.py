"""The wheel loads with no network and no checkout; what an installation needs is told."""

import os
import pathlib
import re
import subprocess
import sys
import tomllib
import zipfile

import pytest
from packaging.requirements import Requirement

import star_keras
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


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


MISSING = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
import star_keras
"""


@pytest.mark.slow
@pytest.mark.parametrize("module", ["torch", "h5py"])
def test_a_missing_backend_is_told_with_the_extras_and_other_modules_are_left_to_python(module):
    command = [sys.executable, "-c", MISSING, module]
    environment = {**os.environ, "KERAS_BACKEND": "torch"}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment)
    told = ended.stderr.splitlines()[-1]
    if module == "torch":
        assert told.startswith("ModuleNotFoundError: Keras needs its backend")
        assert "torch is not installed; pip install 'star-keras[torch]'" in told and "KERAS_BACKEND" in told
    else:
        assert told == "ModuleNotFoundError: No module named 'h5py'"


def test_every_extra_is_in_the_readme_and_every_error_names_one():
    readme = (ROOT / "README.md").read_text()
    table = readme[readme.index("| extra |") : readme.index("## Data")]
    assert not {extra for extra in EXTRAS if f"`{extra}`" not in table}
    library = "".join(path.read_text() for path in (ROOT / "star_keras").rglob("*.py"))
    found = re.findall(r'needed\([^)]*"([\w,]+)"\)', library)
    named = set(",".join(found).split(","))
    assert {"data", "rl", "plots"} <= named and named <= {*EXTRAS, "tests"}


@pytest.mark.parametrize(
    ("system", "machine", "name"),
    [
        ("linux", "x86_64", "tensorflow-cpu"),
        ("win32", "AMD64", "tensorflow-cpu"),
        ("darwin", "arm64", "tensorflow"),
        ("linux", "aarch64", "tensorflow"),
    ],
)
def test_the_backend_of_reference_is_the_one_that_has_files_for_the_system(system, machine, name):
    asked = map(Requirement, EXTRAS["tensorflow"])
    place = {"sys_platform": system, "platform_machine": machine}
    assert [wanted.name for wanted in asked if wanted.marker.evaluate(place)] == [name]


def test_the_command_and_the_version_are_those_of_the_code():
    assert PROJECT["scripts"] == {"star-keras": "star_keras.__main__:command"}
    assert f"version: {star_keras.__version__}\n" in (ROOT / "CITATION.cff").read_text()
