"""The page of a report: whole in itself, valid, with the numbers of the JSON and nothing else."""

import base64
import functools
import html.parser
import http.server
import io
import json
import re
import shutil
import subprocess
import threading

import numpy as np
import pytest
from _reporting import SMALL, images, pretraining_model
from matplotlib.image import imread

from star_keras import evaluation, reports
from star_keras.evaluation.table import Row, shown, shown_value
from star_keras.reports.pictures import thumbnail
from star_keras.reports.text import notes

CLASSES = ("<b>left</b>", "middle & centre", "right")
PHONE, DESK = 390, 1280
# Shows the report in a frame of each width and writes down what a reader meets there.
VIEWER = """<!doctype html><meta charset="utf-8"><pre id="seen"></pre><script>
const seen = [];
async function look(width) {
  const frame = document.createElement("iframe");
  frame.style.width = width + "px"; frame.style.height = "800px"; frame.style.border = "0";
  frame.src = "report.html";
  document.body.append(frame);
  await new Promise(loaded => frame.onload = loaded);
  const page = frame.contentDocument, pictures = [...page.images];
  seen.push({
    width: page.documentElement.clientWidth,
    content: page.documentElement.scrollWidth,
    height: page.documentElement.scrollHeight,
    pictures: pictures.length,
    blank: pictures.filter(picture => picture.naturalWidth === 0).length,
    smallest: Math.min(...[...page.querySelectorAll("p, td, th, figcaption")]
      .map(text => parseFloat(frame.contentWindow.getComputedStyle(text).fontSize))),
    fetched: frame.contentWindow.performance.getEntriesByType("resource")
      .map(entry => entry.name).filter(name => !name.startsWith("data:")),
  });
}
(async () => {
  for (const width of WIDTHS) await look(width);
  document.getElementById("seen").textContent = JSON.stringify(seen);
})();
</script>"""
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(html.parser.HTMLParser):
    """Elements in order, and whether each is closed where it should be."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.open, self.cells, self.text = [], [], [], ""
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        self.text += data
        if {"td", "th"} & set(self.open):
            self.cells[-1] += data.replace("\xa0", " ")


def document(model, classes=CLASSES, labels=3, **settings):
    train, test = images(40, classes=labels), images(30, seed=1, classes=labels)
    settings = evaluation.ReportSettings(**{**SMALL, **settings})
    return reports.Document(
        report=evaluation.report(model, train, test, settings, verbose=False),
        model={"name": "<script>tiny</script>", "description": "A & B", "parameters": {"backbone": 1234}},
        sources={"train": "noise (40 images)", "test": "other noise (30 images)"},
        class_names=classes,
        command="star-keras report ./tiny --data ./noise",
        versions={"keras": "3"},
        test_images=test[0],
        test_labels=test[1],
        loaded=model,
    )


@pytest.fixture(scope="module")
def whole():
    return document(pretraining_model())


@pytest.fixture(scope="module")
def page(whole):
    return reports.page(whole)


def test_elements_are_closed_and_names_of_users_are_text(page):
    parsed = Page(page)
    tags = [tag for tag, _ in parsed.elements]
    assert tags[:2] == ["html", "head"] and tags.count("h1") == 1
    assert "script" not in tags and "b" not in tags
    assert "<script>tiny</script>" in parsed.text


def test_nothing_is_fetched_and_every_picture_is_inside_with_words_for_it(page):
    pictures = 0
    for tag, attributes in Page(page).elements:
        assert tag not in ("script", "link", "iframe", "object", "embed")
        assert not any(name.startswith("on") for name in attributes)
        assert "href" not in attributes
        if tag == "img":
            kind, data = attributes["src"].split(",", 1)
            assert kind == "data:image/png;base64"
            assert base64.b64decode(data, validate=True).startswith(b"\x89PNG")
            assert attributes["alt"].strip()
            pictures += 1
        else:
            assert "src" not in attributes
    assert pictures >= 4 + 2 * 3 * 5 + 3 * 5
    assert not re.search(r"https?:|url\(|@import", page)


def test_the_numbers_of_page_and_markdown_are_those_of_the_json(whole, page, tmp_path):
    written = reports.write_report(whole, tmp_path / "new" / "report.html")
    assert [path.name for path in written] == ["report.html", "report.md", "report.json"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(p.name for p in written)
    assert written[0].read_text(encoding="utf-8") == page
    content = json.loads(written[2].read_text(encoding="utf-8"))
    markdown, cells = written[1].read_text(encoding="utf-8"), Page(page).cells
    rows = [Row(**row) for row in content["table"]]
    assert len(rows) == len(whole.report.table) > 15
    place = 0
    for row in rows:
        numbers = [shown_value(row), shown(row.floor, row.unit), shown(row.untrained, row.unit)]
        place = next(i for i in range(place, len(cells)) if cells[i].startswith(row.label))
        assert cells[place + 1 : place + 4] == numbers
        assert row.samples in cells[place + 4] and all(str(seed) in cells[place + 4] for seed in row.seeds)
        assert f"| {' | '.join(numbers)} |" in markdown
    for name, value in content["measures"]["equivariance"][0]["r2_by_column"].items():
        place = cells.index(name)
        assert cells[place + 2] == shown(value, "number")


def test_the_page_says_what_was_measured_on_what_and_how_to_do_it_again(whole, page):
    text = Page(page).text
    for words in (whole.command, *whole.sources.values(), "1,234", "keras 3", "A & B"):
        assert words in text


def test_a_backbone_and_images_without_classes_get_the_parts_that_apply():
    bare = document(pretraining_model().backbone, classes=None, labels=1, untrained=False)
    page = reports.page(bare)
    text = Page(page).text
    assert "Left out" in text and "at least two classes" in text
    assert "Which expert works for which task" not in text and "have in common" not in text
    assert "What it takes for alike" in text
    assert "left out: linear probe" in reports.plain(bare)
    assert json.dumps(bare.to_dict(), allow_nan=False)


def test_the_page_tells_how_its_classifiers_were_fitted_and_where_a_search_ended(whole, page, tmp_path):
    text, runs = Page(page).text, whole.report.measures["linear_probe"]
    for told in ("standardised", "11 from 0.1 to 10000", "a tenth of", "largest cosine", "|w|² / 2"):
        assert told in text
        assert told in reports.markdown(whole)
    ends = [str(run["seed"]) for run in runs if run["weight"] in (0.1, 1e4)]
    assert (f"With seed {', '.join(ends)} it lies at an end" in text) == bool(ends)
    for weight, said in ((10.0, False), (1e4, True)):
        changed = evaluation.Report(
            measures={"linear_probe": [{**runs[0], "weight": weight}]},
            untrained={}, skipped={}, settings=whole.report.settings, data=whole.report.data,
        )  # fmt: skip
        assert any("lies at an end" in note for note in notes(changed)) == said
        assert not any("few-shot: in" in note for note in notes(changed))


@pytest.mark.parametrize(
    ("value", "unit", "told"),
    [(None, "number", "–"), (0.7134, "percent", "71.3 %"), (-0.0123, "number", "−0.012"),
     (33.1, "number", "33.1"), (0.0, "number", "0.000")],
)  # fmt: skip
def test_numbers_are_shown_in_one_way(value, unit, told):
    assert shown(value, unit) == told


def test_thumbnails_of_large_images_are_small():
    data = thumbnail(np.zeros((500, 400, 3), "uint8")).split(",", 1)[1]
    assert max(imread(io.BytesIO(base64.b64decode(data))).shape[:2]) <= 96


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="Chromium is not installed")
def test_a_browser_shows_all_of_it_at_the_width_of_a_phone_and_of_a_desk(page, tmp_path):
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    (tmp_path / "viewer.html").write_text(VIEWER.replace("WIDTHS", str([PHONE, DESK])), encoding="utf-8")
    phone, desk = shown_by_chromium(tmp_path)
    assert (phone["width"], desk["width"]) == (PHONE, DESK)
    for seen in (phone, desk):
        assert seen["content"] <= seen["width"], "the page is to be pushed sideways"
        assert seen["pictures"] == page.count("<img") > 40 and seen["blank"] == 0
        assert seen["smallest"] >= 12 and seen["fetched"] == []
    assert phone["height"] > desk["height"] > 800


def shown_by_chromium(folder):
    """What the viewer of a folder, served by a real server, has written down."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        # fmt: off
        command = [
            "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
            "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
            f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=60000", "--dump-dom",
            f"http://127.0.0.1:{server.server_port}/viewer.html",
        ]
        # fmt: on
        finished = subprocess.run(command, capture_output=True, text=True, timeout=120)
        server.shutdown()
    return json.loads(re.search('<pre id="seen">(.*?)</pre>', finished.stdout, re.DOTALL)[1])
