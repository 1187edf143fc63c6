"""How an option is declared, and those that many commands have."""

from pathlib import Path
from typing import Annotated, Any

import typer


def option(metavar: str | None, text: str, *names: str, default: object = None) -> Any:
    """An option whose help says its default in words."""
    shown = ", ".join(default) if isinstance(default, tuple) else default
    return typer.Option(
        *names, metavar=metavar, help=text if default is None else f"{text} [default: {shown}]", show_default=False
    )


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
Log = Annotated[Path | None, option("FILE", "Write what is done to a file as well, with the time, also with --quiet.")]
Verbose = Annotated[
    bool, typer.Option("--verbose", help="Say more: stages, batch sizes, threads, what comes from the cache.")
]
