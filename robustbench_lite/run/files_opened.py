"""Which files a network opens while it answers: what is kept there no copy of the network is without."""

import builtins
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from robustbench_lite.hashing.source import is_installed

#: what is no place to keep anything
_SYSTEM = ("/proc", "/sys", "/dev")


@contextmanager
def files_opened() -> Iterator[list[str]]:
    """Gathers the names of files that Python code opens meanwhile, but for those of Python, its packages and the system."""
    found: list[str] = []
    own = {(module, "open"): module.open for module in (builtins, io, os)}

    def noting(real: Any) -> Any:
        def opens(file: Any, *args: Any, **kwargs: Any) -> Any:
            name = os.fsdecode(file) if isinstance(file, (str, bytes, os.PathLike)) else ""
            if name and name not in found and _is_a_place(name):
                found.append(name)
            return real(file, *args, **kwargs)

        return opens

    for (module, name), real in own.items():
        setattr(module, name, noting(real))
    try:
        yield found
    finally:
        for (module, name), real in own.items():
            setattr(module, name, real)


def _is_a_place(file: str) -> bool:
    path = Path(file).absolute()
    return not (any(path.is_relative_to(one) for one in _SYSTEM) or path.suffix == ".pyc" or is_installed(str(path)))
