"""NAME.toml: the evaluation that a leaderboard is built from, and what others have found about its rows."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tomli_w

from robustbench_lite.errors import UserError, nearest
from robustbench_lite.leaderboard import submissions
from robustbench_lite.leaderboard.submissions import Submission
from robustbench_lite.run.plan import Plan, parse_toml, read_text

_OWN = ("title", "about", "seeds")
_EXTERNAL = ("model", "defense", "threat", "robust", "source")


def tables_of(path: Path) -> dict[str, Any]:
    """What a leaderboard's plan says, as it stands there.

    Raises:
        UserError: it cannot be read, or is not TOML.
    """
    return parse_toml(read_text(path), f"the plan {str(path)!r}")


def seeds_of(told: Mapping[str, Any], default: int, what: str) -> list[int]:
    """The seeds that a table names.

    Raises:
        UserError: they are no list of whole numbers.
    """
    seeds = told.get("seeds", [default])
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
        raise UserError(f"{what}: seeds = {str(seeds)[:60]}; accepted: a list of whole numbers such as [0, 1, 2]")
    return seeds


@dataclass(frozen=True, kw_only=True)
class External:
    """A lower robust accuracy that somebody else has found, and where it stands.

    Args:
        model, defense, threat: of the row; defense and threat may be left out (`none`, every threat).
        robust: share, 0 to 1. source: a paper, a link, or the file that `rbl verify` judged.
    """

    model: str
    robust: float
    source: str
    defense: str = "none"
    threat: str = ""


@dataclass(frozen=True, kw_only=True)
class BoardPlan:
    """What a leaderboard is built from.

    Args:
        plan: of the evaluation. title, about: of the page. seeds: of the attacks; with several, their spread is told.
        external: what others found. submissions: adversarial examples of others, judged by `rbl verify`.
    """

    plan: Plan
    title: str
    about: str = ""
    seeds: tuple[int, ...] = (0,)
    external: tuple[External, ...] = ()
    submissions: tuple[Submission, ...] = ()

    @property
    def cells(self) -> int:
        """How many attacks on systems it runs, at the most."""
        one = self.plan
        return len(one.models) * len(one.chains) * len(one.threats) * len(one.attacks) * len(self.seeds)

    @classmethod
    def load(cls, path: Path) -> "BoardPlan":
        """Read NAME.toml: an evaluation's plan with a table `[leaderboard]`, and any number of `[[external]]`.

        Raises:
            UserError: it cannot be read, or holds what is not known.
        """
        table = tables_of(path)
        own, external = table.pop("leaderboard", {}), table.pop("external", [])
        what = f"the plan {str(path)!r}"
        if not isinstance(external, list) or not all(isinstance(one, Mapping) for one in external):
            raise UserError(f"{what}: external is no list of tables; write [[external]]")
        known_keys(own, _OWN, f"{what}: [leaderboard]")
        plan = Plan.from_toml(tomli_w.dumps(table), what)
        seeds = seeds_of(own, plan.seed, what)
        if len(set(seeds)) < len(seeds):
            raise UserError(f"{what}: seeds = {str(seeds)[:60]} holds a number twice")
        return cls(
            plan=plan, title=text_of(own, "title", path.stem, what), about=text_of(own, "about", "", what), seeds=tuple(seeds),
            external=tuple(_external(one, what) for one in external if "verdict" not in one),
            submissions=submissions.load([_verdict(one, what) for one in external if "verdict" in one], path.parent),
        )  # fmt: skip


def text_of(table: Mapping[str, Any], name: str, default: str, what: str) -> str:
    """A text of the table `[leaderboard]`.

    Raises:
        UserError: it is something else.
    """
    value = table.get(name, default)
    if not isinstance(value, str):
        raise UserError(f"{what}: {name} = {str(value)[:60]}; accepted: a text")
    return value


def plan_digest(plan: Plan) -> str:
    """Twelve letters over a plan, but for what is of the machine."""
    return replace(plan, data_root=None, device="auto", download=False, batch_size=None).digest


def _verdict(table: Mapping[str, Any], what: str) -> Mapping[str, Any]:
    known_keys(table, ("verdict", "source"), f"{what}: [[external]] with a verdict")
    return {name: text_of(table, name, "", f"{what}: [[external]]") for name in table}


def _external(table: Mapping[str, Any], what: str) -> External:
    known_keys(table, _EXTERNAL, f"{what}: [[external]]")
    absent = [name for name in ("model", "robust", "source") if name not in table]
    if absent:
        raise UserError(f"{what}: [[external]] has no {absent[0]}; it needs model, robust and source")
    robust = table["robust"]
    if isinstance(robust, bool) or not isinstance(robust, int | float) or not 0 <= robust <= 1 or math.isnan(robust):
        raise UserError(f"{what}: [[external]] has robust = {str(robust)[:60]}; accepted: a share from 0 to 1")
    names = ("model", "source", "defense", "threat")
    texts = {name: text_of(table, name, "", f"{what}: [[external]]") for name in names if name in table}
    return External(robust=float(robust), **texts)


def known_keys(table: Mapping[str, Any], accepted: tuple[str, ...], what: str) -> None:
    """Refuse a table with a key that nobody reads.

    Raises:
        UserError: it has one, or is no table.
    """
    if not isinstance(table, Mapping):
        raise UserError(f"{what} is no table; accepted: {', '.join(accepted)}")
    for name in table:
        if name not in accepted:
            guess = nearest(name, accepted)
            also = f"; did you mean {guess!r}?" if guess else f"; accepted: {', '.join(accepted)}"
            raise UserError(f"{what} has an unknown key {name!r}{also}")
