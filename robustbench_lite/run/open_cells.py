"""The cells of a run's plan that have not come to their end: what they are, and their rows without a verdict."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from robustbench_lite.errors import UserError
from robustbench_lite.escaping import printable
from robustbench_lite.results.fates import CLEAN_WRONG, FAILED, LEFT_OUT
from robustbench_lite.run.plan import Plan
from robustbench_lite.run.tries import draws_of, without_eot
from robustbench_lite.specs import system_name

#: what tells the two runs of an attack apart where there are two: the second is by who knows the defense
NON_ADAPTIVE, ADAPTIVE = ", non-adaptive", ", adaptive"


@dataclass(frozen=True, kw_only=True)
class OpenCell:
    """An attack on a system under a threat that has no row among the timings.

    Attributes:
        adaptive: whether its adversary knows the defense; None where the run had not begun with the system.
        twice: the attack runs on the system both ways.
        key: of its records; empty where the run does not tell.
    """

    model: str
    defense: str
    threat: str
    attack: str
    adaptive: bool | None = None
    twice: bool = False
    key: str = ""

    def __str__(self) -> str:
        which = (ADAPTIVE if self.adaptive else NON_ADAPTIVE) if self.twice else ""
        return f"{self.attack} on {system_name(self.model, self.defense)}, {self.threat}{which}"


def open_cells(folder: Path, environment: Mapping[str, Any], timings: pd.DataFrame) -> list[OpenCell]:
    """Every cell of the plan in the folder without a row among the timings; none where the plan cannot be read.

    Args:
        environment: of `run_folder.read_environment`; tells which attacks run twice on the systems that were begun.
    """
    try:
        text = (folder / "plan.toml").read_text(encoding="utf-8")
        plan = Plan.from_toml(text)
    except (OSError, ValueError, UserError):
        return []
    if not text.strip():  # a file that lost its content says nothing, and not the plan of all defaults
        return []
    names = ["model", "defense", "threat", "attack"]
    exact = Counter(timings[names].itertuples(index=False, name=None))
    begun = Counter((*cell[:3], without_eot(cell[3])) for cell in exact)
    found: list[OpenCell] = []
    for model, defense, threat in _systems(plan):
        planned = _planned(environment, model, defense, threat)
        cell = partial(OpenCell, model=model, defense=defense, threat=threat)
        often, seen = Counter(attack for attack, *_ in planned), Counter[str]()
        for attack, adaptive, key in planned:  # the runs of one attack end in their order
            seen[attack] += 1
            if seen[attack] > exact[(model, defense, threat, attack)]:
                found.append(cell(attack=attack, adaptive=adaptive, twice=often[attack] > 1, key=key))
        known = {without_eot(attack) for attack in often}
        for attack in _attacks(plan):
            if without_eot(attack) not in known and not begun[(model, defense, threat, without_eot(attack))]:
                found.append(cell(attack=attack))
    return found


def rows_of_open_cells(
    records: pd.DataFrame, cells: Sequence[OpenCell], ended: Callable[[str], pd.DataFrame]
) -> pd.DataFrame:
    """A row for each image that an open cell would attack: its own where its attack has ended, else as one that failed has
    it: no verdict, and no break.

    So the tables give bounds for the worst case of a system with open cells. Systems without any records are left out.

    Args:
        ended: key -> the rows of a cell that are recorded already.
    """
    names = ["model", "defense", "threat"]
    groups = dict(iter(records.groupby(names, sort=False))) if len(records) else {}
    frames = []
    for cell in cells:
        own = groups.get((cell.model, cell.defense, cell.threat))
        if own is not None:
            lost = _unjudged(own.drop_duplicates("index"), cell, bool(own["adaptive"].any()))
            known = ended(cell.key) if cell.key else records.head(0)
            known = known[known["index"].isin(lost["index"]) & (known["reason"] != FAILED)]
            told = {"model": cell.model, "defense": cell.defense, "threat": cell.threat, "attack": cell.attack}
            known = known.assign(dataset=lost["dataset"].iloc[0], **told, adaptive=lost["adaptive"].iloc[0])
            frames += [one for one in (known, lost[~lost["index"].isin(known["index"])]) if len(one)]
    return pd.concat(frames, ignore_index=True) if frames else records.head(0)


def _unjudged(rows: pd.DataFrame, cell: OpenCell, otherwise: bool) -> pd.DataFrame:
    settled = rows["reason"].isin([CLEAN_WRONG, LEFT_OUT])
    return rows.assign(
        attack=cell.attack,
        adaptive=otherwise if cell.adaptive is None else cell.adaptive,
        key="",
        reason=rows["reason"].where(settled, FAILED),
        broken=rows["broken"] & settled,
        valid=rows["valid"] & settled,
        prediction=rows["clean_prediction"],
        forwards=0,
        backwards=0,
        denied=0,
        stage="",
        stages="",
    )


def _systems(plan: Plan) -> Iterator[tuple[str, str, str]]:
    for model in plan.models:
        for defense in plan.chains:
            for threat in plan.threats:
                yield printable(model), printable(defense), f"{threat}{plan.sees_through}"


def _attacks(plan: Plan) -> Iterator[str]:
    for attack in plan.attacks:
        if plan.adaptive != "no" or draws_of(attack) is None:  # who averages over draws knows of them
            yield attack


def _planned(environment: Mapping[str, Any], model: str, defense: str, threat: str) -> list[tuple[str, bool, str]]:
    """(attack, adaptive, key) of the runs on a system, as the run wrote them when it began with it; none if it did not."""
    facts = environment.get("systems", {}).get(f"{model} | {defense}", {})
    planned = facts.get("planned", {})
    runs = planned.get(threat) if isinstance(planned, dict) else None
    if not isinstance(runs, list):
        return []
    known = [one for one in runs if isinstance(one, list) and list(map(type, one)) == [str, bool, str]]
    sound = len(known) == len(runs) and all(key.isalnum() for *_, key in known)  # a key is the name of a folder
    return [(attack, adaptive, key) for attack, adaptive, key in known] if sound else []
