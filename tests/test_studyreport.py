"""The report of a study: its page, the files of its figures, and both in a real browser."""

from __future__ import annotations

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from browser import after, chromium, needs_chromium, told
from studies import TINY, tiny

from kernreg.ladder import groups, placements, sentences
from kernreg.outcomes import Outcomes
from kernreg.study import Study
from kernreg.studyreport import report
from kernreg.studytables import break_table, curve_table, pair_table
from kernreg.theorypanels import departures

FIGURES = ("ladder", "slopes", "forest", "symmetry", "theory", "spectra")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    made = tiny(tmp_path_factory.mktemp("study"))
    made.run()
    return made


@pytest.fixture(scope="module")
def outcomes(study: Study) -> Outcomes:
    return study.outcomes()


@pytest.fixture(scope="module")
def page(study: Study, outcomes: Outcomes) -> Path:
    files = report(outcomes, study.folder)
    assert all(path.is_file() for path in files)
    return files[0]


@pytest.fixture(scope="module")
def failing(study: Study) -> Outcomes:
    """fcn and gap must be one, and are not."""
    text = TINY + '[[coincide]]\nfirst = {architecture = "fcn"}\nsecond = {architecture = "gap"}\n'
    text = text.replace('"rotation", "mirror"', '"rotation"').replace('"tiny"', '"red"')
    return tiny(study.out.parent / "red", text, study.out).outcomes()


@pytest.fixture(scope="module")
def red(study: Study, failing: Outcomes) -> Path:
    return report(failing, study.out / "red")[0]


