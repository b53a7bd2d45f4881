"""The tree as a whole: the table of presets is that of the catalogue, weights have cards, style is one."""

import json
import pathlib
import runpy
import subprocess
import sys

import pytest

from star_keras import models

ROOT = pathlib.Path(__file__).parent.parent


def test_the_table_of_the_readme_is_that_of_the_catalogue():
    updated = runpy.run_path(str(ROOT / "tools" / "zoo_table.py"))["updated"]
    readme = (ROOT / "README.md").read_text()
    assert updated(readme) == readme, "Run `python tools/zoo_table.py`."


@pytest.mark.parametrize("name", models.list())
def test_every_preset_has_a_card_a_recipe_and_results_with_their_curve(name):
    record = models.info(name)
    folder = (ROOT / "zoo" / record["weights"]).parent
    assert name in (folder / "README.md").read_text()
    assert (folder / "recipe.py").is_file()
    results = json.loads((folder / "results.json").read_text())
    assert len(results["run"]["history"]["loss"]) == results["run"]["epochs"]
    measured = {"accuracy", "return", "linear_probe", "nearest_neighbor"} & set(results)
    assert measured
    for name in measured:
        value = results[name]
        assert record["results"][name] == (value["mean"] if isinstance(value, dict) else value)


def test_the_style_is_that_of_the_linter():
    checked = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "."], cwd=ROOT, capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout
