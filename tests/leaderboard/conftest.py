"""Small leaderboards by hand: one letter a sample, as in tests/results."""

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from robustbench_lite.leaderboard.board import Board
from robustbench_lite.leaderboard.rows import Told, found_of

_spec = importlib.util.spec_from_file_location("records_by_hand", Path(__file__).parent.parent / "results/conftest.py")
assert _spec is not None
assert _spec.loader is not None
_by_hand = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_by_hand)

MakeBoard = Callable[..., Board]


def make(
    systems: Mapping[str, Mapping[str, str]],
    *,
    flags: Mapping[str, str] | None = None,
    fires: float = 1.0,
    told: Mapping[str, Mapping[str, Any]] | None = None,
    slice: str = "one",
    seconds: float = 1.0,
    columns: Mapping[str, Mapping[str, Any]] | None = None,
    physical: pd.DataFrame | None = None,
) -> Board:
    """`make({"none": {"pgd": "RRB"}})`: defense -> attack -> letters. An attack that ends in `*` is adaptive.

    Args:
        flags: defense -> a check that fires, over 100 images. fires: its value. told: defense -> what the environment says of
            the system.
    """
    frames = []
    for defense, attacks in systems.items():
        for attack, letters in attacks.items():
            frames.append(
                _by_hand.build(
                    {attack.rstrip("*"): letters}, defense=defense, adaptive=attack.endswith("*"), columns=columns
                )
            )
    records = pd.concat(frames, ignore_index=True)
    names = ["dataset", "model", "defense", "threat"]
    timings = records[names].drop_duplicates().assign(seconds=seconds)
    known = {f"small-cnn | {defense}": {"digest": defense, "parameters": 7} for defense in systems}
    for defense, more in (told or {}).items():
        known[f"small-cnn | {defense}"] |= more
    fired = [
        {"dataset": "digits", "model": "small-cnn", "defense": defense, "threat": "Linf:0.2", "diagnostic": flag}
        | {"status": "fired", "value": fires, "detail": "", "n": 100}
        for defense, flag in (flags or {}).items()
    ]
    about = Told(environment={"systems": known, "device": "cpu"}, slice=slice, plan="p", timings=timings)
    about = about if physical is None else replace(about, physical=physical)
    return found_of(records, about, pd.DataFrame(fired)).ranked()


@pytest.fixture(scope="session")
def make_board() -> MakeBoard:
    """See `make`."""
    return make
