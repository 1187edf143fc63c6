"""`rbl leaderboard`: tables that are made from records by a plan, never by hand."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustbench_lite.cli.options import DataRoot, Log, Quiet, Verbose, option
from robustbench_lite.cli.printing import complain, show, show_frame
from robustbench_lite.cli.progress import Bars
from robustbench_lite.cli.stopping import stoppable

if TYPE_CHECKING:
    from robustbench_lite.leaderboard.generators import GeneratorPlan

EXAMPLES = """\b
Examples:
  rbl leaderboard build leaderboards/digits-linf.toml
  rbl leaderboard show leaderboards/digits-linf.csv
  rbl leaderboard validate leaderboards/*.csv
"""
BUILD_EXAMPLES = """\b
Examples:
  rbl leaderboard build leaderboards/digits-linf.toml
  rbl leaderboard build leaderboards/mnist-l2.toml --data-root DIR --runs /scratch/runs
"""
SHOW_EXAMPLES = """\b
Examples:
  rbl leaderboard show leaderboards/digits-linf.csv
"""
MERGE_EXAMPLES = """\b
Examples:
  rbl leaderboard merge ours.csv theirs.csv --out both.csv
"""
DIFF_EXAMPLES = """\b
Examples:
  rbl leaderboard diff leaderboards/digits-linf.csv rebuilt/digits-linf.csv
"""
VALIDATE_EXAMPLES = """\b
Examples:
  rbl leaderboard validate leaderboards/*.csv
"""

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Build leaderboards from plans, show, merge, compare and check them.",
    epilog=EXAMPLES,
)
_File = typer.Argument(metavar="FILE.csv", help="A leaderboard.", show_default=False)


@app.command("build", epilog=BUILD_EXAMPLES)
def build(
    plan: Annotated[Path, typer.Argument(metavar="NAME.toml", help="The plan.", show_default=False)],
    out: Annotated[Path | None, option("FILE.csv", "Where it goes. [default: NAME.csv beside the plan]")] = None,
    runs: Annotated[
        Path, option("DIR", "Where the evaluations are kept, and go on.", default="rbl-runs/leaderboards")
    ] = Path("rbl-runs/leaderboards"),
    jobs: Annotated[int, typer.Option(metavar="N", min=1, help="Processes that share the work.")] = 1,
    data_root: DataRoot = None,
    quiet: Quiet = False,
    log: Log = None,
    verbose: Verbose = False,
) -> None:
    """Run the plan of a leaderboard, and write what its records say, ranked.

    NAME.csv has the figures, NAME.samples.csv which images each attack leaves, NAME.timings.csv the clocks, NAME.md the
    page. What was evaluated before is not evaluated again, and the same records give the same bytes. Figures of detectors and
    of a camera stand in NAME.detection.csv and NAME.physical.csv. A plan with [[training]] is one of generators: they are
    trained and measured, and nobody is ranked.
    """
    from robustbench_lite.leaderboard.build import build as make
    from robustbench_lite.leaderboard.generators import GeneratorPlan
    from robustbench_lite.leaderboard.page import markdown, shown
    from robustbench_lite.leaderboard.plan import BoardPlan

    target = out or plan.with_suffix(".csv")
    _named_csv(target)
    place = runs / plan.stem
    generators = GeneratorPlan.load(plan)
    if generators is not None:
        _build_generators(generators, target, place, data_root, quiet=quiet, log=log, verbose=verbose)
        return
    given = BoardPlan.load(plan)
    with (
        stoppable(f"what was computed is kept in {place}, and the same command goes on from there"),
        Bars(cells=given.cells, quiet=quiet, log=log, verbose=verbose) as bars,
    ):
        board = make(given, place, data_root=None if data_root is None else str(data_root), reporter=bars, jobs=jobs)
    written = board.write(target, markdown(board, given, target.stem))
    show(shown(board))
    print("Written: " + ", ".join(str(path) for path in written))


def _build_generators(
    plan: "GeneratorPlan",
    target: Path,
    place: Path,
    data_root: Path | None,
    *,
    quiet: bool,
    log: Path | None,
    verbose: bool,
) -> None:
    from robustbench_lite.leaderboard import generators

    with (
        stoppable(f"what was trained and measured is kept in {place}, and the same command goes on from there"),
        Bars(quiet=quiet, log=log, verbose=verbose) as bars,
    ):
        written = generators.build(
            plan, target, place, data_root=data_root, progress=bars.training, begin=bars.begin
        )  # fmt: skip
    _show_generators(target)
    print("Written: " + ", ".join(str(path) for path in written))


def _show_generators(file: Path) -> None:
    from robustbench_lite.leaderboard import generator_table

    for data, part in generator_table.parts(generator_table.read(file)):
        print(data)
        show_frame(part)


@app.command("show", epilog=SHOW_EXAMPLES)
def show_board(file: Annotated[Path, _File]) -> None:
    """Print a leaderboard."""
    if _of_generators([file]):
        _show_generators(file)
        return
    from robustbench_lite.leaderboard.board import Board
    from robustbench_lite.leaderboard.page import shown

    show(shown(Board.read(file)))


@app.command("merge", epilog=MERGE_EXAMPLES)
def merge(
    files: Annotated[list[Path], typer.Argument(metavar="FILE.csv...", help="Leaderboards.", show_default=False)],
    out: Annotated[Path, option("FILE.csv", "Where the leaderboard of all goes.")],
) -> None:
    """Rank the systems of several leaderboards together; of one that stands in several, the last counts.

    They must have been evaluated on the same images. Rows of generators are put together, and nobody is ranked; where NAME.toml
    with [[training]] lies beside --out, rows that no training of it gives are left out.
    """
    _named_csv(out)
    if _of_generators(files):
        from robustbench_lite.leaderboard import generators

        written = generators.merge(files, out)
        _show_generators(out)
        print("Written: " + ", ".join(str(path) for path in written))
        return
    from robustbench_lite.leaderboard.board import Board
    from robustbench_lite.leaderboard.page import page_of, shown

    first, *others = [Board.read(file) for file in files]
    board = first.merged(others)
    board.write(out, page_of(board, out.stem, out.stem, f"Merged from {', '.join(file.name for file in files)};"))
    show(shown(board))


@app.command("diff", epilog=DIFF_EXAMPLES)
def diff(
    before: Annotated[Path, typer.Argument(metavar="FILE.csv", help="What was.", show_default=False)],
    after: Annotated[Path, typer.Argument(metavar="FILE.csv", help="What is.", show_default=False)],
) -> None:
    """Say what is different between two leaderboards; exit code 1 if anything is.

    Whether a difference is more than chance is what rbl check asks.
    """
    if _of_generators([before, after]):
        from robustbench_lite.leaderboard import generator_table

        lines = list(generator_table.changes(generator_table.read(before), generator_table.read(after)))
        print("\n".join(lines) or "nothing is different")
        raise typer.Exit(1 if lines else 0)
    from robustbench_lite.leaderboard.board import Board
    from robustbench_lite.leaderboard.columns import key_of, name_of
    from robustbench_lite.leaderboard.validate import changes

    found = changes(Board.read(before), Board.read(after))
    if found.empty:
        print("nothing is different")
        return
    for row in found.to_dict("records"):
        print(f"{row['what']}: {name_of(key_of(row))}: {row['column']} {row['before']} -> {row['after']}")
    raise typer.Exit(1)


@app.command("validate", epilog=VALIDATE_EXAMPLES)
def validate(
    files: Annotated[list[Path], typer.Argument(metavar="FILE.csv...", help="Leaderboards.", show_default=False)],
) -> None:
    """Compute again what can be, from the samples of each leaderboard; exit code 1 where one says something else.

    What lies beside a leaderboard (NAME.samples.csv and the like) is looked at with it.
    """
    from robustbench_lite.leaderboard.board import belongs_to_another

    wrong = 0
    for file in files:
        if belongs_to_another(file):
            continue
        found = _faults(file)
        wrong += len(found)
        for fault in found:
            complain(f"{file}: {fault}")
        if not found:
            print(f"{file}: sound")
    if wrong:
        raise typer.Exit(1)


def _faults(file: Path) -> list[str]:
    """What is wrong with a leaderboard of either kind."""
    if _of_generators([file]):
        from robustbench_lite.leaderboard import generators

        return list(generators.faults(file))
    from robustbench_lite.leaderboard.validate import faults

    return faults(file)


def _of_generators(files: list[Path]) -> bool:
    """Whether these are tables of generators.

    Raises:
        UserError: some are, and some are not.
    """
    from robustbench_lite.errors import UserError
    from robustbench_lite.leaderboard.generator_table import is_table

    kinds = {file: is_table(file) for file in files}
    if len(set(kinds.values())) == 2:
        one, other = (next(file for file, told in kinds.items() if told is kind) for kind in (True, False))
        raise UserError(f"{str(one)!r} is a table of generators and {str(other)!r} is not; accepted: files of one kind")
    return any(kinds.values())


def _named_csv(path: Path) -> None:
    from robustbench_lite.errors import UserError

    if path.suffix != ".csv":
        raise UserError(f"out={path}; accepted: a file that ends in .csv")
