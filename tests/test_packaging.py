"""The package list is written by hand: every folder of code must be in it."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_package_is_listed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {"robustbench_lite.attacks", "robustbench_lite.defenses"}
    for init in (ROOT / "robustbench_lite").rglob("__init__.py"):
        found.add(".".join(init.parent.relative_to(ROOT).parts))
    for init in (path for name in ("attacks", "defenses") for path in (ROOT / name).rglob("__init__.py")):
        found.add(".".join(("robustbench_lite", *init.parent.relative_to(ROOT).parts)))
    assert set(listed) == found
