"""The smaller tables of the page: what `results` has as frames already, with heads and forms for its columns."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pandas as pd

from robustbench_lite.results.claimed import knows
from robustbench_lite.results.detection import SHOWN
from robustbench_lite.results.grid import amount, percent
from robustbench_lite.results.page.tables import Cell, Column, Row, Table, spec, system_of
from robustbench_lite.results.run_data import RunData

Form = Callable[[Any], str]
Forms = Mapping[str, Form]
#: heads that are not the column's name
_NAMES = {
    **{"adaptive": "adversary", "auc": "AUC", "tpr_at_5": "TPR at 5 % FPR", "tpr_at_1": "TPR at 1 % FPR"},
    **{"clean_acc": "clean", "robust_acc": "robust", "p_holm": "p (Holm)", "gap_at_least": "gap at least (95 %)"},
    **{"widest_by": "furthest apart", "widest_plain": "plain", "widest_adaptive": "adaptive"},
}
#: pairs that are all told
_PAIRS = 300


def frames(run: RunData) -> dict[str, Table | None]:
    """The tables by name: claims, pairs, stages, detection, physical, reconstruction; None for what the run has not."""
    caption, pairs = _pairs(run.comparisons)
    told = {
        "claims": ("Claimed and actual robust accuracy in %", run.claims, CLAIMS),
        "pairs": (caption, pairs, PAIRS),
        "stages": ("Components of cascades", run.stages, STAGES),
        "detection": ("Detection in %", run.detection, DETECTION),
        "physical": ("Behind the camera", run.physical, PHYSICAL),
        "reconstruction": ("What comes back", run.reconstruction, RECONSTRUCTION),
    }
    return {name: _of_frame(*one) if len(one[1]) else None for name, one in told.items()}


def _pairs(pairs: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """A caption and the pairs; of very many only those with the first defense of each model."""
    if len(pairs) <= _PAIRS:
        return "Pairs of defenses, by image", pairs
    first = pairs[pairs["first"] == pairs.groupby("model")["first"].transform("first")]
    return f"Pairs with the first defense of each model; all {len(pairs)} are in comparisons.csv", first


def _of_frame(caption: str, frame: pd.DataFrame, forms: Forms) -> Table:
    """A table of these columns, as far as the frame has them; model and defense are one."""
    chosen = {name: form for name, form in forms.items() if name in frame.columns}
    joined = "model" in chosen and "defense" in chosen
    rest = {name: form for name, form in chosen.items() if not (joined and name in ("model", "defense"))}
    head = [Column(name="system", number=False)] if joined else []
    columns = (
        *head,
        *(
            Column(name=_NAMES.get(name, name.replace("_", " ")), number=form not in (str, _yes))
            for name, form in rest.items()
        ),
    )
    rows = tuple(
        Row(cells=(*((system_of(row),) if joined else ()), *_cells(row, rest)), **_where(row))
        for row in frame.to_dict("records")
    )
    return Table(caption=caption, columns=columns, rows=rows)


def _cells(row: Mapping[Any, Any], forms: Forms) -> Iterator[Cell]:
    for name, form in forms.items():
        yield spec(row[name]) if form is str else form(row[name])


def _where(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {"dataset": str(row.get("dataset", "")), "threat": str(row.get("threat", ""))}


def _or_same(value: float) -> str:
    return "=" if math.isnan(value) else percent(value)


def _signed(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:+.1f}"


def _whole(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.0f}"


def _fine(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _p(value: float) -> str:
    return "-" if math.isnan(value) else "< 0.0001" if value < 1e-4 else f"{value:.2g}"


def _yes(value: object) -> str:
    return "knows the defense" if knows(value) else "plain"


_SYSTEM: Forms = {"model": str, "defense": str, "threat": str}
CLAIMS: Forms = {
    **_SYSTEM,
    **{"clean_acc": percent, "claimed": _or_same, "claimed_by": str, "actual": percent, "gap": percent},
    **{"gap_at_least": percent, "p": _p, "widest_by": str, "widest_plain": percent, "widest_adaptive": percent},
}
PAIRS: Forms = {
    **{"model": str, "threat": str, "first": str, "second": str, "n": _whole},
    **{"difference": _signed, "only_first": _whole, "only_second": _whole, "p": _p, "p_holm": _p},
}
STAGES: Forms = {
    **_SYSTEM,
    **{"attack": str, "stage": str, "attacked": _whole, "broken": _whole, "robust_acc": percent},
    **{"forwards": amount, "backwards": amount, "seconds": amount},
}
DETECTION: Forms = {
    **_SYSTEM,
    **{"attack": str, "adaptive": _yes, "auc": _fine, "clean_rejected": percent},
    **dict.fromkeys(SHOWN, percent),
}
PHYSICAL: Forms = {
    **_SYSTEM,
    **{"attack": str, "adaptive": _yes, "n": _whole, "draws": _whole},
    **{"accuracy": percent, "adversariality": percent, "destruction": percent},
}
RECONSTRUCTION: Forms = {
    **{"model": str, "threat": str, "attack": str, "n": _whole},
    **{"as_target": percent, "left_source": percent, "nearer_target": percent},
    **{"l2": amount, "to_target": amount, "to_source": amount},
}
