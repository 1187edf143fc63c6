"""What can go wrong, and whose fault it is.

A `UserError` is the user's mistake: the command line prints its one sentence and ends with exit code 2, without a
traceback. Everything else is ours, or a plugin's.
"""

import re
from collections.abc import Iterable
from difflib import get_close_matches

#: the most names that a sentence lists
_SHOWN = 30
#: characters of what the user gave that a message repeats, and of a message
ECHOED, LONGEST = 200, 2000


class UserError(Exception):
    """A mistake in what the user gave: one sentence with what was given, what is accepted, the nearest match.

    A word of more than `ECHOED` characters is cut, whoever wrote the message, and so is a message beyond `LONGEST`.
    """

    def __init__(self, message: object = "") -> None:
        words = re.sub(rf"\S{{{ECHOED + 1},}}", lambda word: cut(word[0]), str(message))
        super().__init__(cut(words, LONGEST))


class PluginError(Exception):
    """A plugin broke one of the laws that it is held to (see `robustbench_lite.testing`)."""


class CapabilityError(Exception):
    """An attack asked its oracle for more than it declared in `needs`."""


def cut(text: str, most: int = ECHOED) -> str:
    """What a message repeats of a text: all of it, or its beginning.

    Examples:
        >>> cut("x" * 1000, most=5)
        'xxxx…'
    """
    return text if len(text) <= most else f"{text[: most - 1]}…"


def missing(kind: str, path: object) -> UserError:
    """The error for a file, or a folder, that is not there."""
    return UserError(f"there is no {kind} {cut(str(path))!r}")


def cause(error: OSError) -> str:
    """Why a file could not be read or written, in the words of the system: `Permission denied`, `File too large`."""
    return error.strerror or str(error) or type(error).__name__


def nearest(given: str, accepted: Iterable[str]) -> str | None:
    """The accepted word that is most like the given one, or None where nothing is like it."""
    words = {word.lower(): word for word in accepted}
    found = get_close_matches(cut(given).lower(), list(words), n=1, cutoff=0.5)
    return words[found[0]] if found else None


def unknown(kind: str, given: str, accepted: Iterable[str], hint: str = "") -> UserError:
    """The error for a name that is not there, with the nearest match and the accepted names."""
    accepted = sorted(accepted)
    guess, given = nearest(given, accepted), cut(given)
    tail = f" ({hint})" if hint else ""
    if guess is not None:
        return UserError(f"unknown {kind} {given!r}; did you mean {guess!r}?{tail}")
    shown = ", ".join(accepted[:_SHOWN]) if accepted else "nothing"
    shown += f" and {len(accepted) - _SHOWN} more" if len(accepted) > _SHOWN else ""
    return UserError(f"unknown {kind} {given!r}; accepted: {shown}{tail}")
