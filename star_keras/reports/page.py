"""A report as one HTML page: pictures inside, no script, nothing fetched."""

import html
import re

from star_keras.evaluation.table import shown
from star_keras.reports import pictures
from star_keras.reports.style import STYLE
from star_keras.reports.text import HEADINGS, cells, groups, notes, r2_columns, words


def escape(text):
    """Text for the page; percent signs and arrows stay on the line of what they belong to."""
    return re.sub(" ([%↑↓])", "\u00a0\\1", html.escape(text))


def page(document):
    """The page of a `Document`, a string."""
    sections = (
        _numbers(document),
        _routing(document),
        _redundancy(document),
        _retrieval(document),
        _columns(document),
        _views(document),
        _left_out(document),
        _about(document),
        _again(document),
    )
    name = escape(document.model["name"])
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name}: report</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<header>\n<h1>{name}</h1>\n{_lead(document)}</header>\n"
        f"{''.join(section for section in sections if section)}</main>\n</body>\n</html>\n"
    )


def _lead(document):
    """What it is, on what it was measured, and its first number."""
    told = f"<p>{escape(document.model['description'])}</p>\n" if "description" in document.model else ""
    told += (
        f"<p>Measured on frozen features. Probes learn from {escape(document.sources['train'])}; "
        f"all is tested on {escape(document.sources['test'])}.</p>\n"
    )
    first = document.report.table[0]
    _, value, floor, untrained, _ = map(escape, cells(first))
    beside = [f"{floor} by chance"] if first.floor is not None else []
    beside += [f"{untrained} for the same network untrained"] if first.untrained is not None else []
    return told + (
        f'<p class="first"><strong>{escape(first.label)}: {value}</strong>'
        f"{' – ' if beside else ''}{', '.join(beside)}</p>\n"
    )


def _section(title, content):
    return f"<section>\n<h2>{escape(title)}</h2>\n{content}</section>\n"


def _numbers(document):
    head = "".join(f'<th scope="col">{heading}</th>' for heading in HEADINGS)
    body = ""
    for heading, rows in groups(document.report.table):
        body += (
            f'<tr class="group"><th scope="rowgroup" colspan="{len(HEADINGS)}">{escape(heading)}</th></tr>\n'
        )
        body += "".join(_table_row(cells(row), HEADINGS) for row in rows)
    told = "".join(f"<li>{escape(note)}</li>" for note in notes(document.report))
    return _section(
        "Numbers",
        f'<table class="numbers">\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>\n'
        f'<ul class="notes">{told}</ul>\n',
    )


def _table_row(texts, headings):
    first, *others = texts
    columns = "".join(
        f'<td data-heading="{escape(heading)}">{escape(text)}</td>'
        for heading, text in zip(headings[1:], others, strict=True)
    )
    return f'<tr><th scope="row">{escape(first)}</th>{columns}</tr>\n'


def _figure(source, alt, caption):
    return (
        f'<figure><img src="{source}" alt="{escape(alt)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>\n"
    )


def _runs(document, measure):
    """The runs of a measure and those of the untrained network, with titles: what there is of both."""
    sides = ("this model", document.report.measures), ("untrained network", document.report.untrained)
    return [(title, side[measure][0]) for title, side in sides if measure in side]


def _routing(document):
    found = _runs(document, "routing")
    figures = ""
    for title, run in found:
        figures += _figure(
            pictures.routing_bars(run),
            f"Bars: mean gates of {len(run['roles'])} experts for each task, {title}",
            f"{title.capitalize()}, {run['samples']:,} test images, seed {run['seed']}. {_roles(run)}.",
        )
    return _section("Which expert works for which task", _pair(figures)) if found else ""


def _roles(run):
    """The experts of every role, in words."""
    by_role = {}
    for expert in run["order"]:
        by_role.setdefault(run["roles"][expert], []).append(str(expert))
    return "; ".join(f"{role}: {', '.join(experts)}" for role, experts in by_role.items()).capitalize()


def _redundancy(document):
    figures, order = "", None
    for _, run in _runs(document, "routing")[:1]:
        order = run["order"]
    for measure, kind in (("task_correlation", "tasks"), ("expert_correlation", "experts")):
        for title, run in _runs(document, measure):
            names = run.get("names", "expert")
            shown_order = order if measure == "expert_correlation" else None
            figures += _figure(
                pictures.heat_map(run, f"{kind}, {title}", names, shown_order),
                f"Heat map: mean canonical correlation of the {kind}, {title}",
                f"Mean canonical correlation of the {kind}, {title}: {run['mean']:.3f}; independent data "
                f"{run['floor']:.3f}. {run['samples']:,} test images, seed {run['seed']}.",
            )
    return _section("How much they have in common", _pair(figures)) if figures else ""


