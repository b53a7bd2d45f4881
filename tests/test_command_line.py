"""The command `star-keras` and the recipes it runs."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from star_keras import models, recipes
from star_keras.__main__ import DEFAULT_RECIPE, main

ROOT = pathlib.Path(__file__).parent.parent
RECIPES = sorted(path.parent.name for path in ROOT.glob("zoo/*/recipe.py"))
SHIPPED = ("resnet20", "star-resnet20")


def test_list_prints_every_preset_with_its_description(capsys):
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == models.list()


def test_info_prints_the_record_as_json(capsys):
    name = models.list()[0]
    assert main(["info", name]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["name"] == name
    assert len(record["sha256"]) == 64


def test_an_unknown_name_says_what_is_close_and_exits_with_two(capsys):
    assert main(["info", "resnet21"]) == 2
    error = capsys.readouterr().err
    assert "resnet20" in error
    assert "Traceback" not in error


def test_an_unknown_recipe_lists_the_known_ones(capsys):
    assert main(["pretrain", "star-resnet81"]) == 2
    assert "star-resnet20" in capsys.readouterr().err


def test_flags_are_the_arguments_of_the_recipe():
    def run(epochs=3, minutes=None, folder="runs", smoke=False):
        return epochs, minutes, folder, smoke

    assert recipes.command_line(run, []) == (3, None, "runs", False)
    assert recipes.command_line(run, ["--minutes", "1.5", "--smoke", "--epochs", "7"]) == (
        7,
        1.5,
        "runs",
        True,
    )


def test_a_wrong_flag_is_refused_before_anything_runs():
    with pytest.raises(SystemExit) as stopped:
        recipes.command_line(lambda epochs=3: pytest.fail("ran"), ["--epochs", "many"])
    assert stopped.value.code == 2


def pretrain(*arguments, cwd):
    command = [sys.executable, "-m", "star_keras", "pretrain", *arguments, "--smoke", "--folder", "run"]
    finished = subprocess.run(command, capture_output=True, text=True, cwd=cwd)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return finished.stdout


@pytest.mark.slow
@pytest.mark.parametrize("recipe", sorted({*RECIPES} - {DEFAULT_RECIPE, *SHIPPED}))
def test_every_recipe_runs_in_smoke_mode(recipe, tmp_path):
    assert "Epoch 2/2" in pretrain(recipe, cwd=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", SHIPPED)
def test_a_recipe_goes_on_where_it_stopped(recipe, tmp_path):
    assert "Epoch 2/2" not in pretrain(recipe, "--minutes", "0.000001", cwd=tmp_path)
    printed = pretrain(recipe, cwd=tmp_path)
    assert "Epoch 2/2" in printed
    assert "Epoch 1/2" not in printed


@pytest.mark.slow
def test_images_of_ones_own_need_no_recipe_and_no_classes(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 20, 24, 3), dtype="uint8")
    (tmp_path / "photos").mkdir()
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / "photos" / f"{i}.png")
    assert "Epoch 2/2" in pretrain("--images", "./photos", cwd=tmp_path)
    backbone = models.load(tmp_path / "run" / "backbone")
    assert backbone.output_shape == (None, 512)
