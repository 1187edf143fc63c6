"""What can go wrong, and whose fault it is.

A `UserError` is the user's mistake: the command line prints its one sentence and ends with exit code 2, without a
traceback. Everything else is ours, or a plugin's.
"""

import re
from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches

#: the most names that a sentence lists
_SHOWN = 30
#: the most characters of somebody else's text that a message repeats, and of a message
ECHO, LONGEST = 200, 2000
#: letters of a word that is short
_SHORT = 4
#: lines of C++ stacks in torch's messages
_STACK = ("frame #", "Exception raised from", "C++ CapturedTraceback")
#: what torch says before and after a cause
_HEADINGS = ("The following operation failed", "Weights only load failed", "Error(s) in loading state_dict")
_ADVICE = ("For debugging", "Compile with", "CUDA kernel errors", "Check the documentation")


class UserError(Exception):
    """A mistake in what the user gave: one sentence with what was given, what is accepted, the nearest match.

    A word of much more than `ECHO` characters is cut, whoever wrote the message, and so is a message beyond `LONGEST`.
    """

    def __init__(self, message: object = "") -> None:
        words = re.sub(rf"\S{{{ECHO + 40},}}", lambda word: cut(word[0]), str(message))
        super().__init__(cut(words, LONGEST))


class PluginError(Exception):
    """A plugin broke one of the laws that it is held to (see `robustbench_lite.testing`)."""


class ModelError(RuntimeError):
    """Code that is not ours (a user's model, a plugin, a reader of data) raised; see `guard.calling`."""


class CapabilityError(Exception):
    """An attack asked its oracle for more than it declared in `needs`."""


def cause_of(error: BaseException) -> str:
    """The type of an exception and what it says, in one line that is never empty.

    Of several lines the last one counts where they are a traceback (TorchScript's, a subprocess's) or begin with a heading
    of torch's: there the cause stands at the end. What C++ adds of its own stack, and torch's advice, is left out.
    """
    lines = [line.strip() for line in words_of(error).splitlines()]
    lines = [line for line in lines if line and not line.startswith((*_STACK, *_ADVICE))]
    name = type(error).__name__
    if not lines:
        return name
    ends = lines[0].startswith(_HEADINGS) or any("Traceback" in one for one in lines)
    line = lines[-1] if ends else lines[0]
    return cut(line if line.startswith(f"{name}:") else f"{name}: {line}")


def words_of(error: BaseException) -> str:
    """What an exception says of itself; nothing where it fails at that, too."""
    try:
        return str(error)
    except Exception:
        return ""


def cut(text: object, most: int = ECHO) -> str:
    """What a message repeats of the user's own words: at most so many characters, the middle of longer ones left out.

    Examples:
        >>> cut("0123456789" * 100, most=10)
        '012345…789'
    """
    whole = str(text)
    if len(whole) <= most:
        return whole
    head = most * 2 // 3
    return f"{whole[:head]}…{whole[len(whole) - (most - head - 1) :]}"


def missing(kind: str, path: object) -> UserError:
    """The error for a file, or a folder, that is not there."""
    return UserError(f"there is no {kind} {cut(str(path))!r}")


def unread(kind: str, path: object, error: Exception) -> UserError:
    """The error for a file that cannot be read, or is not there."""
    if isinstance(error, FileNotFoundError):
        return missing(kind, path)
    return UserError(f"cannot read the {kind} {cut(str(path))!r}: {cause_of(error)}")


#: what other tools call a device
_DEVICES = {"gpu": "cuda", "nvidia": "cuda", "gpu0": "cuda:0", "gpu:0": "cuda:0", "cuda0": "cuda:0", "0": "cuda:0"}


def unknown_device(given: str) -> UserError:
    """The error for a device that there is not, with what other tools' names for it are here."""
    accepted = ("auto", "cpu", "cuda", "cuda:0")
    guess = _DEVICES.get(given.strip().lower()) or nearest(given, accepted)
    also = f"; did you mean {guess!r}?" if guess else ""
    return UserError(f"device={cut(given)}; accepted: {', '.join(accepted)}{also}")


def nearest(given: str, accepted: Iterable[str]) -> str | None:
    """The accepted word that is most like the given one, or None where nothing is like it.

    A short word is like many longer ones by chance, so more of its letters must agree; most for `none`, which cures nothing.
    """
    words, given = {word.lower(): word for word in accepted}, cut(given).lower()
    for found in get_close_matches(given, list(words), n=3, cutoff=0.5):
        short = len(found) <= _SHORT and len(found) != len(given)
        least = 0.8 if found == "none" else 0.6 if short else 0.5
        if SequenceMatcher(None, found, given).ratio() >= least:
            return words[found]
    return None


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
