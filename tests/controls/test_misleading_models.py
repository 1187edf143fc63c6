"""Misleading models are told, and honest systems are not accused; the whole tables are `lies.py` and `honest_runs.py`."""

from itertools import islice

import pytest
from controls.honest_runs import GROUPS, fired
from controls.lies import CASES, Case

#: one of every check, and those that were hardest to find
QUICK = {
    *("memory in a global", "another network from 16 images on", "noise of a fixed seed", "a counter in a buffer"),
    *("an attack asks, but for checks", "a detector of images off the grid", "slopes that are NaN"),
}


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case.name, marks=[] if case.name in QUICK else [pytest.mark.slow]) for case in CASES]
)
def test_a_misleading_model_is_told(case: Case) -> None:
    assert case.run() & case.told


@pytest.mark.parametrize("group, first, every", [("digits", 0, 1), ("coarse", 0, 4), ("odd", 2, 4), ("slices", 0, 9)])
def test_an_honest_system_is_not_accused(group: str, first: int, every: int) -> None:
    for honest in islice(GROUPS[group](), first, first + 3 * every, every):
        assert fired(honest) == {}, honest.name
