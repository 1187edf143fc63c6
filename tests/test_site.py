"""The site builds from the repository, strictly, and asks nobody else for anything."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from documents import ROOT

pytest.importorskip("mkdocs", reason="mkdocs is not installed: pip install -e '.[docs]'")
pytest.importorskip("material", reason="mkdocs-material is not installed: pip install -e '.[docs]'")
pytest.importorskip("mkdocstrings", reason="mkdocstrings is not installed: pip install -e '.[docs]'")

#: (tag, attribute) that a browser fetches without being asked
FETCHED = {("script", "src"), ("img", "src"), ("link", "href"), ("iframe", "src"), ("source", "src"), ("video", "src")}


class Addresses(HTMLParser):
    """What a page fetches, what it links to, and the places in it that can be linked to."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.linked: list[str] = []
        self.places: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if (tag, name) in FETCHED and value:
                self.fetched.append(value)
            elif (tag, name) == ("a", "href") and value:
                self.linked.append(value)
            elif name == "id" and value:
                self.places.add(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does, but elsewhere; with --quiet no warning would be counted."""
    place = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(place)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return place


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Addresses]:
    return {page: Addresses(page) for page in site.rglob("*.html")}


def test_every_page_of_the_docs_is_there(pages: dict[Path, Addresses], site: Path) -> None:
    for page in (ROOT / "docs").rglob("*.md"):
        name = "index" if page.stem == "README" else page.stem
        assert site / page.parent.relative_to(ROOT / "docs") / f"{name}.html" in pages, page


def test_a_page_fetches_nothing_from_elsewhere(pages: dict[Path, Addresses], site: Path) -> None:
    for page, addresses in pages.items():
        for address in addresses.fetched:
            assert not re.match(r"(https?:)?//", address), (page.relative_to(site), address)
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", sheet.read_text(encoding="utf-8")), sheet


def test_every_link_inside_the_site_leads_somewhere(pages: dict[Path, Addresses], site: Path) -> None:
    """Also links of docstrings and of pages from outside of docs/, which are rewritten."""
    for page, addresses in pages.items():
        if page.name == "404.html":
            continue  # it is shown at any address, and links from the root
        for link in addresses.linked:
            if re.match(r"[a-z]+:", link):
                continue
            path, _, place = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            target = target / "index.html" if target.is_dir() else target
            assert target.is_file(), (page.relative_to(site), link)
            if place and target in pages:
                assert place in pages[target].places, (page.relative_to(site), link)


def test_what_lies_outside_of_docs_comes_along(pages: dict[Path, Addresses], site: Path) -> None:
    for path in [*(ROOT / "leaderboards").rglob("*.md"), ROOT / "plans/README.md", ROOT / "CHANGELOG.md"]:
        name = "index" if path.stem == "README" else path.stem
        assert site / path.parent.relative_to(ROOT) / f"{name}.html" in pages, path


def test_the_public_names_have_their_docstrings_on_the_page(pages: dict[Path, Addresses], site: Path) -> None:
    import robustbench_lite

    places = pages[site / "api.html"].places
    for name in robustbench_lite.__all__:
        assert name == "__version__" or f"robustbench_lite.{name}" in places, name
    assert "How far beyond the boundary" in (site / "api.html").read_text(encoding="utf-8")


def test_the_search_knows_the_pages(site: Path) -> None:
    index = (site / "search/search_index.json").read_text(encoding="utf-8")
    assert "black-box-beats-gradient" in index
