"""`rbl`: the commands, and what becomes of an error: one sentence on stderr and an exit code.

0 done · 2 the user's mistake · 3 some cell failed · 130 Ctrl-C. Anything else is our own bug and shows its traceback.
"""

import errno
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from robustbench_lite import __version__
from robustbench_lite.cli import (
    certify,
    check,
    evaluate,
    explain,
    generate,
    leaderboard,
    listing,
    plot,
    report,
    rubbish,
    show,
    train,
    verify,
)
from robustbench_lite.cli.hints import hint, known_options
from robustbench_lite.cli.printing import complain
from robustbench_lite.cli.stopping import STOPPED
from robustbench_lite.cli.words import refuse_odd_words
from robustbench_lite.errors import ModelError, UserError, cause_of, cut
from robustbench_lite.streams import drop, present_streams

# typer's own names for what click calls so, whether it is built on click or brings its own copy
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]
_ClickError: type[Exception] = _UsageError.__bases__[0]
_NoSuchOption: type[Exception] = sys.modules[_UsageError.__module__].NoSuchOption

DONE, MISTAKE = 0, 2
#: what becomes of a stream: the disk is full, it was closed
_UNWRITABLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EBADF, errno.EIO})
EXAMPLES = """\b
Examples:
  rbl evaluate
  rbl list attacks
  rbl show attack pgd
"""

app = typer.Typer(
    name="rbl",
    add_completion=False,
    no_args_is_help=True,
    # plain help: it is there in half the time of the rich one, and looks the same in a pipe
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
        "token_normalize_func": lambda token: token.replace("_", "-"),
    },
)
app.command("evaluate", epilog=evaluate.EXAMPLES)(evaluate.evaluate)
app.command("report", epilog=report.EXAMPLES)(report.report)
app.command("plot", epilog=plot.EXAMPLES)(plot.plot)
app.command("verify", epilog=verify.EXAMPLES)(verify.verify)
app.add_typer(leaderboard.app, name="leaderboard")
app.command("check", cls=check.Check, epilog=check.EXAMPLES)(check.check)
app.command("train", epilog=train.EXAMPLES)(train.train)
app.add_typer(generate.app, name="generate")
app.command("certify", epilog=certify.EXAMPLES)(certify.certify)
app.command("explain", epilog=explain.EXAMPLES)(explain.explain)
app.command("rubbish", epilog=rubbish.EXAMPLES)(rubbish.rubbish)
app.command("list", epilog=listing.EXAMPLES)(listing.listing)
app.command("show", epilog=show.EXAMPLES)(show.show)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"robustbench-lite {__version__}")
        raise typer.Exit


@app.callback(epilog=EXAMPLES)
def _rbl(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """How robust is an image classifier, against whom, compared with what, and how sure are we?"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `rbl` with these arguments (those of the process if left out) and return its exit code."""
    present_streams()
    try:
        refuse_odd_words(app, sys.argv[1:] if arguments is None else arguments)
        code = app(args=None if arguments is None else list(arguments), prog_name="rbl", standalone_mode=False)
        sys.stdout.flush()
    except (UserError, ModelError) as error:
        complain(str(error))
        return MISTAKE
    except (MemoryError, RuntimeError) as error:
        if (
            not isinstance(error, MemoryError) and type(error).__name__ != "OutOfMemoryError"
        ):  # torch's, which is not loaded
            raise
        complain(f"out of memory: {cause_of(error)}")
        return MISTAKE
    except _ClickError as error:
        complain(_sentence(error, sys.argv[1:] if arguments is None else arguments))
        return MISTAKE
    except (KeyboardInterrupt, typer.Abort):
        complain("stopped by Ctrl-C")
        return STOPPED
    except (BrokenPipeError, SystemExit) as error:
        if not isinstance(error, BrokenPipeError) and not isinstance(error.__context__, BrokenPipeError):
            # ours are returned, not raised: code of the user's wanted to end the program
            complain(f"code that was called ended the program by {cause_of(error)}")
            return MISTAKE
        # who reads our output has had enough (`rbl list attacks | head -1`); nothing is left to be said there
        drop(sys.stdout)
        return DONE
    except OSError as error:
        if error.filename is not None or error.errno not in _UNWRITABLE:
            raise
        drop(sys.stdout)
        complain(f"cannot write to stdout: {os.strerror(error.errno)}")
        return MISTAKE
    return code if isinstance(code, int) else DONE


def _sentence(error: Exception, arguments: Sequence[str]) -> str:
    """What typer has to say, in the form of our own messages; the help itself where no command was given.

    An option of another tool's is answered by what to write here.
    """
    context = getattr(error, "ctx", None)
    said = str(error.format_message())  # type: ignore[attr-defined]  # every click exception has it
    if said.startswith("Usage:"):
        return said
    option = getattr(error, "option_name", None)
    if isinstance(error, _NoSuchOption) and option and context is not None:
        told = hint(option, arguments, known_options(context.command.params))
        said = said if told is None else f"no such option: {cut(option)}; {told}"
    said = str(UserError(f"{said[:1].lower()}{said[1:].rstrip('.')}"))
    return said if context is None else f"{said} ({context.command_path} --help)"
