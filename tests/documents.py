"""What README and docs say, in a form that tests can run: blocks, commands, links, and the generated reference."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from robustbench_lite import plugins
from robustbench_lite.describe import SOURCES, Description, describe_all

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs/reference.md"
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_OURS = "robustbench-lite"


def pages() -> list[Path]:
    """Every page for readers."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block: its language, and the file that its first line names, if there is one."""

    page: Path
    language: str
    text: str

    @property
    def file(self) -> str | None:
        named = re.match(r"# ([\w./-]+\.(?:py|toml))\n", self.text)
        return named[1] if named else None


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found = _FENCE.findall(page.read_text(encoding="utf-8"))
    return [Block(page=page, language=language, text=text) for language, text in found]


def commands(page: Path, program: str) -> Iterator[list[str]]:
    """The arguments of every line of a block that calls the program; no comments, no redirections."""
    for block in blocks(page):
        for line in block.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True) if program in line.split()[:2] else []
            if words and Path(words[0]).name == program:
                yield words[1 : words.index(">")] if ">" in words else words[1:]


def prose(page: Path) -> str:
    """The page without its blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def reference() -> str:
    """The page docs/reference.md: every built-in plugin with its options, as `rbl show` tells them."""
    parts = [
        "# Reference",
        "Every built-in name and its options, generated from the code; `rbl show attack pgd` tells more. Names are used"
        " as `--attack NAME:option=value,option=value` (attacks, defenses, generators) and `--model 'NAME;option=value'` (models,"
        " data sets); a value with `,` or `:` stands in parentheses.",
    ]
    for kind in plugins.KINDS:
        parts.append(f"## {'Data sets' if kind == 'dataset' else f'{kind.capitalize()}s'}")
        parts += [_entry(one) for one in describe_all(kind) if one.origin == _OURS]
        parts += [f"### `{written}`\n\n{what}" for written, what in SOURCES.get(kind, {}).items()]
    return "\n\n".join(parts) + "\n"


def _entry(one: Description) -> str:
    """One plugin: what it is, its facts, its options."""
    facts = {name: text for name, text in one.facts.items() if name != "why"} | (
        {"paper": one.source} if one.source else {}
    )
    told = [" · ".join(f"{name}: {text}" for name, text in facts.items())] if facts else []
    rows = [f"| `{o.name}` | {_cell(o.type)} | {_cell(o.default)} | {_cell(o.text)} |" for o in one.options]
    table = ["\n".join(["| option | type | default | what it does |", "|---|---|---|---|", *rows])] if rows else []
    return "\n\n".join([f"### `{one.name}`", one.what, *told, *table])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
