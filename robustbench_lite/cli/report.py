"""`rbl report`: the tables of a run again, from its folder alone; or all of it as one page."""

from pathlib import Path
from typing import Annotated

import typer

from robustbench_lite.cli.options import option
from robustbench_lite.cli.printing import (
    FORMATS,
    one_of,
    show_checks,
    show_claims,
    show_detection,
    show_physical,
    show_reconstruction,
    show_results,
    show_unfinished,
)
from robustbench_lite.errors import UserError

EXAMPLES = """\b
Examples:
  rbl report rbl-runs/my-run
  rbl report rbl-runs/my-run --details
  rbl report rbl-runs/my-run --format markdown > table.md
  rbl report rbl-runs/my-run --html report.html
"""


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What rbl evaluate --out wrote.", show_default=False)],
    format: Annotated[str, option("table|csv|json|markdown", "Of the table on stdout.", default="table")] = "table",
    details: Annotated[
        bool, typer.Option("--details", help="Also a row an attack: intervals, success rates, queries, seconds.")
    ] = False,
    html: Annotated[
        Path | None, option("FILE", "Write one self-contained page instead: tables, charts, examples, checks, plan.")
    ] = None,
) -> None:
    """Print the tables of a run again, from the records in its folder alone.

    Nothing is computed or changed. Of a run that was stopped it shows the cells that are complete, and names those of the plan
    that are not.
    """
    form = one_of("format", format, FORMATS)
    if html is not None:
        _page(folder, html)
        return
    from robustbench_lite.results.claims import claims
    from robustbench_lite.results.compare import compare_rows
    from robustbench_lite.results.metrics import summarise
    from robustbench_lite.results.stages import by_stage
    from robustbench_lite.run.evaluate import expected_of
    from robustbench_lite.run.run_folder import (
        read_environment,
        read_physical,
        read_reconstruction,
        read_run,
        unfinished,
    )

    records, timings, diagnostics = read_run(folder)
    expected = expected_of(timings)
    summary = summarise(records, timings, diagnostics, expected=expected)
    stages = by_stage(records, timings)
    show_results(summary, compare_rows(records, expected=expected), form, stages=stages, details=details)
    show_claims(claims(records, expected=expected), read_environment(folder), stderr=form != "table")
    show_detection(records, stderr=form != "table")
    show_physical(read_physical(folder), stderr=form != "table")
    show_reconstruction(read_reconstruction(folder), stderr=form != "table")
    show_checks(diagnostics, stderr=form != "table")
    show_unfinished(unfinished(folder, records, timings), stderr=form != "table")


def _page(folder: Path, path: Path) -> None:
    """Write the page, and print its name.

    Raises:
        UserError: the name does not end in .html, it cannot be written, or the folder holds no run.
    """
    if path.suffix.lower() not in (".html", ".htm") or path.is_dir():
        raise UserError(f"html={str(path)!r}; accepted: a file whose name ends in .html")
    from robustbench_lite.cache import atomic_write, writing
    from robustbench_lite.results.page.build import page
    from robustbench_lite.run.reread import reread

    content = page(reread(folder)).encode()
    with writing(path.parent):
        atomic_write(path, content)
    print(path)
