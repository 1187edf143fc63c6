"""The registry: attacks, defenses, models, datasets and generators, ours and third parties', found by entry points.

A distribution offers a plugin by an entry point in the group `robustbench_lite.attacks` (`.defenses`, `.models`,
`.datasets`, `.generators`). Plugins are loaded one at a time, when named, so that a broken one hurts nobody else.
"""

from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from robustbench_lite.errors import UserError, unknown

Kind = Literal["attack", "defense", "model", "dataset", "generator"]
KINDS: tuple[Kind, ...] = ("attack", "defense", "model", "dataset", "generator")
_registered: dict[tuple[str, str], Any] = {}


def register(kind: Kind, name: str, plugin: Any) -> None:
    """Add a plugin of this process, without an entry point (a notebook, a test).

    Raises:
        UserError: the name is taken.
    """
    if name.lower() in names(kind):
        raise UserError(f"there is a {kind} called {name!r} already; choose another name")
    _registered[kind, name.lower()] = plugin


def unregister(kind: Kind, name: str) -> None:
    """Take back what `register` added; does nothing when it was not there."""
    _registered.pop((kind, name.lower()), None)


def names(kind: Kind) -> tuple[str, ...]:
    """All names of that kind, sorted."""
    own = {name for registered_kind, name in _registered if registered_kind == kind}
    return tuple(sorted(own | set(_offered(kind))))


def load(kind: Kind, name: str) -> Any:
    """The plugin of that name, whatever the case of its letters.

    Raises:
        UserError: there is none of that name, or its package cannot be imported.
    """
    key = name.strip().lower()
    if (kind, key) in _registered:
        return _registered[kind, key]
    offered = _offered(kind)
    if key not in offered:
        plural = f"{kind}s"
        raise unknown(kind, name, names(kind), f"rbl list {plural}")
    return _load(offered[key], kind)


def origin(kind: Kind, name: str) -> str:
    """The distribution that offers the plugin, such as `robustbench-lite`; `this process` for a registered one.

    Raises:
        UserError: there is none of that name.
    """
    key = name.strip().lower()
    if (kind, key) in _registered:
        return "this process"
    offered = _offered(kind)
    if key not in offered:
        raise unknown(kind, name, names(kind), f"rbl list {kind}s")
    entry = offered[key]
    return entry.dist.name if entry.dist else entry.value


def _load(entry: EntryPoint, kind: str) -> Any:
    try:
        return entry.load()
    except Exception as error:
        source = entry.dist.name if entry.dist else entry.value
        raise UserError(f"the {kind} {entry.name!r} of {source} cannot be loaded: {error}") from error


@lru_cache(maxsize=len(KINDS))
def _offered(kind: Kind) -> Mapping[str, EntryPoint]:
    return {entry.name.lower(): entry for entry in entry_points(group=f"robustbench_lite.{kind}s")}
