"""The clocks of a run, in one place, so that a test can put its own there."""

import time

import torch


def wall() -> float:
    """Seconds that pass for everybody."""
    return time.perf_counter()


def busy(device: torch.device) -> float:
    """Seconds of this process's own work: on a CPU those of its threads, which other jobs on the machine do not lengthen; on
    another device, whose work no process clock sees, those that pass until it is done."""
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()
