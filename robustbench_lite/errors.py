"""What can go wrong, and whose fault it is.

A `UserError` is the user's mistake: the command line prints its one sentence and ends with exit code 2, without a
traceback. Everything else is ours, or a plugin's.
"""

from collections.abc import Iterable
from difflib import get_close_matches

#: the most names that a sentence lists
_SHOWN = 30
#: the most characters of somebody else's text that a message repeats
ECHO = 200
#: lines of C++ stacks in torch's messages
_STACK = ("frame #", "Exception raised from", "C++ CapturedTraceback")


class UserError(Exception):
    """A mistake in what the user gave: one sentence with what was given, what is accepted, the nearest match."""


class PluginError(Exception):
    """A plugin broke one of the laws that it is held to (see `robustbench_lite.testing`)."""


class ModelError(RuntimeError):
    """Code that is not ours (a user's model, a plugin, a reader of data) raised; see `guard.calling`."""


class CapabilityError(Exception):
    """An attack asked its oracle for more than it declared in `needs`."""


def cause_of(error: BaseException) -> str:
    """The type of an exception and what it says, in one line that is never empty.

    Of several lines the last one counts where they are a traceback (TorchScript's, a subprocess's): there the cause stands
    at the end. What C++ adds of its own stack is left out.
    """
    lines = [line.strip() for line in str(error).splitlines()]
    lines = [line for line in lines if line and not line.startswith(_STACK)]
    name = type(error).__name__
    if not lines:
        return name
    line = lines[-1] if any("Traceback" in one for one in lines) else lines[0]
    return cut(line if line.startswith(f"{name}:") else f"{name}: {line}")


def cut(text: str) -> str:
    """The text, or its beginning where it is longer than `ECHO` characters."""
    return text if len(text) <= ECHO else f"{text[: ECHO - 1]}…"


def nearest(given: str, accepted: Iterable[str]) -> str | None:
    """The accepted word that is most like the given one, or None where nothing is like it."""
    words = {word.lower(): word for word in accepted}
    found = get_close_matches(given.lower(), list(words), n=1, cutoff=0.5)
    return words[found[0]] if found else None


def unknown(kind: str, given: str, accepted: Iterable[str], hint: str = "") -> UserError:
    """The error for a name that is not there, with the nearest match and the accepted names."""
    accepted = sorted(accepted)
    guess = nearest(given, accepted)
    tail = f" ({hint})" if hint else ""
    if guess is not None:
        return UserError(f"unknown {kind} {given!r}; did you mean {guess!r}?{tail}")
    shown = ", ".join(accepted[:_SHOWN]) if accepted else "nothing"
    shown += f" and {len(accepted) - _SHOWN} more" if len(accepted) > _SHOWN else ""
    return UserError(f"unknown {kind} {given!r}; accepted: {shown}{tail}")
