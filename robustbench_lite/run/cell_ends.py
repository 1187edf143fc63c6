"""What is told of a cell when it ends: its robust accuracy, and that of the system so far."""

from dataclasses import replace

import pandas as pd

from robustbench_lite.run.cell import Cell
from robustbench_lite.run.reporter import CellEnd
from robustbench_lite.run.run_cell import Ran
from robustbench_lite.run.verdict import REASONS, TARGET_IS_LABEL


class CellEnds:
    """The cells of one system under one threat, one after the other."""

    def __init__(self) -> None:
        self._broken: set[int] = set()
        self._cells = 0

    def of(self, cell: Cell, ran: Ran) -> CellEnd:
        """How this cell ended; `worst` counts the samples that some attack broke."""
        told = ended(cell, ran)
        broken = ran.rows["broken"].astype(bool) & ran.rows["valid"].astype(bool)
        self._broken |= set(ran.rows.loc[broken, "index"].astype(int))
        self._cells += 1
        if told.robust is None or self._cells < 2:
            return told
        return replace(told, worst=1 - len(self._broken) / max(told.total, 1))


def ended(cell: Cell, ran: Ran) -> CellEnd:
    """How a cell ended, by its rows."""
    total = len(cell.subject.indices)
    return CellEnd(
        text=text_of(cell),
        total=total,
        ended=len(ran.rows),
        broken=int(ran.rows["broken"].astype(bool).sum()),
        robust=None if ran.failed or cell.threat.eps is None else _robust(ran.rows, total),
        seconds=ran.seconds if ran.computed else None,
        failed=ran.failed,
    )


def text_of(cell: Cell) -> str:
    """The cell in words: attack, model, defense where there is one, threat."""
    subject, blind = cell.subject, ", non-adaptive" if cell.plain or cell.blind else ""
    return f"{cell.attack_text} on {subject.name}, {cell.threat_text}{blind}"


def _robust(rows: pd.DataFrame, total: int) -> float | None:
    """Robust accuracy over the samples that are not left out; None where some have no verdict."""
    counted = rows[rows["reason"] != REASONS[TARGET_IS_LABEL]]
    if len(rows) < total or not len(counted):
        return None
    return 1 - float((counted["broken"].astype(bool) & counted["valid"].astype(bool)).mean())
