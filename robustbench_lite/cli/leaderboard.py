"""`rbl leaderboard`: tables that are made from records by a plan, never by hand."""

import math
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
  rbl leaderboard validate leaderboards/mnist-linf-0.3.csv --spot 20 --data-root DIR
"""
SEAL_EXAMPLES = """\b
Examples:
  rbl leaderboard seal leaderboards/digits-linf.csv
  rbl leaderboard seal leaderboards/digits-linf.csv --changed digest
"""

#: images of a row that a spot check names
_TOLD = 5

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
    """Say what is different between two leaderboards, edited ones too; exit code 1 if anything is.

    Whether a difference is more than chance is what rbl check asks.
    """
    if _of_generators([before, after]):
        from robustbench_lite.leaderboard import generator_table

        tables = (generator_table.read(file, edited=True) for file in (before, after))
        lines = list(generator_table.changes(*tables))
        print("\n".join(lines) or "nothing is different")
        raise typer.Exit(1 if lines else 0)
    from robustbench_lite.leaderboard.board import Board
    from robustbench_lite.leaderboard.columns import key_of, name_of
    from robustbench_lite.leaderboard.validate import changes

    found = changes(Board.read(before, edited=True), Board.read(after, edited=True))
    if found.empty:
        print("nothing is different")
        return
    for row in found.to_dict("records"):
        print(f"{row['what']}: {name_of(key_of(row))}: {row['column']} {row['before']} -> {row['after']}")
    raise typer.Exit(1)


@app.command("validate", epilog=VALIDATE_EXAMPLES)
def validate(
    files: Annotated[list[Path], typer.Argument(metavar="FILE.csv...", help="Leaderboards.", show_default=False)],
    spot: Annotated[
        int, typer.Option(metavar="N", min=0, help="Random images of each row that are run again.", show_default=False)
    ] = 0,
    seed: Annotated[int | None, option("N", "Which images --spot draws. [default: others each time]")] = None,
    budget: Annotated[
        float,
        option(
            "QUERIES", "Queries an image that --spot spends; beyond, the cheapest strong attack alone.", default=10000
        ),
    ] = 10000.0,
    train: Annotated[bool, typer.Option("--train", help="Also check rows that are trained on the spot.")] = False,
    data_root: DataRoot = None,
    quiet: Quiet = False,
) -> None:
    """Compute again what can be, and notice every other edit; exit code 1 where one says something else.

    Accuracies, intervals, marks and ranks are computed again from NAME.samples.csv, the page from plan and table. What cannot
    be computed again (flags, queries, seeds, digests) is held against the column `evidence`, which finds slips and careless
    edits; whoever means to forge a table can compute it anew.

    With --spot, random images of each row are run again: the weights must be those of the row, clean answers must be the same,
    what its attacks have broken must break again, and what they left must hold. Rows that are trained on the spot have other
    weights on another processor, and are left out unless --train is given.
    """
    from robustbench_lite.errors import UserError
    from robustbench_lite.escaping import printable
    from robustbench_lite.leaderboard.files import belongs_to_another

    if not 0 < budget < math.inf:
        raise UserError(f"budget={budget:g}; accepted: a number above 0")
    if seed is not None and seed < 0:
        raise UserError(f"seed={seed}; accepted: a whole number from 0")
    drawn = secrets.randbelow(10**6) if seed is None else seed
    wrong = 0
    for file in files:
        if belongs_to_another(file):
            continue
        found = _faults(file)
        wrong += len(found)
        for fault in found:
            complain(f"{file}: {printable(fault)}")
        if not found:
            print(f"{file}: sound")
            if spot and not _of_generators([file]):
                options = {"count": spot, "seed": drawn, "budget": budget, "train": train, "data_root": data_root}
                wrong += _spot(file, options, quiet=quiet)
    if wrong:
        raise typer.Exit(1)


def _spot(file: Path, options: dict[str, Any], *, quiet: bool) -> int:
    """Check random images of every row; how many faults there are."""
    from robustbench_lite.leaderboard.spot import Spot
    from robustbench_lite.leaderboard.spot import spot as check

    wrong, checked, given, out = 0, 0, Spot(**options), sys.stdout  # which user's code is not given inside
    print(f"{file}: {given.count} random images of each row, drawn with --seed {given.seed}")
    with stoppable("nothing is kept of a spot check"), Bars(quiet=quiet) as bars:
        for finding in check(file, given, bars):
            if finding.skipped:
                print(f"  not checked: {finding.who}: {finding.skipped}", file=out)
                continue
            checked, wrong = checked + 1, wrong + len(finding.faults)
            for fault in finding.faults[:_TOLD]:
                complain(f"{file}: {finding.who}: {fault}")
            if len(finding.faults) > _TOLD:
                complain(f"{file}: {finding.who}: and {len(finding.faults) - _TOLD} more images")
            print(f"  {'differs' if finding.faults else 'agrees'}: {finding.who}: {'; '.join(finding.notes)}", file=out)
    if not checked:
        complain(f"{file}: no row could be checked")
        return 1
    return wrong


@app.command("seal", epilog=SEAL_EXAMPLES)
def seal(
    files: Annotated[list[Path], typer.Argument(metavar="FILE.csv...", help="Leaderboards.", show_default=False)],
    changed: Annotated[
        list[str] | None, option("COLUMN", "A column that was changed on purpose since it was built; may be repeated.")
    ] = None,
) -> None:
    """Add the column `evidence` to leaderboards that have none.

    One that validate finds fault with is refused. Where there is evidence already, it is written anew only if nothing but the
    columns named by --changed is different from what was built.
    """
    from robustbench_lite.leaderboard.files import belongs_to_another

    for file in files:
        if belongs_to_another(file):
            continue
        if _of_generators([file]):
            from robustbench_lite.leaderboard.generators import seal as write
        else:
            from robustbench_lite.leaderboard.validate import seal as write
        written = write(file, changed or ())
        print(f"{file}: {'sealed' if written else 'its evidence is in order'}")


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
