"""The rows of a cell in the records."""

from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from robustbench_lite.run.cascade import Settled
from robustbench_lite.run.cell import Cell
from robustbench_lite.run.outcomes import Outcome
from robustbench_lite.run.records import COLUMNS
from robustbench_lite.run.stages import told
from robustbench_lite.run.verdict import CLEAN_WRONG, REASONS


def ended_rows(cell: Cell, key: str, outcome: Outcome) -> pd.DataFrame:
    """Rows of samples whose attack is over, in the columns of `records.COLUMNS`."""
    verdict = outcome.verdict.to("cpu")
    positions = outcome.sample.cpu()
    norms = verdict.norms.numpy()
    values = _common(cell, key, positions) | {
        "prediction": verdict.prediction.numpy(),
        "broken": verdict.broken.numpy(),
        "valid": verdict.valid.numpy(),
        "reason": [REASONS[code] for code in verdict.reason.tolist()],
        **{name: norms[:, column] for column, name in enumerate(("linf", "l2", "l1", "l0"))},
        "margin": verdict.margin.numpy(),
        "forwards": outcome.forwards.cpu().numpy(),
        "backwards": outcome.backwards.cpu().numpy(),
        "target": outcome.target.cpu().numpy(),
        "target_hit": verdict.target_hit.numpy(),
        "rejected": verdict.rejected.numpy(),
        "score": verdict.score.numpy(),
        "draws": cell.draws,
        "break_rate": verdict.break_rate.numpy(),
        "broken_8bit": verdict.broken_8bit.numpy(),
        "lane": outcome.lane.cpu().numpy(),
        "break_forward": outcome.break_forward.cpu().numpy(),
        "denied": outcome.denied.cpu().numpy(),
        "source_prediction": _numbers(outcome.source_prediction, -1),
        "source_broken": _numbers(outcome.source_broken, False),
        "witness": "" if outcome.witness is None else cell.threat.tell(outcome.witness),
        **told([str(stage) for stage in cell.attack.stages()], outcome),
    }
    return pd.DataFrame(values)[list(COLUMNS)]


def _numbers(column: Tensor | None, otherwise: int | bool) -> Any:
    return otherwise if column is None else column.cpu().numpy()


def settled_rows(cell: Cell, key: str, part: Settled) -> pd.DataFrame:
    """Rows of samples that nobody attacks: wrong on the clean image (broken at norm 0), or left out."""
    positions, reason = part.positions, part.reason
    clean = cell.subject.clean[positions]
    wrong = reason == CLEAN_WRONG
    values = _common(cell, key, positions) | {
        "prediction": clean.prediction.numpy(),
        "broken": wrong,
        "valid": True,
        "reason": ["nan-scores" if nan else REASONS[reason] for nan in clean.nan.tolist()],
        **dict.fromkeys(("linf", "l2", "l1", "l0"), 0.0),
        "margin": clean.margin.numpy(),
        "forwards": 0,
        "backwards": 0,
        "target": -1,
        "target_hit": False,
        "rejected": clean.rejected.numpy(),
        "score": clean.score.numpy(),
        "draws": cell.draws,
        "break_rate": float(wrong),
        "broken_8bit": wrong,
        "lane": 0,
        "break_forward": 0 if wrong else -1,
        "denied": 0,
        "source_prediction": _numbers(part.source, -1),
        "source_broken": False,
        "witness": "",
        "stage": "",
        "stages": "",
    }
    return pd.DataFrame(values)[list(COLUMNS)]


def _common(cell: Cell, key: str, positions: Tensor) -> dict[str, Any]:
    subject = cell.subject
    clean = subject.clean[positions]
    return _names(cell) | {
        "index": subject.indices[positions.numpy()],
        "label": subject.labels[positions].numpy(),
        "clean_prediction": clean.prediction.numpy(),
        "norm": cell.threat.norm,
        "eps": np.nan if cell.threat.eps is None else cell.threat.eps,
        "clean_score": clean.score.numpy(),
        "seed": subject.seed,
        "key": key,
        "shape": "x".join(str(side) for side in subject.data.shape),
    }


def _names(cell: Cell) -> dict[str, Any]:
    subject = cell.subject
    return {
        "dataset": subject.data.name,
        "model": subject.model,
        "defense": subject.defense,
        "threat": cell.threat_text,
        "attack": cell.attack_text,
        "adaptive": cell.adaptive,
    }


def named(cell: Cell, rows: pd.DataFrame) -> pd.DataFrame:
    """Rows that another plan may have computed, under this plan's names, in the order of the index."""
    return rows.assign(**_names(cell))[list(COLUMNS)].reset_index(drop=True)
