"""The command `star-keras`: list and describe the models of the zoo, and train them again."""

import argparse
import json
import os
import pathlib
import runpy
import sys

from star_keras.version import __version__

DEFAULT_RECIPE = "star-resnet18"


def main(arguments=None):
    """Runs the command line.

    Args:
        arguments: list of words. Defaults to those of the process.

    Returns:
        The exit status: 0, or 2 when what was asked for does not exist.
    """
    parser = argparse.ArgumentParser(prog="star-keras", description=__doc__)
    parser.add_argument("--version", action="version", version=f"star-keras {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)

    listing = commands.add_parser("list", help="the models of the zoo, one a line")
    listing.add_argument("pattern", nargs="?", default="*", help='such as "star-*"')
    description = commands.add_parser("info", help="what is known about a model")
    description.add_argument("name")
    commands.add_parser(
        "pretrain",
        add_help=False,
        help="[RECIPE] [flags of the recipe]: train by a recipe of the zoo or a Python file "
        f"(default: {DEFAULT_RECIPE}), on images of your own with --images FOLDER",
    )

    options, rest = parser.parse_known_args(arguments)
    if rest and options.command != "pretrain":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    try:
        if options.command == "pretrain":
            return _pretrain(rest)
        return _list(options.pattern) if options.command == "list" else _info(options.name)
    except (KeyError, ValueError, OSError, RuntimeError, ImportError) as error:
        print(f"star-keras: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "\nstar-keras: interrupted; the same command goes on from the last checkpoint.", file=sys.stderr
        )
        return 130


def _list(pattern):
    from star_keras import models

    for name in models.list(pattern):
        print(f"{name:32s} {models.info(name)['description']}")
    return 0


def _info(name):
    from star_keras import models

    record = models.info(name)
    record.pop("embeddings", None)
    print(json.dumps(record, indent=2))
    return 0


def _pretrain(arguments):
    named = arguments and not arguments[0].startswith("-")
    recipe, arguments = (arguments[0], arguments[1:]) if named else (DEFAULT_RECIPE, arguments)
    path = _find_recipe(recipe)
    before, sys.argv = sys.argv, [f"star-keras pretrain {recipe}", *arguments]
    try:
        runpy.run_path(str(path), run_name="__main__")
    finally:
        sys.argv = before
    return 0


def _find_recipe(recipe):
    from star_keras.models.weights import zoo_folder

    path = pathlib.Path(recipe)
    if path.suffix == ".py" and path.is_file():
        return path
    known = {found.parent.name: found for found in sorted(zoo_folder().glob("*/recipe.py"))}
    if recipe not in known:
        raise ValueError(
            f"`recipe` must be one of {', '.join(known)}, or a Python file. Received: {recipe[:80]!r}"
        )
    return known[recipe]


if __name__ == "__main__":
    sys.exit(main())
