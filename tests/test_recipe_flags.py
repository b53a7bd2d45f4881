"""What the flags of recipes are and say, and how recipes are named, on the command line."""

import inspect
import pathlib
import runpy
import typing

import pytest

from star_keras import models, recipes
from star_keras.__main__ import OWN_IMAGES, main

ROOT = pathlib.Path(__file__).parent.parent
RECIPES = sorted(path.parent.name for path in ROOT.glob("zoo/*/recipe.py"))


def stopped(capsys, *arguments):
    """What is printed, on one line, by a command that argparse ends."""
    with pytest.raises(SystemExit) as end:
        main([*arguments])
    printed = capsys.readouterr()
    return end.value.code, " ".join((printed.out + printed.err).split())


@pytest.mark.parametrize(
    "arguments", [["--help"], ["pretrain", "--help"], ["pretrain", "resnet20", "--help"]]
)
def test_help_names_all_recipes(arguments, capsys):
    status, printed = stopped(capsys, *arguments)
    assert status == 0
    assert f"Recipes: {', '.join(RECIPES)}" in printed


@pytest.mark.parametrize("given", [*RECIPES, *models.list()])
def test_recipes_go_by_their_names_and_by_those_of_their_models(given, capsys):
    recipe = given.partition(".")[0]
    status, printed = stopped(capsys, "pretrain", given, "--help")
    assert status == 0 and printed.startswith(f"usage: star-keras pretrain {given} [-h]")
    assert "--folder FOLDER where the run is kept" in printed and f"default: runs/{recipe}" in printed


def test_a_wrong_flag_of_a_recipe_is_told_by_the_command_that_was_given(capsys, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import star_keras as sk\nsk.recipes.command_line(lambda rate=1.0: None)"
    )
    for recipe, flag in (("star-resnet20", "--epochs"), (str(tmp_path / "mine.py"), "--rate")):
        status, printed = stopped(capsys, "pretrain", recipe, flag, "many")
        assert status == 2
        assert f"star-keras pretrain {recipe}: error: argument {flag}: invalid" in printed


def test_flags_say_what_may_be_given_and_what_they_do(capsys):
    _, printed = stopped(capsys, "pretrain", "star-resnet18", "--help")
    for flag in (
        "--method {star,simclr}",
        "--stem {cifar,strided,imagenet}",
        "--precision {auto,float32,mixed_bfloat16,mixed_float16,float64}",
        "--strategy {one,mirrored}",
        "--minutes MINUTES stop after",
        "--measure measure",
        "--publish measure",
        "--smoke a minute",
    ):
        assert flag in printed
    status, printed = stopped(capsys, "pretrain", "star-resnet18", "--method", "byol")
    assert status == 2 and "'byol' (choose from" in printed


@pytest.mark.parametrize("recipe", RECIPES)
def test_images_of_ones_own_are_refused_by_recipes_that_take_none(recipe, capsys):
    run = runpy.run_path(str(ROOT / "zoo" / recipe / "recipe.py")).get("run")
    takes = run is not None and "images" in inspect.signature(run).parameters
    assert takes == (recipe in OWN_IMAGES)
    if not takes:
        assert main(["pretrain", recipe, "--images", "./photos"]) == 2
        error = capsys.readouterr().err
        assert f"recipes {' and '.join(OWN_IMAGES)}. Received: {recipe}" in error


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


def test_choices_of_a_flag_are_those_of_its_literal():
    def run(kind: typing.Literal["plain", "new"] = "plain"):
        return kind

    assert recipes.command_line(run, ["--kind", "new"]) == "new"
    with pytest.raises(SystemExit):
        recipes.command_line(run, ["--kind", "old"])


def test_a_switch_that_is_on_has_one_that_turns_it_off():
    def run(shuffle=True):
        return shuffle

    assert [recipes.command_line(run, words) for words in ([], ["--no-shuffle"])] == [True, False]


def test_one_recipe_varies_the_defaults_of_another_and_flags_win():
    def run(epochs=30, weight=1.0, smoke=False):
        return epochs, weight, smoke

    assert recipes.command_line(run, [], epochs=12, weight=0.0) == (12, 0.0, False)
    assert recipes.command_line(run, ["--weight", "2", "--smoke"], epochs=12) == (12, 2.0, True)


def test_a_wrong_flag_is_refused_before_anything_runs():
    with pytest.raises(SystemExit) as stopped:
        recipes.command_line(lambda epochs=3: pytest.fail("ran"), ["--epochs", "many"])
    assert stopped.value.code == 2
