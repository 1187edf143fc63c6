"""The project's own modules, moved, renamed and without a word of prose, keep the keys of every plugin."""

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
#: packages whose modules are renamed, each `name` to `moved_name`
RENAMED = (
    "attacks",
    "attacks/foreign",
    "defenses",
    "norms",
    "generators",
    "zoo",
    "physical",
    "run",
    "training",
    "data",
)
#: single modules of the top that are renamed
LOOSE = ("objectives", "oracle", "system", "threat", "rows", "attack", "defense", "randomness", "seeding", "cache")
#: prints the digest of every plugin and of a few networks
DIGESTS = """
import importlib, json, sys
import torch
from robustbench_lite.hashing.values import hash_plugin, hash_value
found = {}
for name, place in json.loads(sys.argv[1]).items():
    module, _, kind = place.partition(":")
    plugin = getattr(importlib.import_module(module), kind)
    try:
        found[name] = hash_plugin(plugin())[0]
    except TypeError:  # it cannot be made without options, or is a function
        found[name] = hash_value(plugin)
print(json.dumps(found))
"""


def plugins() -> dict[str, str]:
    """Kind and name of every plugin -> `module:class`."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    kinds = ("attacks", "defenses", "models", "generators")
    return {f"{kind} {name}": place for kind in kinds for name, place in groups[f"robustbench_lite.{kind}"].items()}


def offered(folder: Path, places: dict[str, str]) -> None:
    """Let the copy offer its plugins by entry points of its own."""
    told = folder / "robustbench_lite-0.1.0.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: robustbench-lite\nVersion: 0.1.0\n")
    groups: dict[str, list[str]] = {}
    for name, place in places.items():
        kind, _, plugin = name.partition(" ")
        groups.setdefault(kind, []).append(f"{plugin} = {place}")
    text = "\n".join(f"[robustbench_lite.{kind}]\n" + "\n".join(lines) for kind, lines in groups.items())
    (told / "entry_points.txt").write_text(text)


def copied(folder: Path) -> Path:
    package = folder / "robustbench_lite"
    shutil.copytree(ROOT / "robustbench_lite", package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("attacks", "defenses"):
        shutil.copytree(ROOT / name, package / name, ignore=shutil.ignore_patterns("__pycache__"))
    return package


def names() -> dict[str, str]:
    """Dotted names of modules, old and new."""
    found = {f"robustbench_lite.{name}": f"robustbench_lite.moved_{name}" for name in LOOSE}
    for folder in RENAMED:
        place = (
            ROOT / folder if folder.partition("/")[0] in ("attacks", "defenses") else ROOT / "robustbench_lite" / folder
        )
        for file in place.glob("*.py"):
            if file.stem != "__init__":
                dotted = f"robustbench_lite.{folder.replace('/', '.')}"
                found[f"{dotted}.{file.stem}"] = f"{dotted}.moved_{file.stem}"
    return found


def renamed(text: str, table: dict[str, str]) -> str:
    """The text with every module by its new name, and `from package import module` too."""
    longest = sorted(table, key=len, reverse=True)
    text = re.sub("|".join(rf"{re.escape(name)}\b" for name in longest), lambda found: table[found[0]], text)

    def imported(found: re.Match[str]) -> str:
        parts = []
        for part in found[2].split(","):
            name = part.strip().partition(" as ")[0]
            new = table.get(f"{found[1]}.{name}")
            parts.append(f"{new.rpartition('.')[2]} as {part.strip().split()[-1]}" if new else part.strip())
        return f"from {found[1]} import {', '.join(parts)}"

    return re.sub(r"from (robustbench_lite[\w.]*) import ([^\n(#]+)$", imported, text, flags=re.MULTILINE)


def without_prose(text: str) -> str:
    """The same program without comments, docstrings and layout."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def digests(folder: Path, places: dict[str, str]) -> dict[str, str]:
    command = [
        sys.executable,
        "-P",
        "-c",
        f"import sys; sys.path.insert(0, {str(folder)!r})\n{DIGESTS}",
        json.dumps(places),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.mark.slow
def test_moved_and_renamed_modules_without_prose_keep_every_key(tmp_path: Path) -> None:
    copied(tmp_path / "as it is")
    package, table = copied(tmp_path / "moved"), names()
    for file in package.rglob("*.py"):
        file.write_text(renamed(without_prose(file.read_text()), table))
    for old, new in table.items():
        place = package.parent / Path(*old.split("."))
        place.with_suffix(".py").rename((package.parent / Path(*new.split("."))).with_suffix(".py"))
    places = plugins()
    moved = {
        name: re.sub(r"^[^:]+", lambda found: table.get(found[0], found[0]), place) for name, place in places.items()
    }
    offered(tmp_path / "as it is", places)
    offered(tmp_path / "moved", moved)
    before, after = digests(tmp_path / "as it is", places), digests(tmp_path / "moved", moved)
    assert len(set(before.values())) == len(before) > 90
    assert {name for name in before if before[name] != after[name]} == set()
