"""All runs of an attack on one system under one threat, each in as much room as the memory has."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from robustbench_lite.attack import Attack, needs_of
from robustbench_lite.run.cell import Cell
from robustbench_lite.run.cell_ends import text_of
from robustbench_lite.run.plan import Plan
from robustbench_lite.run.records import Records
from robustbench_lite.run.reporter import Reporter
from robustbench_lite.run.run_cell import Ran, run_cell
from robustbench_lite.run.setting import Setting
from robustbench_lite.run.subject import Subject
from robustbench_lite.run.tries import Try, tries
from robustbench_lite.task import task_of
from robustbench_lite.threat import Threat

_LOGGER = logging.getLogger(__name__)
Held = Callable[[str], frozenset[int]]
Keep = Callable[[str, dict[int, np.ndarray]], object]


def _forget(key: str, examples: dict[int, np.ndarray]) -> None:
    """Keeps nothing."""


def trial(
    setting: Setting,
    subject: Subject,
    attacks: Mapping[str, Attack],
    threat: Threat,
    threat_text: str,
    records: Records,
    held: Held,
    reporter: Reporter,
    keep: Keep = _forget,
) -> Iterator[tuple[Cell, Ran]]:
    """Run the attacks, as often as the plan has them run; what the records know is not computed again.

    Args:
        held: key -> indices of the examples of a cell that are kept. keep: (key, examples) keeps more of them.
    """
    for one in tries(setting.plan, subject, attacks, threat):
        cell = _cell_of(one, setting, subject, threat, threat_text)
        cell, ran = _with_room(cell, records, reporter, held, keep)
        subject = cell.subject
        yield cell, ran


def planned_cells(
    setting: Setting, subject: Subject, attacks: Mapping[str, Attack], threat: Threat, threat_text: str
) -> Iterator[Cell]:
    """The cells that `trial` is about to run, if the memory does."""
    for one in tries(setting.plan, subject, attacks, threat):
        yield _cell_of(one, setting, subject, threat, threat_text)


def _cell_of(one: Try, setting: Setting, subject: Subject, threat: Threat, threat_text: str) -> Cell:
    plan = setting.plan
    return Cell(
        subject=subject,
        attack=one.attack.under(threat, subject.system.num_classes),
        attack_text=one.text,
        threat=threat,
        threat_text=threat_text,
        early_exit=plan.early_exit and not task_of(plan.task).reconstructs,
        precision="float32" if subject.reduced is None else plan.precision,
        targets=setting.targets,
        keep=_keep(plan, len(subject.indices)),
        eot=one.eot,
        blind=one.blind,
        plain=one.plain,
    )


def clock_of(cell: Cell, ran: Ran) -> dict[str, Any]:
    """The row of the timings that a cell has."""
    subject = cell.subject
    return {
        "model": subject.model,
        "defense": subject.defense,
        "threat": cell.threat_text,
        "attack": cell.attack_text,
        "dataset": subject.data.name,
        "needs": needs_of(cell.attack).value,
        "key": cell.key,
        "expected": len(subject.indices),
        "seconds": ran.seconds,
        "busy_seconds": ran.busy_seconds,
        "unit_forward": subject.units.forward,
        "unit_gradient": subject.units.gradient,
        "setup_seconds": ran.setup_seconds,
        "setup_queries": ran.setup_queries,
        "batch_size": subject.shapes.most,
        "floor": subject.shapes.floor,
        "failed": ran.failed,
        "stages": json.dumps(ran.stages) if len(cell.attack.stages()) > 1 else "",
    }


def unstarted(
    setting: Setting, model: str, defense: str, threat_text: str, attack_text: str, attack: Attack
) -> dict[str, Any]:
    """The same of a cell that could not begin."""
    names = {"model": model, "defense": defense, "threat": threat_text, "attack": attack_text}
    clocks = {"seconds": 0.0, "setup_seconds": 0.0, "setup_queries": 0.0, "batch_size": 0, "floor": 0, "stages": ""}
    known = {"dataset": setting.data.name, "needs": needs_of(attack).value, "expected": len(setting.indices), "key": ""}
    return {**names, **known, **clocks}


def _with_room(cell: Cell, records: Records, reporter: Reporter, held: Held, keep: Keep) -> tuple[Cell, Ran]:
    """Run the cell, with ever smaller micro-batches while the memory does not do; a new floor is a new key."""
    while True:
        subject = cell.subject
        reporter.begin(text_of(cell), len(subject.indices))
        _LOGGER.info(
            "micro-batches of %d, in blocks of %d, on %s", subject.shapes.most, subject.shapes.floor, subject.device
        )
        try:
            told = (reporter.note, reporter.progress, partial(keep, cell.key))
            return cell, run_cell(cell, records, reporter.advance, held(cell.key), *told)
        except torch.OutOfMemoryError as error:
            failed = f"out of memory with one image at a time: {error}"
        less = smaller(subject, reporter)
        if less is None:
            return cell, Ran(rows=records.rows(cell.key), failed=failed)
        cell = replace(cell, subject=less)


def smaller(subject: Subject, reporter: Reporter) -> Subject | None:
    """The subject in smaller micro-batches, after the memory ran out; None where one image did not fit either."""
    shapes = subject.shapes.smaller()
    if shapes is None:
        return None
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    reporter.note(f"out of memory; going on with micro-batches of {shapes.most}")
    return replace(subject, shapes=shapes)


def _keep(plan: Plan, count: int) -> frozenset[int]:
    every = plan.examples == "all" or plan.physical is not None or task_of(plan.task).reconstructs
    return frozenset(range(count if every else min(int(plan.examples), count)))
