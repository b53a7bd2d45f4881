"""Writes the table of presets between the marks of README.md, from the catalogue and the results beside it.

python tools/zoo_table.py
"""

import json
import pathlib

from star_keras import models

ROOT = pathlib.Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- zoo table -->\n", "<!-- end of zoo table -->\n"
HEADER = """| name | what | data | epochs | accuracy | linear probe | 1-NN | MiB | licence |
|---|---|---|---|---|---|---|---|---|
"""


def table():
    return HEADER + "".join(row(name) for name in models.list())


def row(name):
    record = models.info(name)
    folder = pathlib.PurePosixPath("zoo", record["weights"]).parent
    results = json.loads((ROOT / folder / "results.json").read_text())
    cells = (
        f"[`{name}`]({folder}/README.md)",
        record["description"].removesuffix("."),
        record["data"],
        str(results["run"]["epochs"]),
        f"{100 * results['accuracy']:.1f}" if "accuracy" in results else "–",
        percent(results.get("linear_probe")),
        percent(results.get("nearest_neighbor")),
        f"{record['bytes'] / 2**20:.1f}",
        record["license"],
    )
    return f"| {' | '.join(cells)} |\n"


def percent(measured):
    return "–" if measured is None else f"{100 * measured['mean']:.1f} ± {100 * measured['std']:.1f}"


def updated(readme):
    """README's text with the table of now."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + table() + END + after


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(updated(path.read_text()))
