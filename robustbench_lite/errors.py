"""What can go wrong, and whose fault it is.

A `UserError` is the user's mistake: the command line prints its one sentence and ends with exit code 2, without a
traceback. Everything else is ours, or a plugin's.
"""

from collections.abc import Iterable
from difflib import get_close_matches

#: the most names that a sentence lists
_SHOWN = 30


class UserError(Exception):
    """A mistake in what the user gave: one sentence with what was given, what is accepted, the nearest match."""


class PluginError(Exception):
    """A plugin broke one of the laws that it is held to (see `robustbench_lite.testing`)."""


class CapabilityError(Exception):
    """An attack asked its oracle for more than it declared in `needs`."""


def nearest(given: str, accepted: Iterable[str]) -> str | None:
    """The accepted word that is most like the given one, or None where nothing is like it."""
    words = {word.lower(): word for word in accepted}
    found = get_close_matches(given[:200].lower(), list(words), n=1, cutoff=0.5)
    return words[found[0]] if found else None


def unknown(kind: str, given: str, accepted: Iterable[str], hint: str = "") -> UserError:
    """The error for a name that is not there, with the nearest match and the accepted names."""
    accepted = sorted(accepted)
    guess = nearest(given, accepted)
    tail = f" ({hint})" if hint else ""
    if guess is not None:
        return UserError(f"unknown {kind} {shortened(given)!r}; did you mean {guess!r}?{tail}")
    shown = ", ".join(accepted[:_SHOWN]) if accepted else "nothing"
    shown += f" and {len(accepted) - _SHOWN} more" if len(accepted) > _SHOWN else ""
    return UserError(f"unknown {kind} {shortened(given)!r}; accepted: {shown}{tail}")


def shortened(text: object, most: int = 200) -> str:
    """What a message repeats of the user's own words: at most so many characters, the middle of longer ones left out."""
    whole = str(text)
    if len(whole) <= most:
        return whole
    head = most * 2 // 3
    return f"{whole[:head]}…{whole[len(whole) - (most - head - 1) :]}"
