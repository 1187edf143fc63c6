"""The checks of a system after its attacks: made in what memory there is, and kept beside the records.

A run that only looks records up makes none again: what the checks found belongs to the numbers as they were computed.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import torch

from robustbench_lite.attack import needs_of, resolve_attack
from robustbench_lite.cache import atomic_write, writing
from robustbench_lite.errors import ModelError
from robustbench_lite.hashing import hash_json
from robustbench_lite.hashing.values import hash_plugin
from robustbench_lite.results.claims import known
from robustbench_lite.results.diagnostics import Diagnostic, Status, unchecked
from robustbench_lite.results.thresholds import THRESHOLDS
from robustbench_lite.run.budget import LEAST, Budget
from robustbench_lite.run.cell import Cell
from robustbench_lite.run.probes import PROBES, PROBING, probe_subject
from robustbench_lite.run.reporter import Reporter
from robustbench_lite.run.run_cell import Ran
from robustbench_lite.run.subject import Subject
from robustbench_lite.run.tape import Tape
from robustbench_lite.run.trial import smaller
from robustbench_lite.threat import Threat

#: raised when a check changes in a way that could change what it finds
CHECKS = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Attempt:
    """The attacks on one system under one threat, and what they left.

    Args:
        cells: the attacks, and what came of them. left: of each the adversarial examples that are kept, by index.
        tape: what the attacks asked.
    """

    subject: Subject
    threat: Threat
    threat_text: str
    cells: Sequence[tuple[Cell, Ran]]
    left: Sequence[Mapping[int, np.ndarray]]
    tape: Tape

    @property
    def digest(self) -> str:
        """The content address of what the checks find."""
        return hash_json(
            {
                "checks": CHECKS,
                "cells": [cell.key for cell, _ in self.cells],
                "images": self.subject.indices.tolist(),
                "left": [sorted(images) for images in self.left],
                "attacks": [hash_plugin(resolve_attack(text))[0] for text in PROBING],
            }
        )

    @property
    def looked_up(self) -> bool:
        """Whether every row was there before."""
        return not any(ran.computed or ran.failed for _, ran in self.cells)


def checked(attempt: Attempt, folder: Path | None, reporter: Reporter, seconds: float) -> list[Diagnostic]:
    """What an earlier run found where this one has computed nothing; else what is found now.

    Args:
        folder: where that is kept; None where it is not. seconds: what the checks may cost.
    """
    path = None if folder is None else folder / f"{attempt.digest}.json"
    if path is not None and attempt.looked_up and (found := _read(path)) is not None:
        return found
    found = _made(attempt, reporter, seconds)
    if path is not None and not any(one.for_now for one in found) and not any(ran.failed for _, ran in attempt.cells):
        told = [asdict(one) for one in found]
        with writing(path.parent.parent):
            atomic_write(path, json.dumps({"checks": told, "digest": _digest(path, told)}).encode())
    return found


def _made(attempt: Attempt, reporter: Reporter, seconds: float) -> list[Diagnostic]:
    """The probes, with ever smaller micro-batches while the memory does not do."""

    def tell(name: str, place: int) -> None:
        reporter.progress(name, place + 1, len(PROBES), 0, 0, place / len(PROBES))

    reporter.begin(f"checks on {attempt.subject.name}, {attempt.threat_text}", 0)
    subject, tape, budget = attempt.subject, attempt.tape, Budget(max(seconds, LEAST), tell=tell)
    rows = [ran.rows for _, ran in attempt.cells]
    left = list(zip(rows, attempt.left, strict=True))
    own = [known(pd.concat(filled))] if (filled := [frame for frame in rows if len(frame)]) else []
    if subject.bare is not None:  # the gradients of the system itself; what cameras break is no sign of masking
        subject, own, left = replace(subject.bare, shapes=subject.shapes), [], []
        tape = Tape(subject=subject)
    needs = {cell.attack_text: needs_of(cell.attack).value for cell, _ in attempt.cells}
    room: Subject | None = subject
    why = ""
    while room is not None:
        try:
            return probe_subject(room, attempt.threat, attempt.threat_text, own, needs, budget, left=left, tape=tape)
        except torch.OutOfMemoryError:
            why = "out of memory"
        except ModelError as error:
            why = str(error)
            break
        room = smaller(room, reporter)
    return [unchecked(name, why, for_now=True) for name in PROBES]


def _read(path: Path) -> list[Diagnostic] | None:
    """What is kept there; None if it cannot be read, or is not as it was written."""
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        if held["digest"] != _digest(path, held["checks"]):
            return None
        found = [Diagnostic(**one) for one in held["checks"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return found if found and all(_is_finding(one) for one in found) else None


def _is_finding(one: Diagnostic) -> bool:
    """Whether a check is one of ours, and says of it what can be said."""
    known = one.name in THRESHOLDS and one.status in get_args(Status) and isinstance(one.detail, str)
    return known and type(one.value) in (int, float) and type(one.n) is int and one.for_now is False


def _digest(path: Path, told: object) -> str:
    """Of what a file tells, and of what it tells it: under another's name it is not believed."""
    return hash_json([path.stem, told])
