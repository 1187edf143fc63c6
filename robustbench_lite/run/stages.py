"""The stages of a cascade: what each cost a sample, as records tell it, and what one hands on to the next."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from robustbench_lite.rows import concat, where
from robustbench_lite.run.engine import rank_of
from robustbench_lite.run.outcomes import Outcome
from robustbench_lite.threat import Threat

#: Of a random system a sample leaves a cascade where a stage broke at least this share of its draws. What breaks 18 of 20
#: is denied by 20 others once in 200 times (all rates alike beforehand); what breaks 11 of 20, four times in ten.
SURE = 0.9


def leaving(outcome: Outcome, *, random: bool) -> Tensor:
    """Which samples no later stage need look at, (n,) bool."""
    verdict = outcome.verdict
    return verdict.broken & (verdict.break_rate >= SURE) if random else verdict.broken


def joined(doubts: Sequence[Outcome]) -> Outcome | None:
    """Breaks that the last word might deny, by their positions; None: there are none."""
    parts = [outcome for outcome in doubts if len(outcome)]
    if not parts:
        return None
    held = concat(parts)
    return held[held.sample.argsort()]


def better(now: Outcome, before: Outcome | None, threat: Threat) -> Outcome:
    """What a stage found, or the doubtful break of an earlier one where that is the better example; at the cost of both."""
    if before is None:
        return now
    place = torch.searchsorted(before.sample, now.sample).clamp(max=len(before) - 1)
    old = before[place]
    ranks = [rank_of(one.verdict, threat, random=True) for one in (old, now)]
    stays = (old.sample == now.sample) & (ranks[0] >= ranks[1])
    chosen = where(stays, old, now)
    return replace(
        chosen, sample=now.sample, forwards=now.forwards, backwards=now.backwards, denied=now.denied, bill=now.bill
    )


def new_bill(stages: int, samples: int) -> Tensor:
    """(samples, stages, 3) int64: forwards, backwards and denied points of each; -1 where a stage has not run."""
    return torch.full((samples, stages, 3), -1, dtype=torch.int64)


def billed(outcome: Outcome, bill: Tensor, stage: int) -> Outcome:
    """The outcome of a stage with what the former ones cost added; the bill is written up for the next ones."""
    sample, device = outcome.sample.cpu(), outcome.forwards.device
    before = bill[sample].clamp(min=0).sum(1).to(device)
    now = torch.stack((outcome.forwards, outcome.backwards, outcome.denied), 1).cpu()
    bill[sample, stage] = bill[sample, stage].clamp(min=0) + now
    found = outcome.break_forward
    return replace(
        outcome,
        forwards=outcome.forwards + before[:, 0],
        backwards=outcome.backwards + before[:, 1],
        denied=outcome.denied + before[:, 2],
        break_forward=torch.where(found >= 0, found + before[:, 0], found),
        bill=bill[sample].to(device),
        stage=torch.full_like(outcome.forwards, stage),
    )


def told(names: Sequence[str], outcome: Outcome) -> dict[str, list[str]]:
    """The columns `stage`, where a sample broke, and `stages`, the queries of each that ran; empty without a cascade."""
    bill, stage, broken = outcome.bill, outcome.stage, outcome.verdict.broken.tolist()
    if len(names) < 2 or bill is None or stage is None:
        return {"stage": [""] * len(broken), "stages": [""] * len(broken)}
    ran = [[cost for cost in costs if cost[0] >= 0] for costs in bill.tolist()]
    return {
        "stage": [names[place] if hit else "" for place, hit in zip(stage.tolist(), broken, strict=True)],
        "stages": [
            " > ".join(
                f"{name} {forwards}+{backwards}" for name, (forwards, backwards, _) in zip(names, costs, strict=False)
            )
            for costs in ran
        ],
    }
