"""The command `star-keras`: list, describe and measure the models of the zoo, and train them again."""

import argparse
import contextlib
import json
import logging
import os
import pathlib
import runpy
import shlex
import signal
import subprocess
import sys
import sysconfig
import textwrap
import threading
import traceback

from star_keras import exceptions
from star_keras.version import __version__

DEFAULT_RECIPE = "star-resnet18"
OWN_IMAGES = (DEFAULT_RECIPE, "star-resnet50-imagenet100")
INTERRUPTED = 130
COMPUTING = ("verify", "pretrain", "evaluate", "report")
# TensorFlow reads them when it is imported, which is before a command is known.
SETTINGS = {"TF_ENABLE_ONEDNN_OPTS": "1", "TF_CPP_MIN_LOG_LEVEL": "2"}
# Errors told in a line; any other is a fault and shows all that led to it.
EXPECTED = (KeyError, ValueError, OSError, RuntimeError, ImportError, FloatingPointError, SyntaxError)
PACKAGE = f"{pathlib.Path(__file__).parent}{os.sep}"
LIBRARIES = ("<", *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")))


def command():
    """What `star-keras` and `python -m star_keras` run: `main`, once TensorFlow has its settings.

    Where TensorFlow was imported without them, and is to compute, the process starts anew with the same
    words. Settings of one's own are kept.

    Returns:
        The exit status, as of `main`.
    """
    options, rest = _parsed()
    computes = options.command in COMPUTING and not {"-h", "--help"} & {*rest}
    if computes and "tensorflow" in sys.modules and "TF_ENABLE_ONEDNN_OPTS" not in os.environ:
        _set()
        return _start_anew([sys.executable, *sys.orig_argv[1:]])
    return main()


def main(arguments=None):
    """Runs the command line.

    Args:
        arguments: list of words. Defaults to those of the process.

    Returns:
        The exit status: 0, 2 when what was asked for does not exist, 130 after control-C.
    """
    options, rest = _parsed(arguments)
    _set()
    # It warns of many models traced one after the other, which is what measuring takes.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    with _noticing_control_c() as pressed:
        try:
            status = _obey(options, rest)
        except KeyboardInterrupt:
            status = INTERRUPTED
        except Exception as error:
            if not pressed and not isinstance(error, EXPECTED):
                raise
            if not pressed:
                print(f"star-keras: {_told(error)}", file=sys.stderr)
            status = 2
    if pressed or status == INTERRUPTED:
        print("\nstar-keras: interrupted; the same command goes on where it stopped.", file=sys.stderr)
        return INTERRUPTED
    return status


def _parsed(arguments=None):
    """The options of `star-keras`, and of a recipe the words that are its own."""
    parser = argparse.ArgumentParser(
        prog="star-keras",
        description=textwrap.fill(__doc__, 80),
        epilog=_recipes_told(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"star-keras {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)

    listing = commands.add_parser("list", help="the models of the zoo, one a line")
    listing.add_argument("pattern", nargs="?", default="*", help='such as "star-*"')
    description = commands.add_parser("info", help="what is known about a model")
    description.add_argument("name")
    verification = commands.add_parser("verify", help="whether files and numbers of models are as recorded")
    verification.add_argument("name", nargs="?", help="default: all models of the zoo")
    commands.add_parser(
        "pretrain",
        add_help=False,
        help="[RECIPE] [flags of the recipe]: train by a recipe of the zoo or a Python file "
        f"(default: {DEFAULT_RECIPE}); {' and '.join(OWN_IMAGES)} train on images of your own, too, with "
        "--images FOLDER. `pretrain RECIPE --help` tells the flags",
    )

    evaluation = commands.add_parser("evaluate", help="measure a model; every number beside its floor")
    _add_measuring(evaluation)
    evaluation.add_argument("--output", metavar="FILE.json", help="write all numbers as JSON too")
    report = commands.add_parser("report", help="measure a model and write one page, with Markdown and JSON")
    _add_measuring(report)
    report.add_argument("--output", metavar="FILE.html", default="report.html", help="default: %(default)s")

    options, rest = parser.parse_known_args(arguments)
    if rest and options.command != "pretrain":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return options, rest


def _set():
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)


def _start_anew(words):
    if sys.platform != "win32":
        os.execv(sys.executable, words)
    # There, a process that replaces itself returns to the shell at once.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return subprocess.call(words)


def _obey(options, rest):
    if options.command == "pretrain":
        return _pretrain(rest)
    if options.command in ("evaluate", "report"):
        return _measure(options)
    if options.command == "verify":
        return _verify(options.name)
    return _list(options.pattern) if options.command == "list" else _info(options.name)


def _told(error):
    """An error in a line: messages of this package say what to do, those of others need their place."""
    if type(error).__module__ == exceptions.__name__:
        return str(error)
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}: {type(error).__name__}: {error.msg}"
    frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if frames[-1][0].startswith(PACKAGE) and type(error) is not KeyError:
        return str(error)
    own = [frame for frame in frames if not frame[0].startswith((PACKAGE, *LIBRARIES))]
    file, line = (own or frames)[-1]
    return f"{file}:{line}: {type(error).__name__}: {error}"


@contextlib.contextmanager
def _noticing_control_c():
    """Gives a list that is empty until control-C is pressed.

    What was interrupted may pass it on as an error of its own: TensorFlow does so while it traces.
    """
    pressed = []

    def press(signum, frame):
        pressed.append(signum)
        raise KeyboardInterrupt

    main_thread = threading.current_thread() is threading.main_thread()
    if not main_thread or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield pressed
        return
    signal.signal(signal.SIGINT, press)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _list(pattern):
    from star_keras import models

    names = models.list(pattern)
    if not names:
        raise ValueError(
            "`pattern` must fit the name of a preset. "
            f"Received: pattern={pattern!r}; `star-keras list` gives all names."
        )
    width = max(map(len, names))
    for name in names:
        print(f"{name:{width}}  {models.info(name)['description']}")
    return 0


def _info(name):
    from star_keras import models

    record = models.info(name)
    record.pop("embeddings", None)
    print(json.dumps(record, indent=2))
    return 0


def _verify(name):
    """A line for each preset; those that are not as recorded stop none of the others."""
    from star_keras import models

    status = 0
    for known in [name] if name else models.list():
        try:
            print(f"{known}: as recorded, to {models.verify(known):.0e}", flush=True)
        except EXPECTED as error:
            print(f"star-keras: {known}: {_told(error)}", file=sys.stderr)
            status = 2
    return status


def _add_measuring(parser):
    parser.add_argument("name", help='of a model, or a folder that holds one, such as "./runs/mine/backbone"')
    parser.add_argument("--data", default="fashion_mnist", help="image set or path; default: %(default)s")
    parser.add_argument("--test-data", help="another set to test on; default: the test split of --data")
    parser.add_argument(
        "--on-error",
        choices=("raise", "skip"),
        default="raise",
        help="what to do about images that cannot be read; default: %(default)s",
    )
    parser.add_argument("--count", type=int, default=5000, help="training images; default: %(default)s")
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=[0, 1, 2],
        help="a draw of training images each; default: 0 1 2",
    )
    parser.add_argument("--images", type=int, default=1000, help="test images seen in detail; default: 1000")
    parser.add_argument("--views", type=int, default=20, help="of each of these; default: %(default)s")
    parser.add_argument("--episodes", type=int, default=2000, help="few-shot problems; default: %(default)s")
    parser.add_argument("--no-untrained", action="store_true", help="leave the untrained network out")
    parser.add_argument("--folder", default="runs/measures", help="of what is measured; default: %(default)s")