class Checker(HTMLParser):
    """Collects ids and references, and checks that elements are closed in order."""

    VOID = ("meta", "br", "link", "img", "input", "hr")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        self.handle_startendtag(tag, attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.ids.append(value)
            if name in ("src", "href", "xlink:href") and value:
                self.links.append(value)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag


def test_the_page_is_whole_and_stands_alone(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    checker = Checker()
    checker.feed(text)
    assert checker.open == []
    assert len(set(checker.ids)) == len(checker.ids)
    for link in checker.links:
        assert "://" not in link
        if link.startswith("#"):
            assert link[1:] in checker.ids
        elif not link.startswith("data:image/png;base64,"):
            assert (page.parent / link).is_file()
    for name in re.findall(r"url\(#([^)]*)\)", text):
        assert name in checker.ids
    assert "A tiny &lt;study&gt; &amp; more" in text
    assert "<study>" not in text
    assert "default-src 'none'" in text
    assert "$" not in re.sub(r"<pre>.*?</pre>", "", text, flags=re.DOTALL)
    assert "nan" not in re.findall(r'data-value="([^"]*)"', text)


def test_every_figure_says_what_it_shows(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    alts = re.findall(r'<div role="img" aria-label="([^"]*)">', text)
    assert len(alts) == len(FIGURES)
    assert all(len(alt) > 80 for alt in alts)
    assert text.count("<figcaption>") == len(FIGURES)
    for name in FIGURES:
        assert f'<figure id="{name}">' in text


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_three_files(page: Path, name: str) -> None:
    folder = page.parent / "figures"
    ElementTree.fromstring((folder / f"{name}.svg").read_text(encoding="utf-8"))
    assert (folder / f"{name}.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with (folder / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert len(rows) > 3
    assert len({len(row) for row in rows}) == 1
    assert "nan" not in {cell for row in rows[1:] for cell in row}


def test_the_numbers_of_a_figure_are_those_of_the_curves(page: Path, outcomes: Outcomes) -> None:
    with (page.parent / "figures" / "ladder.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 48 * 12
    for outcome in outcomes.measured:
        own = [
            float(row["loss"])
            for row in rows
            if (row["architecture"], row["transform"])
            == (outcome.entry.architecture.name, outcome.entry.transform)
        ]
        np.testing.assert_array_equal(own, outcome.curve.loss)
    with (page.parent / "figures" / "symmetry.csv").open(newline="", encoding="utf-8") as file:
        cells = {(row["architecture"], row["transform"]): row for row in csv.DictReader(file)}
    assert len(cells) == 4 * 2
    assert float(cells["fcn", "rotation"]["ratio"]) == pytest.approx(1, abs=1e-6)
    assert cells["gap", "mirror"]["coincide"] == "True"
    assert cells["gap", "rotation"]["coincide"] == ""


def test_the_json_is_strict_and_has_every_curve(page: Path, outcomes: Outcomes) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    facts = json.loads((page.parent / "results.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert [c["label"] for c in facts["curves"]] == [o.label for o in outcomes.measured]
    assert facts["ok"] is True
    assert len(facts["comparisons"]) == len(outcomes.comparisons)
    assert len(facts["rungs"]) == 8
    assert facts["curves"][0]["about"]["train_checksum"]


def test_the_same_outcomes_make_the_same_page(red: Path, failing: Outcomes, tmp_path: Path) -> None:
    again = report(failing, tmp_path / "again")[0]
    assert again.read_bytes() == red.read_bytes()


def test_a_failing_coincidence_is_red(page: Path, red: Path) -> None:
    assert 'class="verdict" role' in page.read_text(encoding="utf-8")
    text = red.read_text(encoding="utf-8")
    assert 'class="verdict red" role' in text
    assert "2 of 5 pairs of curves that must be one are not" in text
    assert text.count('<tr class="red">') == 2


def test_rungs_and_sentences_have_numbers(outcomes: Outcomes) -> None:
    (group,) = groups(outcomes)
    assert group.floor is not None
    assert group.floor.label == "fcn · none"
    placed = {p.outcome.label: p for p in placements(group)}
    assert len(placed) == 8
    assert placed["fcn · rotation"].place == "unchanged"
    assert placed["fcn · rotation"].fallen
    assert placed["gap · mirror"].own.value == pytest.approx(0, abs=1e-6)
    said = sentences(outcomes)
    assert any(s.startswith("Rotation leaves fcn as it is and multiplies") for s in said)
    assert any("of 3 changed structured kernels are on the rung of fcn or below" in s for s in said)
    assert any(s.startswith("Mirror leaves fcn, lcn, vec, gap as they are.") for s in said)
    assert all("nan" not in s for s in said)


def test_tables_are_rectangular(outcomes: Outcomes) -> None:
    for table in (curve_table(outcomes), pair_table(outcomes)):
        assert {len(row) for row in (*table.rows, *table.values)} == {len(table.head)}
    assert set(departures(outcomes.measured[0], first=10)) == {"theory", "gcv", "loo"}


def test_two_kernels_and_sizes_have_figures_of_their_own(study: Study, tmp_path: Path) -> None:
    text = TINY.replace('"ntk"', '"nngp", "ntk"').replace("n = 48", "n = [8, 48]")
    text = text[: text.index('[[architecture]]\npreset = "lcn"')].replace('"rotation", ', "")
    several = tiny(tmp_path, text)
    several.run()
    page = report(several.outcomes(), several.folder)[0]
    text = page.read_text(encoding="utf-8")
    for suffix in ("nngp-n8-seed0", "ntk-n48-seed0"):
        assert f'<figure id="ladder-{suffix}">' in text
        assert (page.parent / "figures" / f"theory-{suffix}.csv").is_file()


def test_a_study_of_one_curve_has_a_page(tmp_path: Path) -> None:
    text = TINY[: TINY.index('[[architecture]]\npreset = "lcn"')].replace(', "rotation", "mirror"', "")
    one = tiny(tmp_path, text.replace("n = 48", "n = 2").replace("test = 40", "test = 1"))
    one.run()
    page = report(one.outcomes(), one.folder)[0].read_text(encoding="utf-8")
    assert "Everything is measured" in page
    assert 'id="symmetry"' not in page


def test_breaks_have_a_table(study: Study) -> None:
    text = TINY.replace("[fit]", "[fit]\nbreaks = true").replace("n = 48", "n = 128")
    text = text[: text.index('[[architecture]]\npreset = "vec"')].replace('"rotation", ', "")
    asked = tiny(study.out.parent / "breaks", text.replace('"tiny"', '"breaks"'), study.out)
    asked.run()
    outcomes = asked.outcomes()
    table = break_table(outcomes)
    assert len(table.rows) == 4
    assert all(
        row[-1] == str(o.broken and o.broken.sentence())
        for row, o in zip(table.rows, outcomes.measured, strict=True)
    )
    page = report(outcomes, asked.folder)[0].read_text(encoding="utf-8")
    assert '<section id="breaks">' in page


@needs_chromium
def test_a_browser_shows_every_figure_and_asks_the_network_nothing(page: Path, tmp_path: Path) -> None:
    script = """
    const boxes = [...document.querySelectorAll("figure")].map(figure => {
      const box = figure.querySelector("svg").getBoundingClientRect();
      return [figure.id, Math.round(box.width), Math.round(box.height), figure.querySelectorAll("path").length];
    });
    document.title = JSON.stringify({boxes, requests: performance.getEntriesByType("resource").length,
      overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
      buttons: document.querySelectorAll("th button").length});
    """
    facts = json.loads(told(after(page, script, tmp_path)))
    assert [box[0] for box in facts["boxes"]] == list(FIGURES)
    for name, width, height, paths in facts["boxes"]:
        assert width > 300, name
        assert height > 100, name
        assert paths > 20, name
    assert facts["requests"] == 0
    assert facts["overflow"] <= 0
    assert facts["buttons"] > 20


@needs_chromium
def test_a_click_on_a_head_sorts_the_table_by_numbers(page: Path, outcomes: Outcomes, tmp_path: Path) -> None:
    script = """
    const table = document.querySelector("#curves table");
    const column = [...table.tHead.rows[0].cells].findIndex(head => head.textContent === "loss at n");
    const read = () => [...table.tBodies[0].rows].map(row => Number(row.cells[column].dataset.value));
    const button = table.tHead.rows[0].cells[column].querySelector("button");
    button.click();
    const up = read();
    const sorted = table.tHead.rows[0].cells[column].getAttribute("aria-sort");
    button.click();
    document.title = JSON.stringify({up, down: read(), sorted});
    """
    facts = json.loads(told(after(page, script, tmp_path)))
    losses = sorted(o.loss for o in outcomes.measured)
    assert facts["up"] == losses
    assert facts["down"] == losses[::-1]
    assert facts["sorted"] == "ascending"


@needs_chromium
def test_the_page_is_a_picture_and_prints(page: Path, tmp_path: Path) -> None:
    from matplotlib.image import imread

    picture, paper = tmp_path / "page.png", tmp_path / "page.pdf"
    chromium(page, tmp_path / "a", f"--screenshot={picture}", "--window-size=1200,3000")
    pixels = imread(picture)
    assert pixels.shape[:2] == (3000, 1200)
    assert pixels[..., :3].std() > 0.05
    chromium(page, tmp_path / "b", f"--print-to-pdf={paper}", "--no-pdf-header-footer")
    content = paper.read_bytes()
    assert content[:5] == b"%PDF-"
    assert 2 < len(re.findall(rb"/Type\s*/Page\b", content)) < 30
