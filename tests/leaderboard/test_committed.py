"""The leaderboards of the repository say what their samples, plans and pages say."""

from pathlib import Path

import pytest

from robustbench_lite.leaderboard import generator_table, generators
from robustbench_lite.leaderboard.files import belongs_to_another
from robustbench_lite.leaderboard.validate import faults

FOLDER = Path(__file__).parents[2] / "leaderboards"
BOARDS = sorted(path for path in FOLDER.glob("*.csv") if not belongs_to_another(path))


@pytest.mark.parametrize("path", BOARDS, ids=[path.stem for path in BOARDS])
def test_a_leaderboard_is_sound_and_has_its_plan(path: Path):
    assert path.with_suffix(".toml").exists()
    assert (list(generators.faults(path)) if generator_table.is_table(path) else faults(path)) == []
