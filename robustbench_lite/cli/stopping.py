"""What Ctrl-C does to a command."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from robustbench_lite.cli.printing import complain
from robustbench_lite.streams import lent_streams

STOPPED = 130


@contextmanager
def stoppable(kept: str) -> Iterator[None]:
    """Inside, Ctrl-C ends the command with exit code 130 and one sentence; what a user's code prints goes to stderr.

    Args:
        kept: what is left of the work, and how to go on.
    """
    try:
        with lent_streams():
            yield
    except KeyboardInterrupt:
        complain(f"stopped by Ctrl-C; {kept}")
        raise typer.Exit(STOPPED) from None
