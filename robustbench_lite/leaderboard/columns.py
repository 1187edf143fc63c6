"""What stands in a leaderboard: the columns of NAME.csv, and of the files beside it."""

import math
from collections.abc import Mapping
from typing import Any

from robustbench_lite.escaping import printable

#: dataset, threat, model, defense: who a row is about
Key = tuple[str, str, str, str]
#: before the attacks, and after them
BEFORE = (
    *("rank", "mark", "model", "defense", "training", "architecture", "parameters", "dataset", "threat", "n"),
    *("clean", "clean_low", "clean_high"),
)
AFTER = (
    *("claimed", "adaptive", "worst_case", "worst_low", "worst_high", "best_known", "best_known_source"),
    *("flags", "queries", "seeds", "seed_spread", "digest", "slice", "plan"),
)
#: who a row is about
KEY = ("dataset", "threat", "model", "defense")
#: NAME.timings.csv: what differs from machine to machine
TIMINGS = (*KEY, "seconds", "seconds_per_sample", "cost", "device")
#: NAME.samples.csv: which images each attack leaves, a hexadecimal digit for four of them, the first in its highest bit; and
#: the queries an image that it took
SAMPLES = (*KEY, "attack", "adaptive", "n", "left", "queries")
#: what else is measured where there is something to measure: NAME.detection.csv, of detectors; NAME.physical.csv, of a camera
BESIDE = {
    "detection": (
        *(*KEY, "attack", "adaptive", "n", "negatives", "positives", "auc", "tpr_at_5", "tpr_at_1", "clean_rejected"),
        *("robust_acc", "wrong_accepted", "wrong_rejected"),
    ),
    "physical": (
        *(
            *KEY,
            "attack",
            "adaptive",
            "n",
            "draws",
            "right_without_camera",
            "accuracy",
            "accuracy_sd",
            "adversariality",
        ),
        *("adversariality_sd", "destruction", "destruction_low", "destruction_high", "destroyable"),
    ),
}
#: what stands last in NAME.csv, and in the files of which it is made; see `evidence`
EVIDENCE = "evidence"
#: NAME.csv itself, among the files of a leaderboard; and the files that carry evidence
ROWS = "rows"
SEALED = (ROWS, "samples", *BESIDE)
#: columns whose cells are words; all others are numbers
TEXTS = frozenset(
    {
        *(*KEY, "mark", "training", "architecture", "best_known_source", "flags", "digest", "slice", "plan", "device"),
        *("attack", "adaptive", "left", EVIDENCE, "generator", "data", "kind", "setting", "source"),
    }
)
#: what each check found in a run; no file of a leaderboard, whose column `flags` has the names of those that fired
CHECKS = (*KEY, "diagnostic", "status", "value", "n")
#: what the column `attack` of the samples says of the clean images, and of the worst case
CLEAN, WORST = "clean", "worst-case"
#: what is wrong with a row, in its column `mark`
FLAGGED, NOT_ADAPTIVE, UNFINISHED = "flagged", "no adaptive result", "unfinished"
#: the check that is a mark of its own: a system that answers by place or company has no number that others can be ranked by
ORDER = "order-dependent"


def attacks_of(columns: list[str]) -> list[str]:
    """The columns that are attacks, in their order."""
    return [name for name in columns if name not in (*BEFORE, *AFTER, EVIDENCE)]


def key_of(row: Mapping[Any, Any]) -> Key:
    """Who a row is about."""
    dataset, threat, model, defense = (str(row[name]) for name in KEY)
    return dataset, threat, model, defense


def name_of(key: Key) -> str:
    """The same in words, for a terminal too."""
    dataset, threat, model, defense = map(printable, key)
    return f"{model}, {defense} · {dataset} · {threat}"


def suspect(flags: str) -> list[str]:
    """The flags, joined by `;`, that say something against a figure: not what a plain attacker alone is blind to.

    `order-dependent` is a mark of its own.
    """
    return [flag for flag in flags.split(";") if flag and flag != ORDER and not flag.startswith("plain-")]


def marks(flags: str, *, unfinished: bool, not_adaptive: bool) -> str:
    """The column `mark` of a row with these flags."""
    told = {
        UNFINISHED: unfinished, NOT_ADAPTIVE: not_adaptive, FLAGGED: bool(suspect(flags)),
        ORDER: ORDER in flags.split(";"),
    }  # fmt: skip
    return "; ".join(mark for mark, there in told.items() if there)


def ranks(mark: str) -> bool:
    """Whether a row with this mark has a rank."""
    return ORDER not in mark.split("; ")


def number_of(cell: object) -> float:
    """The figure in a cell, as it was computed or as text of a file; NaN where there is none."""
    return math.nan if str(cell) in ("", "nan") else float(str(cell))
