"""The page: complete, escaped, self-contained, the same twice, and whole where the run is not."""

import re
import tomllib
from html.parser import HTMLParser
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from paging import EVIL, run_of, timings_of

from robustbench_lite.hashing import integrity
from robustbench_lite.results.page import build, frames, pictures, tables
from robustbench_lite.results.page.charts import Axis, Bar, Line, bar_chart, line_chart, thinned
from robustbench_lite.results.page.checks import explanations
from robustbench_lite.results.run_data import RunData
from robustbench_lite.results.thresholds import THRESHOLDS

ROOT = Path(__file__).parents[2]
VOID = {"meta", "input", "img", "wbr", "br"}


class Outline(HTMLParser):
    """What is in the page: (tag, attributes) in order; fails where tags are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, Any]]] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, (tag, self.getpos())

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.found.append((tag, dict(attrs)))

    def all(self, tag: str) -> list[dict[str, Any]]:
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture(scope="module")
def run(make_records):
    return run_of(make_records)


@pytest.fixture(scope="module")
def html(run):
    return build.page(run)


def row(run, defense, threat):
    """The texts of a row of the main table by column."""
    (table,) = tables.compared(run)
    names = [re.sub(r"<[^>]*>", "", str(column.name)) for column in table.columns]
    for one in table.rows:
        if one.threat == threat and str(one.cells[0]).startswith(defense):
            return dict(zip(names, [re.sub(r"<[^>]*>", "", str(cell)) for cell in one.cells], strict=True))
    raise AssertionError(defense)


def test_tags_are_closed_ids_unique_and_links_within_the_page_lead_somewhere(html):
    outline = Outline(html)
    ids = [attributes["id"] for _, attributes in outline.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in outline.found:
        assert set(attributes.get("aria-labelledby", "").split()) <= set(ids)
    assert {link["href"].removeprefix("#") for link in outline.all("a")} <= set(ids)


def test_one_heading_landmarks_and_tables_with_captions_and_scopes(html):
    outline = Outline(html)
    assert len(outline.all("h1")) == len(outline.all("main")) == len(outline.all("header")) == 1
    assert len(outline.all("table")) == len(outline.all("caption")) > 5
    assert all(head.get("scope") in ("col", "row") for head in outline.all("th"))
    charts = [svg for svg in outline.all("svg") if "aria-hidden" not in svg]
    assert charts
    assert all(svg["role"] == "img" for svg in charts)
    assert all("alt" in image for image in outline.all("img"))
    assert [form.get("hidden", "") for form in outline.all("form")] == [None]  # without a script there is no filter


def test_nothing_is_fetched_and_only_its_own_script_may_run(html):
    outline = Outline(html)
    for _, attributes in outline.found:
        assert "style" not in attributes
        assert not any(name.startswith("on") for name in attributes)
        assert attributes.get("src", "data:").startswith("data:")
    assert not outline.all("link")
    assert len(outline.all("script")) == 1
    (policy,) = (meta["content"] for meta in outline.all("meta") if "http-equiv" in meta)
    script = re.search(r"<script>(.*?)</script>", html, re.DOTALL)
    assert script is not None
    assert integrity(script[1]) in policy
    assert "unsafe" not in policy


def test_what_users_call_their_things_is_text(html):
    assert EVIL not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html


def test_the_same_run_is_the_same_page(make_records, html):
    assert build.page(run_of(make_records)) == html


def test_a_row_says_what_is_left_and_what_is_only_claimed(run):
    assert row(run, "none", "Linf:0.1") | {"flags": ""} == {
        "system": f"none{EVIL}".replace("<", "&lt;").replace(">", "&gt;"),
        **{"threat": "Linf:0.1", "clean": "75.0", "fgsm": "75.0", "pgd": "50.0*"},
        **{"worst case [95 %]": "50.0 [6.8, 93.2]", "flags": ""},
    }
    guard = row(run, "guard", "Linf:0.1")
    assert (guard["fgsm"], guard["pgd"]) == ("75.0 claimed 75.0", "25.0* claimed 75.0")
    assert guard["flags"] == "IE invalid-examples fired OAP? outputs-are-probabilities unchecked"


def test_in_the_table_by_attack_no_claim_stands_alone(run):
    table = tables.by_attack(run)
    names = [str(column.name) for column in table.columns]
    place, who = names.index("robust % [95 %]"), names.index("adversary")
    texts = {(one.cells[who], str(one.cells[place])) for one in table.rows if one.threat == "Linf:0.1"}
    assert ("plain", '75.0 [19.4, 99.4] <small class="claim">claimed; actual 25.0</small>') in texts
    assert ("knows the defense", "25.0 [0.6, 80.6]") in texts
    assert all("actual" in text for adversary, text in texts if adversary == "plain")


def test_where_nobody_knew_the_defense_numbers_are_marked(make_records):
    records = make_records({"pgd": "RRBB"}, defense="guard")
    told = {"systems": {"small-cnn | guard": {"hides": True}}}
    run = run_of(make_records, records=records, timings=timings_of(records), environment=told, expected={}, examples={})
    assert row(run, "guard", "Linf:0.2")["pgd"] == "50.0 claimed only"
    assert row(run, "guard", "Linf:0.2")["worst case [95 %]"] == "50.0 [6.8, 93.2] claimed only"
    text = build.page(run)
    assert "attacked by nobody who knows the defense" in text
    assert "guard (claimed only)" in text  # the course over time
    assert "guard: claimed 50.0 %, no actual robust accuracy." in text


def test_every_diagnostic_is_explained_once_with_letters_of_its_own(run, html):
    told = explanations()
    assert [one.name for one in told] == list(THRESHOLDS)
    assert len({one.letters for one in told}) == len(told)
    for one in told:
        assert min(len(one.measures), len(one.why), len(one.limit)) > 0
        assert html.count(f'id="check-{one.name}"') == 1
    assert html.count("3 fired") == 0
    assert html.count("1 fired, 1 unchecked") == 2  # guard under both threats


def test_an_unfinished_run_says_what_is_open(make_records):
    records = make_records({"fgsm": "RRBW", "pgd": "RB  "})
    expected = {("digits", "small-cnn", "none", "Linf:0.2", name): 4 for name in ("fgsm", "pgd", "apgd")}
    run = RunData(records=records, timings=timings_of(records), diagnostics=pd.DataFrame(), expected=expected)
    text = build.page(run)
    Outline(text)
    assert "pgd on small-cnn, Linf:0.2: 1 of 4 images without a verdict" in text
    assert "This run holds no diagnostics." in text
    assert "This run holds no plan." in text


def test_norms_without_eps_have_a_table_of_their_own(make_records):
    fixed, nearest = make_records({"pgd": "RRBW"}), make_records({"ddn": "BBBW"}, threat="L2")
    records = pd.concat([fixed, nearest], ignore_index=True)
    run = RunData(records=records, timings=timings_of(records), diagnostics=pd.DataFrame(), expected={})
    robust, distances = tables.compared(run)
    assert "Robust accuracy" in robust.caption
    assert "Median norm" in distances.caption
    assert [str(cell) for cell in distances.rows[0].cells[1:]] == ["L2", "75.0", "0.1", "<b>0.1</b>", ""]
    Outline(build.page(run))


def test_examples_are_small_pngs_and_framed_where_broken(make_records):
    records = make_records({"pgd": "RBW"})
    kept = {records["key"].iloc[0]: {place: np.full((3, 300, 200), 0.25) for place in range(3)}}
    run = RunData(records=records, timings=timings_of(records), diagnostics=pd.DataFrame(), expected={}, examples=kept)
    (strip,), left_out = pictures.strips(run)
    assert left_out == 0
    assert [(one.text, one.broken) for one in strip.examples] == [("0 → 0", False), ("1 → 2", True)]
    assert all(one.uri.startswith("data:image/png;base64,") and len(one.uri) < 2000 for one in strip.examples)


def test_of_very_many_pairs_those_with_the_first_defense_are_told(make_records):
    every = [make_records({"pgd": "RB"}, defense=f"d{place}") for place in range(30)]
    records = pd.concat(every, ignore_index=True)
    run = RunData(records=records, timings=timings_of(records), diagnostics=pd.DataFrame(), expected={})
    pairs = frames.frames(run)["pairs"]
    assert pairs is not None
    assert len(run.comparisons) == 435
    assert len(pairs.rows) == 29
    assert "435" in pairs.caption


# -- charts -----------------------------------------------------------------------------------------------------


def path_of(svg):
    return re.findall(r'<path class="l c0" d="([^"]*)"', str(svg))


def test_a_line_goes_where_its_numbers_are():
    axis = Axis(label="eps", most=0.2)
    line = Line(name="a", points=[(0, 1), (0.1, 0.5), (0.2, 0)])
    assert path_of(line_chart("t", [line], axis, "i")) == ["M34 10L186 102L338 194"]
    step = Line(name="a", points=[(0, 1), (0.1, 0.5)], step=True)
    assert path_of(line_chart("t", [step], axis, "i")) == ["M34 10H186V102"]


@pytest.mark.parametrize(
    "axis, ticks",
    [
        (Axis(label="", most=0.2), [0, 0.05, 0.1, 0.15, 0.2]),
        (Axis(label="", most=8 / 255), [0, 0.01, 0.02, 0.03]),
        (Axis(label="", most=1000, log=True, least=1), [1, 10, 100, 1000]),
        (Axis(label="", most=0.9, log=True, least=0.5), [0.5, 0.9]),
    ],
)
def test_ticks_are_round(axis, ticks):
    assert axis.ticks() == pytest.approx(ticks)


def test_numbers_at_line_ends_do_not_cover_each_other():
    lines = [Line(name=f"{k}", points=[(0, 1), (1, 0.01 * (k % 3))]) for k in range(12)]
    svg = str(line_chart("t", lines, Axis(label="", most=1), "i"))
    places = sorted(float(y) for y in re.findall(r'class="n c\d" x="[\d.]+" y="([\d.]+)"', svg))
    assert len(places) == 12
    assert min(b - a for a, b in pairwise(places)) > 8
    assert places[-1] < 232


def test_a_missing_number_is_a_gap_and_said():
    svg = str(line_chart("t", [Line(name="lost", points=[(0, float("nan"))])], Axis(label="", most=1), "i"))
    assert "lost: no figure." in svg
    bar = Bar(name="lost", clean=1.0, actual=float("nan"), low=0.2, high=0.4)
    assert "no actual robust accuracy" in str(bar_chart("t", [bar], "i"))


def test_thinning_keeps_both_ends():
    points = [(float(k), 0.5) for k in range(1000)]
    assert len(thinned(points, 20)) == 20
    assert (thinned(points, 20)[0], thinned(points, 20)[-1]) == (points[0], points[-1])


def test_the_files_of_the_page_are_in_the_package():
    for name in (build.PAGE, build.STYLE, build.SCRIPT):
        assert (files("robustbench_lite.results.page") / name).is_file()


def test_the_files_of_the_page_are_listed_for_the_wheel():
    folder = Path(build.__file__).parent
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["package-data"]
    patterns = listed.get("robustbench_lite.results.page", [])
    assert {path.name for pattern in patterns for path in folder.glob(pattern)} == {
        build.PAGE,
        build.STYLE,
        build.SCRIPT,
    }
