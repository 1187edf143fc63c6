"""The page in a headless Chromium: it sorts, filters, changes colours, fits a phone, and the console stays empty."""

import base64

import pandas as pd
import pytest
from chromium import browser
from paging import run_of

from robustbench_lite.results.page import build

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tab():
    with browser() as found:
        yield found


@pytest.fixture
def page(tab, make_records, tmp_path):
    """A tab with the page as it is when it has just been opened."""
    path = tmp_path / "page.html"
    path.write_text(build.page(run_of(make_records)), encoding="utf-8")
    tab.open(path)
    tab.ask("document.querySelectorAll('section').forEach(s => s.style.contentVisibility = 'visible')")
    return tab


def column(page, place):
    """The texts of a column of the main table, without what is small; hidden rows left out."""
    rows = "[...document.querySelectorAll('[data-counted] tbody tr')].filter(row => !row.hidden)"
    return page.ask(f"{rows}.map(row => row.cells[{place}].firstChild.textContent.trim())")


def click(page, text):
    page.ask(
        f"[...document.querySelectorAll('[data-counted] th button')].find(b => b.textContent === '{text}').click()"
    )


def status(page):
    return page.ask("document.getElementById('status').textContent")


def choose(page, name, value, property="value"):
    """Set a filter, as a hand would."""
    event = "new Event('input', {bubbles: true})"
    page.ask(f"(f => {{ f.{property} = {value}; f.dispatchEvent({event}); }})(document.getElementById('f-{name}'))")


def test_a_click_sorts_by_number_and_says_so(page):
    assert column(page, 4) == ["50.0*", "25.0*", "25.0*", "0.0*"]
    click(page, "threat")
    assert column(page, 1) == sorted(column(page, 1))
    click(page, "pgd")
    assert column(page, 4) == ["50.0*", "25.0*", "25.0*", "0.0*"]
    head = "document.querySelectorAll('[data-counted] th[scope=col]')"
    assert page.ask(f"{head}[4].ariaSort") == "descending"
    click(page, "pgd")
    assert column(page, 4) == ["0.0*", "25.0*", "25.0*", "50.0*"]
    assert page.ask(f"[...{head}].map(h => h.ariaSort)").count("ascending") == 1
    assert status(page) == "Robust accuracy in %: sorted by pgd, ascending."


def test_a_header_is_sorted_by_the_keyboard(page):
    page.ask("document.querySelectorAll('[data-counted] th button')[4].focus()")
    page.press("Enter", 13)
    page.press("Enter", 13)
    assert column(page, 4)[0] == "0.0*"
    assert page.ask("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_filters_hide_rows_everywhere_and_count_them(page):
    assert status(page) == "4 of 4 rows shown."
    choose(page, "text", "'GUARD'")
    assert status(page) == "2 of 4 rows shown."
    assert column(page, 0) == ["guard", "guard"]
    assert page.ask(
        "[...document.querySelectorAll('#attacks tbody tr:not([hidden])')].every(r => r.textContent.includes('guard'))"
    )
    choose(page, "threat", "'Linf:0.2'")
    assert status(page) == "1 of 4 rows shown."
    page.ask("document.querySelector('#filter [type=reset]').click()")
    assert page.ask(
        "new Promise(done => setTimeout(() => done(document.getElementById('status').textContent), 20))"
    ).startswith("4 of 4")
    choose(page, "flagged", "true", "checked")
    assert column(page, 0) == ["guard", "guard"]
    choose(page, "text", "'nobody'")
    assert status(page) == "0 of 4 rows shown."


def test_nothing_of_the_run_runs_nothing_is_fetched_and_nothing_is_complained_of(page):
    click(page, "pgd")
    page.ask("document.getElementById('theme').click()")
    page.ask("document.getElementById('copy').click()")
    assert page.complaints() == []
    assert all(address.startswith(("file:", "data:")) for address in page.requests())


def test_colours_follow_the_system_and_the_button(page):
    paper = "getComputedStyle(document.documentElement).backgroundColor"
    seen = {}
    for wish in ("light", "dark"):
        page.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": wish}])
        page.ask("document.documentElement.removeAttribute('data-theme')")
        seen[wish] = page.ask(paper)
    assert (seen["light"], seen["dark"]) == ("rgb(255, 255, 255)", "rgb(20, 23, 28)")
    page.ask("document.getElementById('theme').click()")
    assert page.ask(paper) == seen["light"]
    assert page.ask("document.getElementById('theme').ariaPressed") == "false"
    page.send("Emulation.setEmulatedMedia", features=[])


def test_the_plan_is_copied_or_selected(page):
    page.ask("document.getElementById('copy').click()")
    told = page.ask("new Promise(done => setTimeout(() => done(document.getElementById('copied').textContent), 200))")
    assert told in ("Copied.", "It is selected now; copy it with the keyboard.")


def test_a_phone_scrolls_tables_and_not_the_page(page):
    page.send("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=1, mobile=True)
    assert page.ask("document.documentElement.scrollWidth") == 360
    page.ask("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.ask("document.documentElement.scrollWidth") == 360
    first = "document.querySelector('[data-counted] tbody th')"
    page.ask(f"{first}.closest('.scroll').scrollLeft = 200")
    assert page.ask(f"{first}.getBoundingClientRect().left") >= 0  # the first column stays
    page.send("Emulation.clearDeviceMetricsOverride")


def test_a_page_of_two_hundred_rows_opens(tab, make_records, tmp_path, record_property):
    names = ("fgsm", "pgd:steps=10", "apgd")
    systems = [(f"m{k // 2}", f"d{k % 2}") for k in range(50)]
    frames = [make_records(dict.fromkeys(names, "RRBB"), model=m, defense=d) for m, d in systems]
    records = pd.concat(frames, ignore_index=True)
    run = run_of(make_records, records=records, expected={}, diagnostics=pd.DataFrame(), examples={})
    path = tmp_path / "page.html"
    path.write_text(build.page(run), encoding="utf-8")
    tab.open(path)
    assert len(run.summary) == 200
    assert status(tab) == "50 of 50 rows shown."
    took = tab.ask("performance.getEntriesByType('navigation')[0].loadEventEnd")
    record_property("milliseconds to load", took)  # told, not judged: the machine may be busy
    print(f"200 rows, {path.stat().st_size} bytes: loaded in {took:.0f} ms")
    assert base64.b64decode(tab.send("Page.captureScreenshot", format="png")["data"]).startswith(b"\x89PNG")
