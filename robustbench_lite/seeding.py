"""Global state that a training needs: torch's generators and threads, both as they were afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from robustbench_lite.hashing import hash_number


def derive(seed: int, *words: object) -> int:
    """A seed of its own, below 2**63, for one purpose: `derive(seed, "shuffle", epoch)`."""
    text = repr((int(seed), *words)).encode()
    return hash_number(text) >> 1


@contextmanager
def seeded(seed: int, device: torch.device = torch.device("cpu")) -> Iterator[None]:
    """Inside, torch's generators of the CPU and of `device` start from the seed; afterwards they are as they were.

    It is for what cannot be given a generator: initial weights and dropout.
    """
    cards = [_number(device)] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cards):
        torch.default_generator.manual_seed(seed)
        for card in cards:
            torch.cuda.default_generators[card].manual_seed(seed)
        yield


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Inside, torch computes on the CPU with that many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _number(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index
