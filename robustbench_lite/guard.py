"""One guard around every call into code that is not ours: a user's model, a plugin's class, a data set's reader.

Such code may raise anything, end the process, or run out of memory. Inside the guard all of that becomes one of two errors
that the harness knows: `ModelError`, which fails a cell, and `torch.OutOfMemoryError`, which makes micro-batches smaller.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import NoReturn

import torch

from robustbench_lite.errors import CapabilityError, ModelError, PluginError, UserError, cause_of

#: errors that say already what they mean
_UNDERSTOOD = (UserError, ModelError, PluginError, CapabilityError, torch.OutOfMemoryError)
#: how allocators of the CPU say that there is no memory; torch has no type for it
_MEMORY = ("DefaultCPUAllocator", "can't allocate memory", "not enough memory", "std::bad_alloc", "bad allocation")


class calling:  # noqa: N801  # a context, used like a function
    """Inside, code that is not ours is called.

    Args:
        what: whose code it is, as a message says it.

    Raises:
        ModelError: it raised anything, or asked for the end of the process.
        torch.OutOfMemoryError: there was not enough memory, on the CPU as on a GPU.
    """

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, (KeyboardInterrupt, *_UNDERSTOOD)):
            return
        if is_memory_error(error):
            raise torch.OutOfMemoryError(cause_of(error)) from error
        raise ModelError(f"{self._what} raised {cause_of(error)}") from error


def is_memory_error(error: BaseException) -> bool:
    """Whether an exception means that there was not enough memory, on a GPU or on the CPU."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _MEMORY)


@contextmanager
def no_early_end() -> Iterator[None]:
    """Inside, `os._exit` in this process raises: it would end a run with the exit code of whoever called it.

    In other processes, such as those that are forked meanwhile, it does what it always does.
    """
    owner, leave = os.getpid(), os._exit

    def refuse(status: int) -> NoReturn:
        if os.getpid() != owner:
            leave(status)
        raise SystemExit(f"os._exit({status}) was called")

    os._exit = refuse
    try:
        yield
    finally:
        os._exit = leave


def told(error: BaseException) -> str:
    """Why a cell failed, in one line."""
    return str(error) if isinstance(error, (ModelError, UserError)) else cause_of(error)
