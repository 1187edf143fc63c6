"""How an option is declared, and those that many commands have."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from robustbench_lite.errors import UserError, cut


def option(
    metavar: str | None, text: str, *names: str, default: object = None, parser: Callable[[str], Any] | None = None
) -> Any:
    """An option whose help says its default in words."""
    shown = ", ".join(default) if isinstance(default, tuple) else default
    told = text if default is None else f"{text} [default: {shown}]"
    return typer.Option(*names, metavar=metavar, help=told, show_default=False, parser=parser)


def _log_file(given: str) -> Path:
    """The file that a log goes to.

    Raises:
        UserError: it is empty, or a folder.
    """
    if not given.strip():
        raise UserError("log is empty; give a file, such as --log run.log")
    folder = given.endswith(("/", os.sep))
    with contextlib.suppress(OSError):  # a name that no file can have is told when the file is opened
        folder = folder or Path(given).is_dir()
    if folder:
        raise UserError(f"log={cut(given)} is a folder; give a file, such as --log {cut(Path(given) / 'run.log')}")
    return Path(given)


Device = Annotated[str, option("auto|cpu|cuda[:I]", "Where to compute.", default="auto")]
DataRoot = Annotated[Path | None, option("DIR", "Where datasets lie, or are put.")]
Download = Annotated[bool, option(None, "Fetch a dataset that is not there.", "--download/--no-download", default="no")]
AllowPickle = Annotated[
    bool,
    option(
        None,
        "Load weights from pickles, without running code.",
        "--allow-pickle/--no-allow-pickle",
        default="no",
    ),
]
AllowCode = Annotated[
    bool,
    option(
        None,
        "Load files that run code of their own: pickled networks, exported programs.",
        "--allow-code/--no-allow-code",
        default="no",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print errors only.")]
Log = Annotated[
    Path | None,
    option("FILE", "Write what is done to a file as well, with the time, also with --quiet.", parser=_log_file),
]
Verbose = Annotated[
    bool, typer.Option("--verbose", help="Say more: stages, batch sizes, threads, what comes from the cache.")
]