def _pair(figures):
    return f'<div class="pair">\n{figures}</div>\n'


def _retrieval(document):
    if "retrieval" not in document.report.measures:
        return ""
    (run,) = document.report.measures["retrieval"]
    figures = ""
    for space, found in run["neighbors"].items():
        lines = "".join(
            _retrieved(document, query, indices, similarities)
            for query, indices, similarities in zip(
                run["queries"], found["indices"], found["similarities"], strict=True
            )
        )
        title = "the features" if space == "backbone" else f"the {space} task"
        figures += (
            f'<figure class="grid"><figcaption>By {escape(title)}: the query, and the nearest of '
            f"{run['samples'] - len(run['queries']):,} test images (seed {run['seed']}) with their cosine"
            f"</figcaption>\n"
            f'<div class="retrieved" style="--columns: {1 + len(found["indices"][0])}">\n'
            f"{lines}</div></figure>\n"
        )
    return _section("What it takes for alike", _pair(figures))


def _retrieved(document, query, indices, similarities):
    tiles = _tile(document, query, "query", "query")
    for index, similarity in zip(indices, similarities, strict=True):
        tiles += _tile(document, index, f"{similarity:.3f}", f"neighbour with cosine {similarity:.3f}")
    return tiles


def _tile(document, index, caption, role):
    image = pictures.thumbnail(document.test_images[index])
    alt = role if document.class_names is None else f"{role}: {_class_of(document, index)}"
    return f'<div><img src="{image}" alt="{escape(alt)}"><small>{escape(caption)}</small></div>\n'


def _class_of(document, index):
    return str(document.class_names[document.test_labels[index]])


def _columns(document):
    columns = r2_columns(document.report)
    if not columns:
        return ""
    headings = ("parameter", "R²", "untrained")
    body = ""
    for name, value, other in columns:
        bars = "".join(
            f'<span class="{kind}" style="width: {100 * min(max(number or 0.0, 0.0), 1.0):.1f}%"></span>'
            for kind, number in (("own", value), ("other", other))
        )
        body += (
            f'<tr><th scope="row">{escape(name)}</th><td class="bars" aria-hidden="true">{bars}</td>'
            f"<td>{shown(value, 'number')}</td><td>{shown(other, 'number')}</td></tr>\n"
        )
    head = (
        f'<th scope="col">{headings[0]}</th><td></td>'
        f'<th scope="col"><span class="key own"></span> {headings[1]}</th>'
        f'<th scope="col"><span class="key other"></span> {headings[2]}</th>'
    )
    return _section(
        "What the features know of a view",
        "<p>Share of the variance of each parameter that a linear function of the features of image and view "
        "explains, on images it was not fitted to; 0 or less is no knowledge.</p>\n"
        f'<table class="columns">\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>\n',
    )


def _views(document):
    if "equivariance" not in document.report.measures:
        return ""
    tiles = ""
    for number, (image, views) in enumerate(pictures.viewed(document), start=1):
        tiles += _view(image, f"image {number}", {})
        for place, (view, parameters) in enumerate(views, start=1):
            tiles += _view(view, f"view {place} of image {number}", parameters)
    seed = document.report.settings.seeds[0]
    return _section(
        "Views and their parameters",
        f"<p>What the augmentation makes of the first test images, seed {seed}.</p>\n"
        f'<div class="views">\n{tiles}</div>\n',
    )


def _view(image, title, parameters):
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{_short(value)}</dd>" for name, value in parameters.items())
    facts = f"<dl>{facts}</dl>" if facts else ""
    return (
        f'<figure><img src="{pictures.thumbnail(image)}" alt="{title}">'
        f"<figcaption>{title}</figcaption>{facts}</figure>\n"
    )


def _short(value):
    return f"{round(value, 2) + 0.0:g}".replace("-", "−")


def _left_out(document):
    items = "".join(
        f"<li><strong>{words(name)}</strong>: {escape(reason)}</li>\n"
        for name, reason in document.report.skipped.items()
    )
    return _section("Left out", f"<ul>\n{items}</ul>\n") if items else ""


def _about(document):
    facts = "".join(
        f"<dt>{escape(words(key))}</dt><dd>{escape(_fact(value))}</dd>\n"
        for key, value in document.model.items()
        if key != "name"
    )
    return _section("The model", f'<dl class="facts">\n{facts}</dl>\n')


def _fact(value):
    if isinstance(value, dict):
        return ", ".join(f"{words(key)} {_fact(number)}" for key, number in value.items())
    if isinstance(value, list):
        return " × ".join(map(str, value))
    if isinstance(value, float):
        return f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _again(document):
    versions = ", ".join(f"{name} {version}" for name, version in document.versions.items())
    return _section(
        "How to make it again", f"<pre>{escape(document.command)}</pre>\n<p>{escape(versions)}</p>\n"
    )
