"""What Ctrl-C does to a command."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from robustbench_lite.cli.printing import complain

STOPPED = 130


@contextmanager
def stoppable(kept: str) -> Iterator[None]:
    """Inside, Ctrl-C ends the command with exit code 130 and one sentence.

    Args:
        kept: what is left of the work, and how to go on.
    """
    try:
        yield
    except KeyboardInterrupt:
        complain(f"stopped by Ctrl-C; {kept}")
        raise typer.Exit(STOPPED) from None
