"""What is printed where: results on stdout; progress, notes and errors on stderr."""

import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from robustbench_lite.errors import UserError, cut, nearest
from robustbench_lite.escaping import printable
from robustbench_lite.specs import system_name
from robustbench_lite.streams import drop

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console, RenderableType

FORMATS = ("table", "csv", "json", "markdown")
_FEW = 2  # cascades whose components are shown unasked
WIDTH = 100  # of a table that goes into a file or a pipe


def complain(text: str) -> None:
    """Say something on stderr; the help of a command as it is, everything else as `rbl: …`, in one line."""
    if not text.startswith("Usage:"):
        # a lone carriage return is shown: where a shell script with Windows line ends adds one, it is the cause
        line = " ".join(re.split(r"\r?\n", text))
        text = f"rbl: {printable(line)}"
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:  # a full disk, a closed stream
        drop(sys.stderr)


def one_of(what: str, given: str, accepted: tuple[str, ...]) -> str:
    """The accepted word, whatever the case of its letters.

    Raises:
        UserError: it is none of them.
    """
    if given.lower() in accepted:
        return given.lower()
    guess = nearest(given, accepted)
    also = f"; did you mean {guess!r}?" if guess else ""
    raise UserError(f"{what}={cut(given)}; accepted: {', '.join(accepted)}{also}")


def console(*, stderr: bool = False) -> "Console":
    """A console as wide as the terminal, or as COLUMNS says, or `WIDTH`."""
    from rich.console import Console

    known = "COLUMNS" in os.environ or (sys.stderr if stderr else sys.stdout).isatty()
    width = shutil.get_terminal_size().columns if known else WIDTH
    return Console(stderr=stderr, width=width, highlight=False)


def show(renderable: "RenderableType", *, stderr: bool = False) -> None:
    """Print a table; without colours and blanks at the ends of lines where nobody watches."""
    from robustbench_lite.results import tables

    screen = console(stderr=stderr)
    if screen.is_terminal:
        screen.print(renderable)
    else:
        (sys.stderr if stderr else sys.stdout).write(tables.text(renderable, screen.width))


def show_results(
    summary: "pd.DataFrame", comparisons: "pd.DataFrame", form: str, *, stages: "pd.DataFrame", details: bool = False
) -> None:
    """The results to stdout: csv and json are the whole summary, table and markdown compare the systems."""
    from robustbench_lite.results import tables
    from robustbench_lite.results.fates import CELL

    if form == "table":
        show(tables.comparative(summary, comparisons, width=console().width))
        if len(stages) and (details or stages.groupby(list(CELL)).ngroups <= _FEW):
            show(tables.components(stages))
        if details:
            show(tables.details(summary))
        return
    text = {"csv": tables.to_csv, "json": tables.to_json}.get(form)
    sys.stdout.write(text(summary) if text else tables.to_markdown(summary, comparisons))


def show_checks(diagnostics: "pd.DataFrame", *, stderr: bool = False) -> None:
    """The diagnostics in short: what fired and on whom, what could not be checked and why, how many are clear."""
    from rich.table import Table
    from rich.text import Text

    if not len(diagnostics):
        return
    table = Table.grid(padding=(0, 2))
    systems = diagnostics[["dataset", "model", "defense", "threat"]].drop_duplicates()
    loud = diagnostics[diagnostics["status"] != "clear"]
    order = loud.sort_values("status", key=lambda column: column != "fired", kind="stable")
    for (status, name, detail), rows in order.groupby(["status", "diagnostic", "detail"], sort=False):
        whom = "; ".join(f"{system_name(str(row.model), str(row.defense))}, {row.threat}" for row in rows.itertuples())
        who = "everywhere" if len(rows) == len(systems) > 1 else whom
        style = "yellow" if status == "fired" else "dim"
        table.add_row(Text(f" {status}", style=style), Text(str(name)), Text(f"{who}: {detail}" if detail else who))
    clear = len(diagnostics) - len(loud)
    parts = f"Checks: {len(loud[loud['status'] == 'fired'])} fired, {clear} clear, "
    show(Text(f"{parts}{len(loud[loud['status'] == 'unchecked'])} unchecked"), stderr=stderr)
    if len(loud):
        show(table, stderr=stderr)


def show_unfinished(cells: Sequence[str], *, stderr: bool = False) -> None:
    """The cells of a run that have not come to their end; nothing where all have."""
    if cells:
        from rich.text import Text

        show(Text("\n" + "\n".join(map(printable, cells))), stderr=stderr)


def show_claims(claims: "pd.DataFrame", environment: Mapping[str, Any], *, stderr: bool = False) -> None:
    """What defenses claim and what they are worth; nothing where none hides anything."""
    if len(claims):
        from robustbench_lite.results.claims import table

        known = environment.get("systems", {})
        ways = {name: told.get("adaptive attacks", {}) for name, told in known.items() if isinstance(told, dict)}
        show(table(claims, ways), stderr=stderr)


def show_detection(records: "pd.DataFrame", *, stderr: bool = False) -> None:
    """How well detectors tell examples from clean images; nothing where no system has one."""
    from robustbench_lite.results.detection import detection, table

    if len(found := detection(records)):
        show(table(found), stderr=stderr)


def show_physical(physical: "pd.DataFrame", *, stderr: bool = False) -> None:
    """What a camera shows of the examples; nothing where there was none."""
    if len(physical):
        from robustbench_lite.results.physical import tables

        show(tables(physical), stderr=stderr)


def show_reconstruction(found: "pd.DataFrame", *, stderr: bool = False) -> None:
    """What comes back of the examples; nothing where no reconstruction was attacked."""
    if len(found):
        from robustbench_lite.results.reconstruction import tables

        show(tables(found), stderr=stderr)


def show_frame(frame: "pd.DataFrame") -> None:
    """A small table as it is, numbers to the right; shares are texts already."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for number, name in enumerate(frame.columns):
        side: Literal["left", "right"] = "right" if number else "left"
        table.add_column(Text(str(name).replace("_", " ")), justify=side, overflow="fold")
    for row in frame.itertuples(index=False):
        table.add_row(*(Text(f"{value:.2f}" if isinstance(value, float) else printable(str(value))) for value in row))
    show(table)


def show_place(folder: Path, *, stderr: bool = False) -> None:
    """Where the files are, and how to look closer."""
    place = printable(str(folder))
    text = f"\nFiles are in {place}; look closer with: rbl report {shlex.quote(place)} --details\n"
    (sys.stderr if stderr else sys.stdout).write(text)
