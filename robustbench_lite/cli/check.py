"""`rbl check`: the gate of a leaderboard, for CI."""

import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from robustbench_lite.cli.options import DataRoot, Log, Quiet, Verbose, option
from robustbench_lite.cli.printing import one_of
from robustbench_lite.cli.progress import Bars
from robustbench_lite.cli.stopping import stoppable
from robustbench_lite.errors import UserError

if TYPE_CHECKING:
    from robustbench_lite.leaderboard.board import Board

EXAMPLES = """\b
Examples:
  rbl check --baseline leaderboards/digits-linf.csv
  rbl check --baseline leaderboards/digits-linf.csv --run rbl-runs/today --junit check.xml
  rbl check --baseline leaderboards/mnist-l2.csv --data-root DIR --tolerance 0.01 --github
  rbl check --baseline leaderboards/gate-digits.csv --speed 2
"""
#: what --speed without a number allows
SPEED = "1.5"


class Check(TyperCommand):
    """The command; `--speed` may stand without its number, which typer has no way to declare."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The arguments, with the usual number behind a bare `--speed`."""
        for place, word in enumerate(args):
            if word == "--speed" and re.match(r"-(?!\d)|$", (args[place + 1 : place + 2] or ["-"])[0]):
                args = [*args[: place + 1], SPEED, *args[place + 1 :]]
                break
        return list(super().parse_args(ctx, args))


def check(
    baseline: Annotated[Path, option("FILE.csv|DIR", "A leaderboard, or the folder of a run.")],
    run: Annotated[
        Path | None,
        option("DIR", "What is compared with it: a run. [default: run the plan NAME.toml beside the baseline]"),
    ] = None,
    alpha: Annotated[float, option("P", "Chance of a false alarm, over all tests.", default=0.05)] = 0.05,
    tolerance: Annotated[
        float, option("SHARE", "Change of an accuracy that is let pass, such as 0.01.", default=0)
    ] = 0.0,
    queries: Annotated[
        float, option("FACTOR", "By which queries a sample may grow; 0: not compared.", default=1.5)
    ] = 1.5,
    time: Annotated[float, option("FACTOR", "By which seconds a sample may grow; 0: not compared.", default=0)] = 0.0,
    speed: Annotated[
        float,
        option(
            "[FACTOR]",
            "By which the cost may grow, in units of a bare forward and gradient of the same run, so that a slow machine is no"
            " alarm and a slow engine is; 1.5 where no factor follows, 0: not compared.",
            default=0,
        ),
    ] = 0.0,
    allow_fewer: Annotated[
        bool,
        typer.Option(
            "--allow-fewer", help="Compare a run with fewer images than the baseline too, on those in common."
        ),
    ] = False,
    flags: Annotated[
        str,
        option(
            "tested|any",
            "When a check that counts images alarms: beyond chance, or whenever it fires anew.",
            default="tested",
        ),
    ] = "tested",
    junit: Annotated[Path | None, option("FILE.xml", "Also as JUnit XML.")] = None,
    markdown: Annotated[Path | None, option("FILE.md", "Also as a summary in Markdown.")] = None,
    github: Annotated[
        bool,
        typer.Option("--github", help="Also as annotations of GitHub, and in the summary of its step."),
    ] = False,
    runs: Annotated[Path, option("DIR", "Where the plan is run, and goes on.", default="rbl-runs/check")] = Path(
        "rbl-runs/check"
    ),
    data_root: DataRoot = None,
    quiet: Quiet = False,
    log: Log = None,
    verbose: Verbose = False,
) -> None:
    """Fail when a run is worse than a leaderboard, beyond chance.

    Worse is: less robust or less accurate; an attack that leaves more of the same system than it did; a row that is gone; a
    check that fires and did not; queries (if asked, seconds or the cost) that grew. Accuracies are compared by image (exact
    McNemar test), or by exact intervals where the images differ; a check that counts images must be above its limit beyond
    chance. All tests together raise a false alarm with chance alpha.

    Refused are a baseline that was edited, has no rows or figures, or is of other data or another threat, and a run with fewer
    images.

    Exit code 0: no alarm; 1: some; 2: bad input.
    """
    _in(0, 1, alpha=alpha, tolerance=tolerance)
    form: Literal["tested", "any"] = "any" if one_of("flags", flags, ("tested", "any")) == "any" else "tested"
    for name, factor in (("queries", queries), ("time", time), ("speed", speed)):
        if not (factor == 0 or 1 <= factor < math.inf):
            raise UserError(f"{name}={factor:g}; accepted: 0 (not compared), or a factor from 1")
    from robustbench_lite.leaderboard import gate_files
    from robustbench_lite.leaderboard.board import Board
    from robustbench_lite.leaderboard.build import board_of
    from robustbench_lite.leaderboard.comparison import Limits
    from robustbench_lite.leaderboard.gate import judge
    from robustbench_lite.leaderboard.slices import with_images

    before = board_of(baseline) if baseline.is_dir() else Board.read(baseline)
    fresh = bool(time or speed)  # what an earlier run has computed was timed then
    now = (
        board_of(run)
        if run is not None
        else _rerun(baseline, runs, data_root, fresh=fresh, quiet=quiet, log=log, verbose=verbose)
    )
    limits = Limits(
        alpha=alpha, tolerance=tolerance, queries=queries or None, seconds=time or None, cost=speed or None, flags=form,
        fewer=allow_fewer,
    )  # fmt: skip
    judgement = judge(with_images(before, now, baseline, data_root), now, limits)
    title = f"rbl check {baseline.name}"
    summary = gate_files.markdown(judgement, title)
    _write({junit: gate_files.junit(judgement, title), markdown: summary})
    print(gate_files.text(judgement))
    if github:
        for line in gate_files.annotations(judgement, str(baseline)):
            print(line)
        if "GITHUB_STEP_SUMMARY" in os.environ:
            with Path(os.environ["GITHUB_STEP_SUMMARY"]).open("a", encoding="utf-8") as file:
                file.write(summary)
    if judgement.alarms:
        raise typer.Exit(1)


def _write(texts: dict[Path | None, str]) -> None:
    """Write the files that were asked for."""
    from robustbench_lite.leaderboard.files import write

    write({path: text for path, text in texts.items() if path is not None})


def _rerun(
    baseline: Path, runs: Path, data_root: Path | None, *, fresh: bool, quiet: bool, log: Path | None, verbose: bool
) -> "Board":
    """The leaderboard of the plan beside the baseline, evaluated now; `fresh`: all of it, whatever is there already."""
    from robustbench_lite.leaderboard.build import build
    from robustbench_lite.leaderboard.plan import BoardPlan

    toml = baseline.with_suffix(".toml")
    if baseline.is_dir() or not toml.exists():
        raise UserError(f"there is no plan {toml.name!r} beside {str(baseline)!r}; give the run to compare: --run DIR")
    plan = BoardPlan.load(toml)
    place, cells = runs / baseline.stem, plan.cells
    with (
        stoppable(f"what was computed is kept in {place}, and the same command goes on from there"),
        Bars(cells=cells, quiet=quiet, log=log, verbose=verbose) as bars,
    ):
        root = None if data_root is None else str(data_root)
        return build(plan, place, data_root=root, reporter=bars, fresh=fresh)


def _in(low: float, high: float, **values: float) -> None:
    for name, value in values.items():
        if not low <= value < high:
            raise UserError(f"{name}={value:g}; accepted: {low:g} to less than {high:g}")
