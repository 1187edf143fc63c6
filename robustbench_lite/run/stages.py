"""What each stage of a cascade cost a sample, as records tell it."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from robustbench_lite.run.outcomes import Outcome


def new_bill(stages: int, samples: int) -> Tensor:
    """(samples, stages, 2) int64: the forwards and backwards of each; -1 where a stage has not run."""
    return torch.full((samples, stages, 2), -1, dtype=torch.int64)


def billed(outcome: Outcome, bill: Tensor, stage: int) -> Outcome:
    """The outcome of a stage with what the former ones cost added; the bill is written up for the next ones."""
    sample, device = outcome.sample.cpu(), outcome.forwards.device
    before = bill[sample].clamp(min=0).sum(1).to(device)
    now = torch.stack((outcome.forwards, outcome.backwards), 1).cpu()
    bill[sample, stage] = bill[sample, stage].clamp(min=0) + now
    found = outcome.break_forward
    return replace(
        outcome,
        forwards=outcome.forwards + before[:, 0],
        backwards=outcome.backwards + before[:, 1],
        break_forward=torch.where(found >= 0, found + before[:, 0], found),
        bill=bill[sample].to(device),
    )


def told(names: Sequence[str], bill: Tensor | None, broken: Tensor) -> dict[str, list[str]]:
    """The columns `stage`, where a sample broke, and `stages`, the queries of each that ran; empty without a cascade."""
    if len(names) < 2 or bill is None:
        return {"stage": [""] * len(broken), "stages": [""] * len(broken)}
    ran = [[cost for cost in costs if cost[0] >= 0] for costs in bill.tolist()]
    return {
        "stage": [names[len(costs) - 1] if hit else "" for costs, hit in zip(ran, broken.tolist(), strict=True)],
        "stages": [
            " > ".join(
                f"{name} {forwards}+{backwards}" for name, (forwards, backwards) in zip(names, costs, strict=False)
            )
            for costs in ran
        ],
    }
