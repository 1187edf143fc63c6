"""The words of a command line, before they are options: what none of them may hold."""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import typer

from robustbench_lite.errors import UserError
from robustbench_lite.escaping import refuse_control_value

#: options that name a file or folder that is made
_WRITTEN = ("--out", "--log", "--runs", "--html", "--junit")


def refuse_odd_words(app: typer.Typer, arguments: Sequence[str]) -> None:
    """Refuse what is no value of any option.

    Args:
        app: `rbl`, whose commands tell which options take a path.

    Raises:
        UserError: a control character, or an empty path.
    """
    if all(word.isprintable() and word and word[-1] != "=" for word in arguments):  # as nearly always
        return
    command = typer.main.get_command(app)
    _refuse_control(command, arguments)
    _refuse_empty_paths(command, arguments)


def _refuse_control(command: Any, arguments: Sequence[str]) -> None:
    """Refuse control characters in what was given, before a number or a path is made of it.

    Raises:
        UserError: some word has one that is not in the name of a file that is there and is read.
    """
    option = ""
    for word in arguments:
        if not option:
            command = getattr(command, "commands", {}).get(word, command)
        name, equals, value = word.partition("=") if word.startswith("--") else (option, "", word)
        refuse_control_value(
            name if equals else option or "the argument",
            value if equals else word,
            written=name.replace("_", "-") in _WRITTEN,
        )
        flags = {name for one in command.params if getattr(one, "is_flag", False) for name in one.opts}
        flags |= {name for one in command.params for name in one.secondary_opts}
        option = (
            word
            if word.startswith("--") and word != "--" and not equals and word.replace("_", "-") not in flags
            else ""
        )


def _refuse_empty_paths(command: Any, arguments: Sequence[str]) -> None:
    """Refuse an empty path, as an unset variable of a shell leaves it: it would be the folder that one happens to be in.

    Raises:
        UserError: an option of a file or a folder is given none.
    """
    pairs = [*pairwise(arguments), *((word[:-1], "") for word in arguments if word[-1:] == "=")]
    given = {name.replace("_", "-") for name, value in pairs if value == "" and name.startswith("--")}
    if not given:
        return
    for word in arguments:
        command = getattr(command, "commands", {}).get(word, command)
    for option in command.params:
        metavar = str(getattr(option, "metavar", ""))
        for name in given & set(option.opts):
            kinds = [
                word for mark, word in (("FILE", "a file"), ("DIR", "a folder")) if re.search(rf"\b{mark}\b", metavar)
            ]
            if kinds:
                raise UserError(f"{name} is empty; give {' or '.join(kinds)}, or leave it out")
