"""How many threads an evaluation computes with: chosen once a run by timing, and kept with its results.

The number stands in every key, since sums over other cuts of a tensor round differently.
"""

import time
from collections.abc import Callable, Sequence

import torch
from torch import nn

from robustbench_lite.cores import asked_threads, usable_cores
from robustbench_lite.data.base import Dataset
from robustbench_lite.errors import ModelError
from robustbench_lite.guard import calling
from robustbench_lite.training.layout import tiny

#: images of one timing, and how often each number of threads is timed: the fastest counts
_ROWS, _ROUNDS = 32, 3
#: twice the threads must take this share of the time at the most, since what they cost others is not seen
_WORTH = 0.8
#: a network that takes so many seconds for a few images gains from threads, and is not timed
_LARGE, _FEW = 0.3, 4


def most_threads() -> int:
    """The greatest power of two of threads that this process may keep busy, or that the user asks for."""
    count = asked_threads() or min(torch.get_num_threads(), usable_cores())
    return 1 << (max(count, 1).bit_length() - 1)


def choose_threads(networks: Callable[[], Sequence[nn.Module]], data: Dataset, device: torch.device) -> int:
    """The number of threads that these networks answer fastest with, together.

    Args:
        networks: loads them; called only where there is a choice.
        data: whose images they take: tiny ones are fastest on one thread.
    """
    if tiny(data, device):
        return 1
    most = most_threads()
    if device.type != "cpu" or most == 1 or asked_threads() is not None:
        return most
    try:
        timed = [_seconds(network, data.shape, most) for network in networks()]
    except ModelError:  # it says so when its turn comes
        return most
    choice, count = 1, 2
    while count <= most and sum(one[count] for one in timed) <= _WORTH * sum(one[choice] for one in timed):
        choice, count = count, 2 * count
    return choice


def _seconds(network: nn.Module, shape: tuple[int, int, int], most: int) -> dict[int, float]:
    """Threads -> seconds of a forward and a gradient; of a large network an equal share of its work."""
    counts = [1 << power for power in range(most.bit_length())]
    try:
        few = min(_timed(network, torch.full((_FEW, *shape), 0.5), most) for _ in range(2))
        if few > _LARGE:
            return {count: few * most / count for count in counts}
        x = torch.full((_ROWS, *shape), 0.5)
        rounds = [{count: _timed(network, x, count) for count in counts} for _ in range(_ROUNDS)]
        return {count: min(one[count] for one in rounds) for count in counts}
    except Exception:  # what the network cannot do is told where it is asked in earnest
        return dict.fromkeys(counts, 0.0)


def _timed(network: nn.Module, x: torch.Tensor, count: int) -> float:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with torch.random.fork_rng(devices=[]):
            started = time.perf_counter()
            leaf = x.clone().requires_grad_(True)
            with calling("the network"):
                torch.autograd.grad(network(leaf).sum(), leaf, allow_unused=True)
            return time.perf_counter() - started
    finally:
        torch.set_num_threads(before)
