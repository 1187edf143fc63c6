"""What became of the samples of a search, and the best judged point of those that are still under way."""

from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_lite.rows import Rows, concat, overwrite
from robustbench_lite.run.verdict import Verdict


@dataclass(frozen=True, kw_only=True)
class Outcome(Rows):
    """The end of n samples; all (n,) but adv (n, c, h, w). `sample` is the position that the search was given.

    `lane` is where the point was found, `break_forward` the forwards paid until then (-1 where nothing broke), `denied`
    how many points broke in the search and by far not in the verdict. Of an attack that crafts on another system,
    `source_prediction` is that system's answer to the clean image (-1 where there is none), and `source_broken` whether the
    example breaks it. `bill` is what each stage of a cascade cost, see `stages`, and `stage` the place of the one that made
    the example.
    `witness` (n, k) is what `adv` was rendered from, under a threat that is `rendered`.
    """

    sample: Tensor
    adv: Tensor
    verdict: Verdict
    forwards: Tensor
    backwards: Tensor
    denied: Tensor
    lane: Tensor
    break_forward: Tensor
    target: Tensor
    source_prediction: Tensor | None = None
    source_broken: Tensor | None = None
    bill: Tensor | None = None
    stage: Tensor | None = None
    witness: Tensor | None = None


class Bests:
    """The best judged point of every sample that is under way, in slots that are used again."""

    def __init__(self) -> None:
        self.rows: Outcome | None = None
        self.rank = torch.zeros(0, dtype=torch.float64)
        self.filled = torch.zeros(0, dtype=torch.bool)
        self.free: list[int] = []

    def take(self) -> int:
        """A free slot."""
        if not self.free:
            size = len(self.filled)
            more = max(64, size)
            self.free = list(range(size + more - 1, size - 1, -1))
            self.rank = torch.cat((self.rank, self.rank.new_zeros(more)))
            self.filled = torch.cat((self.filled, self.filled.new_zeros(more)))
            if self.rows is not None:
                self.rows = concat(
                    [self.rows, self.rows[torch.zeros(more, dtype=torch.int64, device=self.rows.adv.device)]]
                )
        slot = self.free.pop()
        self.filled[slot] = False
        return slot

    def offer(self, slots: Tensor, rows: Outcome, rank: Tensor, *, first_break: bool) -> None:
        """Keep the rows that beat what is there: a break first, then a higher rank.

        Args:
            slots: (n,) on the CPU, each once. first_break: a break that is there already is never replaced.
        """
        if self.rows is None:
            self.rows = rows[torch.zeros(len(self.filled), dtype=torch.int64, device=rows.adv.device)]
        device = rows.adv.device
        there = self.rows.verdict.broken[slots.to(device)].cpu() & self.filled[slots]
        broken, rank = rows.verdict.broken.cpu(), rank.cpu()
        better = (broken & ~there) | ((broken == there) & (rank > self.rank[slots]))
        better = better & ~(there & first_break) | ~self.filled[slots]
        chosen = better.nonzero().squeeze(1)
        if not len(chosen):
            return
        into = slots[chosen]
        overwrite(self.rows, into.to(device), rows[chosen.to(device)])
        self.rank[into], self.filled[into] = rank[chosen], True

    def broken(self, slots: Tensor) -> Tensor:
        """Which slots hold a confirmed break, (n,) bool on the CPU."""
        if self.rows is None:
            return torch.zeros(len(slots), dtype=torch.bool)
        return self.rows.verdict.broken[slots.to(self.rows.adv.device)].cpu() & self.filled[slots]

    def release(self, slots: list[int]) -> Outcome:
        """What the slots hold; they are free afterwards."""
        assert self.rows is not None
        self.free.extend(slots)
        return self.rows[torch.tensor(slots, device=self.rows.adv.device)]
