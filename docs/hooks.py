"""What the site needs besides the pages in docs/: what they link to elsewhere in the repository, and `*` in its navigation.

A page or file outside of docs/ (a plan, a leaderboard, the changelog) that some page links to comes along, at its own path,
and so does what it links to in turn. Links are written for the repository, where they can be followed as well, and are
rewritten for the site here. A link that leads nowhere is left as it is, and `mkdocs build --strict` complains.
"""

import posixpath
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

#: what comes along without being linked
SEEDS = ("CHANGELOG.md", "CONTRIBUTING.md", "leaderboards/**/*.md", "plans/*.md", "examples/*/README.md")
_TARGET = re.compile(r"(?<=\]\()(?![a-z]+:|/|#)([^)\s#]+)")
_FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is linked, then spell out the navigation."""
    root = Path(config.config_file_path).parent
    waiting = [f"docs/{file.src_uri}" for file in files.documentation_pages()]
    seen = {f"docs/{file.src_uri}" for file in files}
    found = sorted(path.relative_to(root).as_posix() for pattern in SEEDS for path in root.glob(pattern))
    while waiting or found:
        for path in found:
            if path not in seen and (root / path).is_file():
                seen.add(path)
                files.append(File.generated(config, address(path), abs_src_path=str(root / path)))
                waiting += [path] if path.endswith(".md") else []
        here = waiting.pop() if waiting else ""
        found = list(linked(here, (root / here).read_text(encoding="utf-8"))) if here else []
    config.nav = spelled(config.nav, [file.src_uri for file in files.documentation_pages()])
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let the links of a page lead to where the site has what they mean."""
    own = page.file.src_uri
    here = origin(own, Path(config.config_file_path).parent)

    def moved(match: re.Match[str]) -> str:
        there = address(resolved(here, match[1]))
        if files.get_file_from_path(there) is None:
            return match[1]
        return posixpath.relpath(there, posixpath.dirname(own) or ".")

    parts = _FENCE.split(markdown)  # every other one is a block of code
    parts[::2] = [_TARGET.sub(moved, part) for part in parts[::2]]
    return "".join(parts)


def address(path: str) -> str:
    """Where the site has a file of the repository.

    >>> address("docs/attacks/README.md"), address("plans/README.md"), address("README.md")
    ('attacks/README.md', 'plans/README.md', 'readme.md')
    """
    if path == "README.md":  # a README is the first page of its folder, and index.md is that already
        return "readme.md"
    return path.removeprefix("docs/")


def origin(uri: str, root: Path) -> str:
    """The file of the repository that the site has there."""
    if (root / "docs" / uri).is_file():
        return f"docs/{uri}"
    return "README.md" if uri == "readme.md" else uri


def resolved(here: str, target: str) -> str:
    """The path that a link means, from the root of the repository.

    >>> resolved("docs/howto/own-data.md", "../../plans/README.md")
    'plans/README.md'
    """
    return posixpath.normpath(posixpath.join(posixpath.dirname(here), target))


def linked(here: str, text: str) -> Iterator[str]:
    """The paths inside the repository that the text of the file `here` links to."""
    for target in _TARGET.findall(_FENCE.sub("", text)):
        path = resolved(here, target)
        if not path.startswith(".."):
            yield path


def spelled(nav: Any, pages: list[str]) -> Any:
    """The navigation with every `*` as the pages that it means, a README first; a section without pages is left out.

    >>> spelled([{"More": ["b/*", "c/*"]}, {"None": ["d/*"]}], ["b/x.md", "b/README.md", "a.md"])
    [{'More': ['b/README.md', 'b/x.md']}]
    """
    if isinstance(nav, dict):
        return {name: spelled(entry, pages) for name, entry in nav.items()}
    if not isinstance(nav, list):
        return nav
    spelt = []
    for entry in nav:
        if isinstance(entry, str) and "*" in entry:
            meant = [page for page in pages if fnmatch(page, entry)]
            spelt += sorted(meant, key=lambda page: (posixpath.basename(page) != "README.md", page))
        elif not (isinstance(entry, dict) and list(spelled(entry, pages).values()) == [[]]):
            spelt.append(spelled(entry, pages))
    return spelt
