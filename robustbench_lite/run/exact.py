"""The arithmetic of the verdict: full float32 and deterministic kernels, with the caller's settings put back."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

#: torch's debug mode that warns where no kernel is deterministic
_WARN = 1


@contextmanager
def exact_math() -> Iterator[None]:
    """TF32 off, deterministic kernels, no autocast, no benchmark mode; everything as it was afterwards."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = (matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark)
    mode = torch.get_deterministic_debug_mode()
    fill: Any = torch.utils.deterministic  # its stubs lack the switch
    filled = fill.fill_uninitialized_memory
    if torch.cuda.is_available():
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark = False, False, True, False
    # A user's network may hold a layer without a deterministic kernel; its forward is still the original.
    _set_mode(_WARN)
    # What a kernel writes over anyway need not be filled with NaN before: 5 % of a forward.
    fill.fill_uninitialized_memory = False
    try:
        with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
            yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark = before
        _set_mode(mode)
        fill.fill_uninitialized_memory = filled


def _set_mode(mode: int) -> None:
    """0: any kernels; 1: deterministic ones where there are; 2: an error where there are none.

    torch's usual switch also tells the compiler, and loads it for that, which takes longer than most cells. It is loaded
    already where a network is compiled.
    """
    if "torch._dynamo" in sys.modules:
        torch.use_deterministic_algorithms(mode > 0, warn_only=mode == _WARN)
    else:
        torch.set_deterministic_debug_mode(mode)


@contextmanager
def steady_threads(count: int) -> Iterator[int]:
    """As many threads as the greatest power of two up to `count`, which is told, and torch's own number afterwards.

    Another number cuts tensors where the vector units do not, and the odd ends round differently: a row would feel its place.
    """
    before, steady = torch.get_num_threads(), 1 << (max(count, 1).bit_length() - 1)
    torch.set_num_threads(steady)
    try:
        yield steady
    finally:
        torch.set_num_threads(before)
