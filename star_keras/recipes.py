"""What every recipe needs around it: a command line made from its own arguments."""

import argparse
import inspect


def command_line(run, arguments=None):
    """Runs a recipe from the command line: every keyword argument of `run` becomes a flag.

    Flags take the type of the default; an argument whose default is False becomes a switch. The help
    text is the docstring of the module that defines `run`.

    Args:
        run: function with keyword arguments only.
        arguments: list of words. Defaults to those of the process.

    Returns:
        What `run` returns.

    Example:

    >>> def run(epochs=40, smoke=False):
    ...     return epochs, smoke
    >>> command_line(run, ["--epochs", "2", "--smoke"])
    (2, True)
    """
    parser = argparse.ArgumentParser(
        description=inspect.getmodule(run).__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, parameter in inspect.signature(run).parameters.items():
        flag, default = "--" + name.replace("_", "-"), parameter.default
        if default is False:
            parser.add_argument(flag, action="store_true")
        else:
            kind = float if default is None else type(default)
            parser.add_argument(flag, type=kind, default=default, help=f"default: {default}")
    return run(**vars(parser.parse_args(arguments)))
