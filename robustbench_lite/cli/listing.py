"""`rbl list`: the plugins of a kind, ours and third parties'."""

import json
import sys
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from robustbench_lite.cli.options import option
from robustbench_lite.cli.printing import one_of, show
from robustbench_lite.errors import unknown
from robustbench_lite.escaping import visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Group

    from robustbench_lite.describe import Description
    from robustbench_lite.plugins import Kind

EXAMPLES = """\b
Examples:
  rbl list attacks
  rbl list models --format json
"""
KINDS = ("attacks", "defenses", "models", "datasets", "generators", "physical")
_FACTS: dict[str, tuple[str, ...]] = {
    "attack": ("needs", "norms"),
    "defense": ("trains", "adaptivity"),
    "generator": ("density",),
}
_OURS = "robustbench-lite"


def kind_of(given: str) -> "Kind | Literal['physical']":
    """The kind of that name, singular or plural.

    Raises:
        UserError: there is none.
    """
    if given.lower() == "physical":
        return "physical"
    plural = given.lower() if given.lower().endswith("s") else f"{given.lower()}s"
    if plural not in KINDS:
        raise unknown("kind", given, KINDS)
    return cast("Kind", plural[:-1])


def listing(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND", help="attacks, defenses, models, datasets, generators or physical.", show_default=False
        ),
    ],
    format: Annotated[str, option("table|json", "Of the list.", default="table")] = "table",
) -> None:
    """List the attacks, defenses, models, datasets, generators or physical cameras that there are.

    Those of installed plugins too; one that cannot be loaded is shown with its error.
    """
    chosen, form = kind_of(kind), one_of("format", format, ("table", "json"))
    from robustbench_lite.describe import describe_all
    from robustbench_lite.physical.describe import describe_cameras

    found = describe_cameras() if chosen == "physical" else describe_all(chosen)
    if form == "json":
        sys.stdout.write(json.dumps([_as_json(one) for one in found], indent=2, ensure_ascii=False) + "\n")
        return
    show(_table(chosen, found))


def _table(kind: str, found: "Sequence[Description]") -> "Group":
    """A line a plugin, then the sources that are no plugins; `from` only where something is not ours."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from robustbench_lite.describe import SOURCES

    facts = _FACTS.get(kind, ())
    foreign = any(one.origin != _OURS for one in found)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(kind, no_wrap=True, style="bold")
    table.add_column("what it is", ratio=1)
    for name in (*facts, *["from"] * foreign):
        table.add_column(name)
    for one in found:
        said = Text(visible(f"broken: {one.error}"), style="red") if one.error else Text(visible(one.what))
        told = [one.name, *(one.facts.get(name, "") for name in facts), *[one.origin] * foreign]
        shown = [Text(visible(text)) for text in told]
        table.add_row(shown[0], said, *shown[1:])
    for written, what in SOURCES.get(kind, {}).items():
        table.add_row(Text(written), Text(what))
    return Group(table, Text(f"More of one: rbl show {kind} {found[0].name if found else 'NAME'}"))


def _as_json(one: "Description") -> dict[str, object]:
    return {
        "name": one.name,
        "what": one.what,
        **one.facts,
        "options": {option.name: option.default for option in one.options},
        "source": one.source,
        "from": one.origin,
        "error": one.error or None,
    }
