"""`rbl report`: the tables of a run again, from its folder alone."""

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
)

EXAMPLES = """\b
Examples:
  rbl report rbl-runs/my-run
  rbl report rbl-runs/my-run --details
  rbl report rbl-runs/my-run --format markdown > table.md
"""


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What rbl evaluate --out wrote.", show_default=False)],
    format: Annotated[str, option("table|csv|json|markdown", "Of the table on stdout.", default="table")] = "table",
    details: Annotated[
        bool, typer.Option("--details", help="Also a row an attack: intervals, success rates, queries, seconds.")
    ] = False,
) -> None:
    """Print the tables of a run again, from the records in its folder alone.

    Nothing is computed or changed. Of a run that was stopped it shows the cells that are complete.
    """
    form = one_of("format", format, FORMATS)
    from robustbench_lite.results.claims import claims
    from robustbench_lite.results.compare import compare_rows
    from robustbench_lite.results.metrics import summarise
    from robustbench_lite.results.stages import by_stage
    from robustbench_lite.run.evaluate import expected_of
    from robustbench_lite.run.output import read_environment, read_physical, read_reconstruction, read_run

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
