"""`rbl show`: all about one plugin."""

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from robustbench_lite.cli.listing import kind_of
from robustbench_lite.cli.printing import show as show_on_screen

if TYPE_CHECKING:
    from rich.console import RenderableType

    from robustbench_lite.describe import Description

EXAMPLES = """\b
Examples:
  rbl show attack pgd
  rbl show defense adversarial-training
  rbl show physical print-photo
"""


def show(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND", help="attack, defense, model, dataset, generator or physical.", show_default=False
        ),
    ],
    name: Annotated[str, typer.Argument(metavar="NAME", help="As rbl list says it.", show_default=False)],
) -> None:
    """Show what an attack, a defense, a model, a dataset, a generator or a physical camera is, and its options."""
    chosen = kind_of(kind)
    from rich.console import Group

    from robustbench_lite.describe import describe
    from robustbench_lite.physical.describe import describe_camera

    found = describe_camera(name) if chosen == "physical" else describe(chosen, name)
    show_on_screen(Group(*_parts(found)))


def _parts(one: "Description") -> "list[RenderableType]":
    from rich.padding import Padding
    from rich.text import Text

    parts: list[RenderableType] = [Text(one.name, style="bold"), Padding(Text(one.what), (0, 0, 0, 2))]
    parts += [Padding(Text(paragraph), (1, 0, 0, 2)) for paragraph in one.paragraphs]
    # no_wrap: a command that is copied must stay one line
    example = Text(f"  {_example(one)}", no_wrap=True, overflow="ignore")
    return [*parts, Text(), _facts(one), _options(one), Text("Example:", style="bold"), example]


def _facts(one: "Description") -> "RenderableType":
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for name, value in {**one.facts, "paper": one.source, "from": one.origin}.items():
        if value:
            table.add_row(Text(f"  {name}", style="bold"), Text(value))
    return table


def _options(one: "Description") -> "RenderableType":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    if not one.options:
        return Text()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("option", no_wrap=True, style="bold")
    table.add_column("type")
    table.add_column("default", overflow="fold")
    table.add_column("what it does", ratio=1)
    for option in one.options:
        table.add_row(*(Text(text) for text in (option.name, option.type, option.default, option.text)))
    return table


def _example(one: "Description") -> str:
    """A command line that uses it."""
    if one.kind == "generator":
        return f"rbl generate train --generator {shlex.quote(one.example)} --out FILE.safetensors"
    return f"rbl evaluate --{one.kind} {shlex.quote(one.example)}"
