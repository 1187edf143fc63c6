"""Every `>>>` in a docstring of ours and in README and docs/ says what Python says."""

import ast
import doctest
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from documents import ROOT, blocks, pages

FLAGS = doctest.NORMALIZE_WHITESPACE
#: folders of code, and what they are imported as
CODE = {
    "robustbench_lite": "robustbench_lite",
    "attacks": "robustbench_lite.attacks",
    "defenses": "robustbench_lite.defenses",
    "docs": "",
}


def modules() -> Iterator[tuple[str, Path]]:
    """Modules with a `>>>` in them; no other is imported."""
    for folder, package in CODE.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            if ">>> " in path.read_text(encoding="utf-8"):
                parts = (*package.split("."), *path.relative_to(ROOT / folder).with_suffix("").parts)
                yield ".".join(part for part in parts if part not in ("", "__init__")), path


def examples(page: Path) -> str:
    """The Python blocks of a page that are examples, in order: a later one may use what an earlier one has made."""
    return "\n".join(block.text for block in blocks(page) if block.language == "python" and ">>> " in block.text)


@pytest.mark.parametrize("module, path", [pytest.param(*found, id=found[0]) for found in modules()])
def test_docstrings(module: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if path.parent.name == "docs":  # of the site, which needs mkdocs
        pytest.importorskip("mkdocs", reason="mkdocs is not installed (the extra docs)")
        monkeypatch.syspath_prepend(path.parent)
    ran = doctest.testmod(importlib.import_module(module), optionflags=FLAGS)
    assert (ran.failed, ran.attempted > 0) == (0, True)


@pytest.mark.parametrize("page", [page for page in pages() if examples(page)], ids=lambda page: page.stem)
def test_pages(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RBL_CACHE", str(tmp_path / "cache"))
    name = str(page.relative_to(ROOT))
    test = doctest.DocTestParser().get_doctest(examples(page), {"__name__": "__main__"}, name, name, 0)
    ran = doctest.DocTestRunner(optionflags=FLAGS).run(test)
    assert (ran.failed, ran.attempted > 0) == (0, True)


def test_every_python_block_of_a_page_can_be_read() -> None:
    for page in pages():
        for block in (block for block in blocks(page) if block.language == "python"):
            source = block.text
            if ">>> " in source:
                source = "".join(example.source for example in doctest.DocTestParser().get_examples(source))
            ast.parse(source, page.name)