def _measure(options):
    from star_keras import reports
    from star_keras.evaluation import ReportSettings

    if options.command == "report":
        reports.check_extra(options.output)
    settings = ReportSettings(
        count=options.count,
        seeds=options.seeds,
        images=options.images,
        views=options.views,
        episodes=options.episodes,
        untrained=not options.no_untrained,
    )
    document = reports.measure(
        options.name,
        options.data,
        options.test_data,
        settings,
        options.folder,
        _command(options),
        options.on_error,
    )
    print(reports.plain(document))
    if options.command == "report":
        print("Written:", ", ".join(map(str, reports.write_report(document, options.output))))
    elif options.output:
        reports.write_json(document, options.output)
    return 0


def _command(options):
    """The words that measure the same again; where things are kept does not matter."""
    words = ["star-keras", "report", options.name, "--data", options.data]
    words += ["--test-data", options.test_data] if options.test_data else []
    words += ["--on-error", "skip"] if options.on_error == "skip" else []
    for name in ("count", "images", "views", "episodes"):
        words += [f"--{name}", str(getattr(options, name))]
    words += ["--seeds", *map(str, options.seeds)] + ["--no-untrained"] * options.no_untrained
    return shlex.join(words)


def _pretrain(arguments):
    from star_keras.recipes import flags

    named = arguments and not arguments[0].startswith("-")
    recipe, arguments = (arguments[0], arguments[1:]) if named else (DEFAULT_RECIPE, arguments)
    path = _find_recipe(recipe)
    if path in _recipes().values() and path.parent.name not in OWN_IMAGES:
        if any(word.partition("=")[0] == "--images" for word in arguments):
            raise ValueError(
                f"`--images` is a flag of the recipes {' and '.join(OWN_IMAGES)}. Received: {recipe}; leave "
                "it out to train on the images of the recipe, or take one of these."
            )
    program = {"prog": f"star-keras pretrain {recipe}", "epilog": _recipes_told()}
    before, sys.argv = sys.argv, [program["prog"], *arguments]
    token = flags.PARSER.set(program)
    try:
        runpy.run_path(str(path), run_name="__main__")
    finally:
        flags.PARSER.reset(token)
        sys.argv = before
    return 0


def _recipes():
    """`{name: path}` of the recipes of the zoo."""
    from star_keras.models.weights import zoo_folder

    return {found.parent.name: found for found in sorted(zoo_folder().glob("*/recipe.py"))}


def _recipes_told():
    return textwrap.fill(f"Recipes: {', '.join(_recipes())}.", 80, break_on_hyphens=False)


def _find_recipe(recipe):
    """The path of a recipe by its name, that of a model it made, or its file."""
    from star_keras import models

    path = pathlib.Path(recipe)
    if path.suffix == ".py" and path.is_file():
        return path
    known, name = _recipes(), recipe
    if name not in known:
        with contextlib.suppress(KeyError):
            name = pathlib.PurePosixPath(models.info(recipe)["weights"]).parent.name
    if name not in known:
        raise ValueError(
            f"`recipe` must be one of {', '.join(known)}, or a Python file. Received: {recipe[:80]!r}"
        )
    return known[name]


if __name__ == "__main__":
    sys.exit(command())
