"""The unit that benchmarks count in, and how it is measured.

The unit is one forward and one input gradient of the plain model, as everybody writes it (frozen parameters,
cross-entropy, batches of 128), over the same images, measured in the same run: a ratio holds on another machine, seconds
do not. Clocks are CPU seconds of the process on one thread, which other jobs on the machine disturb least.
"""

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("RBL_SHARED", ROOT.parent / "shared"))
SAMPLES = int(os.environ.get("RBL_BENCH_SAMPLES", "1000"))
ROUNDS = int(os.environ.get("RBL_BENCH_ROUNDS", "3"))


def unit(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """One forward and one input gradient for every image."""
    for begin in range(0, len(x), 128):
        leaf = x[begin : begin + 128].detach().requires_grad_(True)
        loss = F.cross_entropy(model(leaf), y[begin : begin + 128], reduction="sum")
        torch.autograd.grad(loss, leaf)


@dataclass
class Ratio:
    """Times something in turn with the unit."""

    benchmark: Any

    def __call__(self, run: Callable[[], Any], plain: Callable[[], Any], steps: int) -> float:
        """The median time of `run` over `steps` medians of `plain`; kept with the benchmark."""
        plain()
        bare, own = [], []

        def once() -> Any:
            started = time.process_time()
            plain()
            bare.append(time.process_time() - started)
            started = time.process_time()
            result = run()
            own.append(time.process_time() - started)
            return result

        self.result = self.benchmark.pedantic(once, rounds=ROUNDS, iterations=1, warmup_rounds=0)
        ratio = statistics.median(own) / (steps * statistics.median(bare))
        spread = [mine / (steps * theirs) for mine, theirs in zip(own, bare, strict=True)]
        self.benchmark.extra_info["unit_seconds"] = statistics.median(bare)
        as_ratios(self.benchmark, ratio, spread)
        return ratio


def as_ratios(benchmark: Any, ratio: float, spread: list[float]) -> None:
    """Have pytest-benchmark keep and compare ratios instead of seconds: `--benchmark-compare` then holds on another machine."""
    benchmark.extra_info.update(ratio=round(ratio, 4), low=round(min(spread), 4), high=round(max(spread), 4))
    benchmark.stats.stats.data[:] = spread
