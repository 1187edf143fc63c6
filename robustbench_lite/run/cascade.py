"""What is computed of a cell: what needs no attack, then the stages of the attack, each on what those before left."""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from robustbench_lite.attack import Asker, Attack, Goal, Learned, Setup, prepares
from robustbench_lite.run.cell import Cell, left_out
from robustbench_lite.run.engine import Search, search
from robustbench_lite.run.finished_stages import FinishedStages
from robustbench_lite.run.outcomes import Outcome
from robustbench_lite.run.progress import CellProgress
from robustbench_lite.run.records import Records
from robustbench_lite.run.stages import better, billed, leaving
from robustbench_lite.run.subject import load
from robustbench_lite.run.verdict import CLEAN_WRONG, TARGET_IS_LABEL, judge, look, pictured
from robustbench_lite.system import System

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Settled:
    """Samples that nobody attacks, and why; what the system says of them that examples are made on, if there is one."""

    positions: Tensor
    reason: int
    source: Tensor | None = None

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def broken(self) -> int:
        return len(self) if self.reason == CLEAN_WRONG else 0


@dataclass(frozen=True, kw_only=True)
class Ended:
    """Samples whose attack is over."""

    outcome: Outcome

    def __len__(self) -> int:
        return len(self.outcome)

    @property
    def broken(self) -> int:
        return int(self.outcome.verdict.broken.sum())


class Spare(Ended):
    """Samples that were settled before, and attacked all the same: their examples are kept, and no rows."""

    def __len__(self) -> int:
        return 0

    @property
    def broken(self) -> int:
        return 0


Part = Settled | Ended


def computed(
    cell: Cell, key: str, todo: Tensor, records: Records, finished: FinishedStages, progress: CellProgress
) -> Iterator[Part]:
    """Rows of the positions `todo`: those that are settled before any attack, then the attacked ones as they end.

    Args:
        finished: the stages of a cascade that have ended, by sample. progress: told how far the stages are.
    """
    if not len(todo):
        return
    subject = cell.subject
    wrong = subject.clean.wrong[todo]
    out = left_out(cell, todo)
    settled = [(todo[wrong], CLEAN_WRONG), (todo[out & ~wrong], TARGET_IS_LABEL)]
    alive, stages = todo[~cell.idle[todo] & ~out], list[Attack]()
    try:
        stages = _prepared(replace(cell, subject=cell.hunted), key, records) if len(alive) else []
    except (Exception, SystemExit):  # what needs no attack is known all the same
        yield from (Settled(positions=rows, reason=reason) for rows, reason in settled if len(rows))
        raise
    source = stages[-1].crafted_on if stages else None
    for rows, reason in settled:
        if len(rows):
            yield Settled(positions=rows, reason=reason, source=_source_answers(cell, source, rows))
    if len(alive):
        yield from _attacked(cell, alive, stages, finished, progress)


def _source_answers(cell: Cell, source: System | None, positions: Tensor) -> Tensor | None:
    """What the system says of the clean images that the examples are made on, (n,) on the CPU."""
    if source is None:
        return None
    return look(source, *cell.subject.load(positions), cell.subject.shapes).prediction


def _with_source(cell: Cell, source: System | None, outcome: Outcome) -> Outcome:
    """The outcome with what the system says that the examples are made on; it is no part of the search, nor counted."""
    none = torch.full_like(outcome.sample, -1)
    if source is None:
        return replace(outcome, source_prediction=none, source_broken=none > 0)
    x, y, draws = cell.subject.load(outcome.sample.cpu())
    target = outcome.target if cell.threat.goal == "targeted" else None
    goal = Goal(y=y, target=target, success=cell.threat.goal)
    judged = judge(source, x, goal, cell.threat, outcome.adv, draws, cell.subject.shapes)
    said = look(source, x, y, draws, cell.subject.shapes).prediction.to(none.device)
    return replace(outcome, source_prediction=said, source_broken=judged.broken)


def _attacked(
    cell: Cell, alive: Tensor, learned: list[Attack], finished: FinishedStages, progress: CellProgress
) -> Iterator[Part]:
    """Run the stages, each on what is unbroken; a sample's row is made when it breaks, or after the last stage.

    Of a random system a break in doubt (see `stages.SURE`) is kept, and the sample goes on: the last word might deny it.
    What an earlier run has finished is not run again.
    """
    copies, subject = _copies(cell), cell.hunted
    searches = [(stage, fast) for stage in learned for fast in copies]
    finished.open(len(learned), subject.device)
    progress.open([stage for stage, _ in searches], subject.system.num_classes)
    for number, (attack, fast) in enumerate(searches):
        stage, last = number // len(copies), number == len(searches) - 1
        here = alive[finished.next[alive] <= number]
        later = alive[finished.next[alive] > number]
        progress.begin(number, waiting=len(later))
        survivors, clock, started = [later], f"{stage} {attack}", time.perf_counter()
        before, broken = finished.seconds.get(clock, 0.0), 0
        for outcome in search(_search(cell, attack, fast, progress), here, subject.clean):
            finished.seconds[clock] = before + time.perf_counter() - started
            outcome = better(billed(outcome, finished.bill, stage), finished.doubts, cell.threat)
            ends = leaving(outcome, random=cell.draws > 1) | last
            finished.add(outcome, ends, number)
            broken += int(outcome.verdict.broken.sum())
            survivors.append(outcome.sample[~ends].cpu())
            progress.waiting += len(survivors[-1])
            if bool(ends.any()):
                yield from _ended(cell, attack.crafted_on, outcome[ends.nonzero().squeeze(1)])
        if len(here):
            finished.seconds[clock] = before + time.perf_counter() - started
        finished.end_search()
        alive = torch.cat(survivors).sort().values
        if len(searches) > 1:
            _LOGGER.info(
                "%s: %d of %d samples are left after %.1f s",
                attack,
                len(here) - broken if last else len(alive) - len(later),
                len(here),
                time.perf_counter() - started,
            )


