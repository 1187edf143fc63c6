"""The gate inside a test suite: `pytest --rbl-baseline FILE.csv`, and the fixture `rbl_evaluate`.

    def test_the_net_stays_robust(rbl_evaluate):
        rbl_evaluate(net, x, y, attacks=["fgsm", "pgd"], threat="Linf:8/255")

Without a baseline the fixture is `robustbench_lite.evaluate`. With one it fails the test where a row is worse than in it,
beyond chance; `--rbl-update` writes what was found into it instead.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from robustbench_lite.run.evaluate import Result


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the gate."""
    group = parser.getgroup("robustbench-lite")
    group.addoption("--rbl-baseline", metavar="FILE.csv", help="leaderboard that rbl_evaluate compares with")
    group.addoption("--rbl-update", action="store_true", help="write what rbl_evaluate finds into it instead")
    group.addoption("--rbl-alpha", type=float, default=0.05, help="chance of a false alarm of one call (0.05)")


@pytest.fixture
def rbl_evaluate(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> "Callable[..., Result]":
    """`robustbench_lite.evaluate`, which fails the test where the baseline was better; see the module."""

    def evaluate(*given: Any, **options: Any) -> "Result":
        from robustbench_lite import evaluate as run

        folder = options.pop("out", None) or tmp_path_factory.mktemp("rbl") / "run"
        result = run(*given, out=folder, **options)
        baseline = request.config.getoption("--rbl-baseline")
        if baseline is not None:
            update, alpha = (request.config.getoption(name) for name in ("--rbl-update", "--rbl-alpha"))
            _compare(Path(baseline), Path(folder), update=update, alpha=alpha)
        return result

    return evaluate


def _compare(baseline: Path, folder: Path, *, update: bool, alpha: float) -> None:
    from robustbench_lite.leaderboard import gate_files
    from robustbench_lite.leaderboard.board import Board
    from robustbench_lite.leaderboard.build import board_of
    from robustbench_lite.leaderboard.columns import key_of
    from robustbench_lite.leaderboard.comparison import Limits
    from robustbench_lite.leaderboard.gate import judge
    from robustbench_lite.leaderboard.page import page_of

    now = board_of(folder)
    if update:
        board = Board.read(baseline).merged([now]) if baseline.exists() else now
        board.write(baseline, page_of(board, baseline.stem, baseline.stem, "Written by pytest --rbl-update;"))
        return
    if not baseline.exists():
        pytest.fail(f"there is no baseline {baseline}; run pytest --rbl-update once", pytrace=False)
    keys = {key_of(row) for row in now.rows.to_dict("records")}
    before = Board.read(baseline).only(keys)
    absent = keys - {key_of(row) for row in before.rows.to_dict("records")}
    if absent:
        pytest.fail(f"{sorted(absent)[0]} is not in {baseline}; run pytest --rbl-update once", pytrace=False)
    judgement = judge(before, now, Limits(alpha=alpha))
    if judgement.alarms:
        pytest.fail(gate_files.text(judgement), pytrace=False)
