"""Reports into files that appear whole or not at all."""

import json
import pathlib

from star_keras import plots
from star_keras.files import write_text
from star_keras.reports.page import page
from star_keras.reports.text import markdown


def check_extra(path):
    """Raises, before anything is measured, unless a page can be drawn and its name is that of a page.

    Raises:
        ImportError: if Matplotlib is not installed; names the extra.
        ValueError: if the name does not end in `.html`.
    """
    plots.library()
    if pathlib.Path(path).suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"`--output` must be the name of an HTML page. Received: {str(path)[:200]!r}")


def write_report(document, path):
    """Writes the page, and beside it the same numbers as Markdown and as JSON.

    Args:
        document: a `Document`.
        path: of the page, such as "report.html".

    Returns:
        The three paths.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path, path.with_suffix(".md"), path.with_suffix(".json")
    write_text(written[0], page(document))
    write_text(written[1], markdown(document))
    write_json(document, written[2])
    return written


def write_json(document, path):
    """Writes all numbers of a document as JSON."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(document.to_dict(), indent=1, allow_nan=False) + "\n")