def _copies(cell: Cell) -> list[System]:
    """What is stepped on, one after the other; a smallest norm is not to be had from a coarse copy."""
    subject = cell.hunted
    if subject.reduced is None or cell.threat.eps is None:
        return [subject.fast]
    return [subject.reduced, subject.fast]


def _search(cell: Cell, attack: Attack, fast: System, progress: CellProgress) -> Search:
    """One search of the cascade."""
    subject = cell.hunted
    return Search(
        attack=attack,
        threat=cell.threat,
        system=subject.system,
        fast=fast,
        shapes=subject.shapes,
        load=subject.load,
        adaptive=subject.adaptive,
        stop_early=cell.leaves_early,
        target_column=cell.target_column,
        eot=cell.eot,
        watch=cell.blind or subject.bare is None,  # what one draw of a camera shows is no break
        progress=progress,
    )


def _ended(cell: Cell, source: System | None, outcome: Outcome) -> Iterator[Part]:
    """The ended samples, with the last word where the system is random; those that were settled before apart."""
    if cell.hands_in:
        outcome = _judged_last(cell, outcome)
    outcome = _with_source(cell, source, outcome)
    before = cell.subject.clean.wrong[outcome.sample.cpu()].to(outcome.sample.device)
    for kind, rows in ((Spare, before), (Ended, ~before)):
        if bool(rows.any()):
            yield kind(outcome=outcome[rows.nonzero().squeeze(1)])


def _judged_last(cell: Cell, outcome: Outcome) -> Outcome:
    """Each sample's one example, judged once with draws that decided nothing before: what the search liked is no proof."""
    subject = cell.subject
    x, y, draws = subject.load(outcome.sample.cpu())
    target = outcome.target if bool((outcome.target >= 0).any()) else None
    goal = Goal(y=y, target=target, success=cell.threat.goal)
    sitting = subject.sitting.last
    adv, witness = outcome.adv, outcome.witness
    verdict = judge(subject.system, x, goal, cell.threat, adv, draws, subject.shapes, sitting, witness)
    if witness is not None:
        outcome = replace(outcome, adv=pictured(cell.threat, x, witness, draws, sitting))
    told = verdict.broken if subject.bare is None else torch.zeros_like(verdict.broken)  # nobody looks behind a camera
    return replace(outcome, verdict=verdict, break_forward=torch.where(told, outcome.break_forward, -1))


def _prepared(cell: Cell, key: str, records: Records) -> list[Attack]:
    """The stages, each with what it has learned, now or in an earlier run that kept it.

    What that cost is noted in the records, since it is paid once a cell, and before what was learned is kept.
    """
    if not prepares(cell.attack, cell.threat):
        return list(cell.attack.stages())
    started, askers, kept, taught = time.perf_counter(), list[Asker](), records.learned(key), list[Learned | None]()

    def learned(attack: Attack) -> Attack:
        if not attack.learns(cell.threat):
            return attack
        subject, data = cell.subject, cell.subject.data
        lessons = cell.lessons
        x, y, draws = load(data, lessons, torch.arange(len(lessons)), subject.seed, subject.device)
        adaptive, block = subject.adaptive, subject.shapes.floor
        askers.append(Asker(attack, subject.fast, cell.threat, seed=subject.seed, adaptive=adaptive, block=block))
        classes = subject.system.num_classes
        setup = Setup(x=x, y=y, draws=draws, threat=cell.threat, num_classes=classes, ask=askers[-1])
        place = len(askers) - 1
        able = attack.recall(kept[place], setup) if place < len(kept) else attack.prepare(setup)
        taught.append(able.learned)
        return able

    whole = learned(cell.attack)
    stages = [whole if stage is whole else learned(stage) for stage in whole.stages()]
    if kept:
        return stages
    queries, seconds = sum(asker.forwards + asker.backwards for asker in askers), time.perf_counter() - started
    figures = {name: value for one in taught if one is not None for name, value in one.figures.items()}
    records.note(key, {**figures, "seconds": seconds, "queries": float(queries)})
    if None not in taught:
        records.keep(key, [one for one in taught if one is not None])
    return stages
