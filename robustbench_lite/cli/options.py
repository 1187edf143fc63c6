"""How an option is declared."""

from typing import Any

import typer


def option(metavar: str | None, text: str, *names: str, default: object = None) -> Any:
    """An option whose help says its default in words."""
    shown = ", ".join(default) if isinstance(default, tuple) else default
    return typer.Option(
        *names, metavar=metavar, help=text if default is None else f"{text} [default: {shown}]", show_default=False
    )
