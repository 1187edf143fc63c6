"""A builder of small records by hand: one letter a sample, so that a test shows the whole story in a line."""

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import pandas as pd
import pytest

COLUMNS = (
    *("dataset", "model", "defense", "threat", "attack", "adaptive", "index", "label", "clean_prediction"),
    *("prediction", "broken", "valid", "reason", "linf", "l2", "l1", "l0", "margin", "forwards", "backwards"),
    *("norm", "eps", "target", "target_hit", "rejected", "score", "clean_score", "draws", "break_rate"),
    *("broken_8bit", "seed", "lane", "break_forward", "key", "shape", "denied"),
)
# letter: clean right, broken, valid, reason
LETTERS = {
    "R": (True, False, True, ""),  # robust
    "B": (True, True, True, ""),  # broken
    "W": (False, True, True, "clean-wrong"),
    "I": (True, False, False, "outside-threat"),
    "L": (True, False, True, "target-is-label"),  # left out
    "F": (True, False, False, "failed"),
    "N": (True, True, True, "nan-scores"),
}
MakeRecords = Callable[..., pd.DataFrame]


def _eps(threat: str) -> float:
    _, colon, eps = threat.partition(":")
    return float(Fraction(eps)) if colon else math.nan


def build(
    outcomes: Mapping[str, str],
    *,
    dataset: str = "digits",
    model: str = "small-cnn",
    defense: str = "none",
    threat: str = "Linf:0.2",
    adaptive: bool = False,
    columns: Mapping[str, Mapping[str, Sequence[Any] | Any]] | None = None,
) -> pd.DataFrame:
    """Records of one system: attack -> a letter of LETTERS for each sample (a space: no row for that sample).

    Args:
        columns: attack -> column -> a value, or one for each row; replaces what is made up here.
    """
    norm = threat.partition(":")[0]
    frames = []
    for attack, letters in outcomes.items():
        rows = []
        for index, letter in enumerate(letters):
            if letter == " ":
                continue
            right, broken, valid, reason = LETTERS[letter]
            attacked = letter not in "WL"
            label = index % 10
            rows.append(
                dict.fromkeys(COLUMNS, 0.0)
                | {"dataset": dataset, "model": model, "defense": defense, "threat": threat, "attack": attack}
                | {"adaptive": adaptive, "index": index, "label": label, "broken": broken, "valid": valid}
                | {"reason": reason, "clean_prediction": label if right else (label + 1) % 10}
                | {"prediction": (label + 1) % 10 if broken else label}
                | dict.fromkeys(("linf", "l2", "l1", "l0"), 0.1 if letter == "B" else 0.0)
                | {"forwards": 10 * attacked, "backwards": 5 * attacked, "norm": norm, "eps": _eps(threat)}
                | {"target": -1, "target_hit": False, "rejected": False, "score": math.nan, "clean_score": math.nan}
                | {"draws": 1, "break_rate": float(broken), "broken_8bit": broken, "seed": 0, "lane": 0}
                | {"break_forward": 3 if letter == "B" else -1, "shape": "1x8x8", "denied": 0}
                | {"key": f"{model}/{defense}/{threat}/{attack}/{adaptive}"}
            )
        frame = pd.DataFrame(rows, columns=COLUMNS)
        for name, values in (columns or {}).get(attack, {}).items():
            frame[name] = values
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


@pytest.fixture(scope="session")
def make_records() -> MakeRecords:
    """`make_records({"fgsm": "RRBW", "pgd": "RBBW"})`; see `build`."""
    return build
