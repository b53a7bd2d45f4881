"""A report as text: for the terminal, and as Markdown."""

import itertools

from star_keras.evaluation.table import shown, shown_value

HEADINGS = ("measure", "value", "floor", "untrained", "measured on")
NOTES = (
    "↑ higher is better, ↓ lower is better.",
    "±: standard deviation over the seeds, which draw training images; where all draw the same, or there is "
    "one, standard error by the number of test images; few-shot: half of the 95 % interval.",
    "floor: what chance gives, or a representation without any knowledge.",
    "untrained: the same network at random initialisation, its batch statistics set on the training images.",
    "–: there is none, or it does not apply.",
)
_ARROWS = {"higher": " ↑", "lower": " ↓", "": ""}


def cells(row):
    """The words of a row of the table, as many as `HEADINGS`."""
    seeds = f"seed{'s' * (len(row.seeds) > 1)} {', '.join(map(str, row.seeds))}"
    return (
        row.label + _ARROWS[row.better],
        shown_value(row),
        shown(row.floor, row.unit),
        shown(row.untrained, row.unit),
        f"{row.samples}; {seeds}",
    )


def groups(table):
    """`(heading, its rows)` of a table, in order."""
    for heading, rows in itertools.groupby(table, key=lambda row: row.group):
        yield heading, list(rows)


def notes(report):
    """What the numbers of a report mean, and how its classifiers were fitted: a list of sentences."""
    tell = {"linear_probe": _probe, "nearest_neighbor": _neighbor, "few_shot": _few_shot}
    return [*NOTES, *(tell[name](runs) for name, runs in report.measures.items() if name in tell)]


def _probe(runs):
    grid = [float(weight) for weight in runs[0]["validation_accuracies"]]
    told = (
        f"linear probe: logistic regression on standardised features; its weight decay, one of {len(grid)} "
        f"from {min(grid):g} to {max(grid):g}, has the best accuracy on a tenth of the training images, "
        "drawn by the seed; then it is fitted to all of them."
    )
    at_ends = [str(run["seed"]) for run in runs if run["weight"] in (min(grid), max(grid))]
    if at_ends:
        told += f" With seed {', '.join(at_ends)} it lies at an end: beyond, the accuracy may be higher."
    return told


def _neighbor(runs):
    return "nearest neighbour: the class of the training image whose features have the largest cosine."


def _few_shot(runs):
    return (
        "few-shot: in each episode, a logistic regression of each class against the rest on features as they "
        f"are, with the penalty |w|² / 2, fitted to the shots and tested on {runs[0]['queries']} others of "
        "each class."
    )


def plain(document):
    """The table of a document for a terminal."""
    lines = [HEADINGS]
    for heading, rows in groups(document.report.table):
        lines.append((heading, "", "", "", ""))
        lines += [(f"  {label}", *others) for label, *others in map(cells, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    told = ["  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)) for line in lines]
    told += [f"left out: {words(name)}: {reason}" for name, reason in document.report.skipped.items()]
    return "\n".join(line.rstrip() for line in told)


def markdown(document):
    """A document as Markdown, without pictures."""
    lines = [f"# {document.model['name']}", "", document.model.get("description", ""), ""]
    lines += [f"- {place}: {where}" for place, where in document.sources.items()]
    lines += ["", _line(HEADINGS), _line("---" for _ in HEADINGS)]
    for heading, rows in groups(document.report.table):
        lines.append(_line((f"**{heading}**", "", "", "", "")))
        lines += [_line(cells(row)) for row in rows]
    lines += ["", *(f"- {note}" for note in notes(document.report))]
    columns = r2_columns(document.report)
    if columns:
        lines += ["", "## R² by column", "", _line(("parameter", "R²", "untrained")), _line(("---",) * 3)]
        lines += [
            _line((name, shown(value, "number"), shown(other, "number"))) for name, value, other in columns
        ]
    if document.report.skipped:
        lines += ["", "## Left out", ""]
        lines += [f"- {words(name)}: {reason}" for name, reason in document.report.skipped.items()]
    lines += ["", "## Again", "", "```bash", document.command, "```", ""]
    lines.append(", ".join(f"{name} {version}" for name, version in document.versions.items()) + ".")
    return "\n".join(lines) + "\n"


def r2_columns(report):
    """`(column, R2, R2 of the untrained network or None)` of every parameter; empty where none was read."""
    runs, others = (side.get("equivariance", []) for side in (report.measures, report.untrained))
    other = others[0]["r2_by_column"] if others else {}
    return [
        (name, value, other.get(name)) for name, value in (runs[0]["r2_by_column"] if runs else {}).items()
    ]


def words(measure):
    """The name of a measure in words."""
    return measure.replace("_", " ")


def _line(cells):
    return "| " + " | ".join(cells) + " |"
