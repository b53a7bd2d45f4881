"""The command line of a recipe, made from the arguments of its function."""

import argparse
import contextvars
import inspect
import types
import typing

# What the command that runs a recipe wants of its parser, such as the name of the program.
PARSER = contextvars.ContextVar("parser", default=types.MappingProxyType({}))
# What a flag of this name means in every recipe.
CHOICES = {
    "precision": ("auto", "float32", "mixed_bfloat16", "mixed_float16", "float64"),
    "strategy": ("one", "mirrored"),
}
HELP = {
    "batch_size": "images in one step",
    "data": "image set",
    "folder": "where the run is kept, and goes on from",
    "images": "image set, or path of one, such as ./photos",
    "measure": "measure the finished run and write results.json into its folder",
    "minutes": "stop after about so many; the same command goes on",
    "picture": "file to draw into",
    "precision": "dtype policy; auto: mixed_bfloat16 where that is clearly faster, else float32",
    "publish": "measure the finished run and put it into the zoo, where its name is still free",
    "results": "file of the results",
    "seed": "of all that is drawn",
    "smoke": "a minute that shows that everything works",
    "strategy": "one device, or mirrored: all devices, each with its share of a batch",
}


def command_line(run, arguments=None, **defaults):
    """Runs a recipe from the command line: every keyword argument of `run` becomes a flag.

    Flags take the type of the default; an argument whose default is False becomes a switch, of True one with
    a `--no-` of its own, and one that is annotated as a `typing.Literal` takes nothing else. The help text is
    the docstring of the module that defines `run`.

    Args:
        run: function with keyword arguments only.
        arguments: list of words. Defaults to those of the process.
        **defaults: take the place of defaults of `run`, where one recipe varies another.

    Returns:
        What `run` returns.

    Example:

    >>> def run(epochs=40, smoke=False):
    ...     return epochs, smoke
    >>> command_line(run, ["--epochs", "2", "--smoke"])
    (2, True)
    """
    parser = argparse.ArgumentParser(
        description=run.__globals__["__doc__"],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        **PARSER.get(),
    )
    for name, parameter in inspect.signature(run).parameters.items():
        flag, default = "--" + name.replace("_", "-"), defaults.get(name, parameter.default)
        told = [HELP[name]] if name in HELP else []
        if isinstance(default, bool):
            action = argparse.BooleanOptionalAction if default else "store_true"
            parser.add_argument(flag, action=action, default=default, help="".join(told))
            continue
        told += [] if default is None else ["default: %(default)s"]
        parser.add_argument(
            flag,
            type=float if default is None else type(default),
            default=default,
            choices=typing.get_args(parameter.annotation) or CHOICES.get(name),
            help="; ".join(told),
        )
    return run(**vars(parser.parse_args(arguments)))
