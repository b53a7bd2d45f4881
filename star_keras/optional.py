"""Packages that only some of the library needs."""

import importlib


def needed(module, purpose, extra):
    """A module of such a package, imported where it is used.

    Args:
        module: its name.
        purpose: what is said where it is missing, such as "Pictures need Matplotlib".
        extra: of this package, that installs it.

    Raises:
        ImportError: if it is not installed; names the extra.

    Example:

    >>> needed("json", "Nothing needs it", "tests").dumps([1])
    '[1]'
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{purpose}: pip install 'star-keras[{extra}]'") from error
