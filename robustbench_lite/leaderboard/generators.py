"""Leaderboards of generators: what is trained, and the table held to it. Nobody is ranked: no figure says it all."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pandas as pd

from robustbench_lite.errors import UserError
from robustbench_lite.escaping import printable
from robustbench_lite.generators.quality.published import PUBLISHED, Row
from robustbench_lite.leaderboard.columns import EVIDENCE
from robustbench_lite.leaderboard.edits import UNSEALED
from robustbench_lite.leaderboard.files import sealed
from robustbench_lite.leaderboard.files import write as write_files
from robustbench_lite.leaderboard.generator_table import (
    csv_of,
    edits,
    merged,
    page,
    read_sealed,
    read_text,
    read_timed,
    without_gaps,
    write,
)
from robustbench_lite.leaderboard.plan import known_keys, seeds_of, tables_of, text_of
from robustbench_lite.results.generators import HEAD, base
from robustbench_lite.run.generate import train
from robustbench_lite.run.quality import Options, measure_files, seeds_told, steps_told

_RECIPE, _WHOLE = ("epochs", "batch_size", "learning_rate", "ema"), ("epochs", "batch_size")


@dataclass(frozen=True, kw_only=True)
class Training:
    """One row of the table: a generator, trained once a seed.

    Args:
        recipe: epochs, batch_size, learning_rate, ema, as far as they are not the generator's own.
    """

    generator: str
    dataset: str = "digits"
    seeds: tuple[int, ...] = (0,)
    recipe: Mapping[str, Any] = field(default_factory=dict)

    def gives(self, row: Mapping[Any, Any]) -> bool:
        """Whether a row of the table is of this training: the generator, the data, the seeds, and what is told of its recipe."""
        steps, seeds = [*str(row["setting"]).split(", "), ""][:2]
        known = steps_told(*(self.recipe.get(name, r"\d+") for name in ("epochs", "batch_size")))
        return (
            (row["generator"], row["data"], row["kind"]) == (self.generator, self.dataset, "measured")
            and seeds == seeds_told(self.seeds)
            and re.fullmatch(known, steps) is not None
        )

    def __str__(self) -> str:
        recipe = "".join(f", {name} {value}" for name, value in self.recipe.items())
        return f"{self.generator} on {self.dataset} ({seeds_told(self.seeds)}{recipe})"

    def files(self, folder: Path) -> dict[int, Path]:
        """Where each seed's weights go."""
        told = "-".join([self.generator, self.dataset, *(f"{name}{value}" for name, value in self.recipe.items())])
        return {seed: folder / f"{re.sub('[^A-Za-z0-9.]+', '-', told)}-seed{seed}.safetensors" for seed in self.seeds}


@dataclass(frozen=True, kw_only=True)
class GeneratorPlan:
    """NAME.toml with `[[training]]`: what is trained, and (`[measure]`) how it is measured."""

    title: str
    about: str
    options: Options
    trainings: tuple[Training, ...]

    @classmethod
    def load(cls, path: Path) -> "GeneratorPlan | None":
        """Read it; None where it is the plan of an evaluation.

        Raises:
            UserError: it cannot be read, or holds what is not known.
        """
        what, told = f"the plan {str(path)!r}", tables_of(path)
        if "training" not in told:
            return None
        known_keys(told, ("leaderboard", "measure", "training"), what)
        own, measure, trainings = told.get("leaderboard", {}), told.get("measure", {}), told["training"]
        known_keys(own, ("title", "about"), f"{what}: [leaderboard]")
        known_keys(measure, tuple(one.name for one in fields(Options)), f"{what}: [measure]")
        if not isinstance(trainings, list):
            raise UserError(f"{what}: training is one table; write [[training]]")
        return cls(
            title=text_of(own, "title", path.stem, what), about=text_of(own, "about", "", what),
            options=_options(measure, f"{what}: [measure]"),
            trainings=tuple(_training(one, f"{what}: [[training]]") for one in trainings),
        )  # fmt: skip

    def page(self, table: pd.DataFrame, name: str) -> str:
        """NAME.md."""
        origin = (
            f"Built from [{name}.toml]({name}.toml) by `rbl leaderboard build {name}.toml`; all figures are in"
            f" [{name}.csv]({name}.csv)."
        )
        return page(table, self.title, self.about, origin)

    def gives(self, row: Mapping[Any, Any]) -> bool:
        """Whether a row is of one of the trainings, or a paper's on data of theirs."""
        if row["kind"] == "published":
            return any(base(one.dataset) == base(row["data"]) for one in self.trainings)
        return any(one.gives(row) for one in self.trainings)


def _training(told: Mapping[str, Any], what: str) -> Training:
    known_keys(told, ("generator", "dataset", "seeds", *_RECIPE), what)
    if "generator" not in told:
        raise UserError(f"{what} has no generator")
    seeds = seeds_of(told, 0, what)
    recipe = {name: _number(told[name], f"{what}: {name}", whole=name in _WHOLE) for name in _RECIPE if name in told}
    generator, dataset = text_of(told, "generator", "", what), text_of(told, "dataset", "digits", what)
    return Training(generator=generator, dataset=dataset, seeds=tuple(seeds), recipe=recipe)


def _options(told: Mapping[str, Any], what: str) -> Options:
    """How generators are measured.

    Raises:
        UserError: a value of the wrong kind.
    """
    chosen: dict[str, Any] = {"judge": text_of(told, "judge", "", what)} if "judge" in told else {}
    chosen |= {name: _number(told[name], f"{what}: {name}", whole=True) for name in told if name != "judge"}
    return Options(**chosen)


def _number(value: Any, what: str, *, whole: bool) -> Any:
    """A number from 0 of the plan.

    Raises:
        UserError: it is something else.
    """
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not 0 <= value < 2**63:
        raise UserError(f"{what} = {str(value)[:60]}; accepted: a {'whole ' if whole else ''}number from 0")
    return value


def build(
    plan: GeneratorPlan,
    target: Path,
    folder: Path,
    *,
    data_root: Path | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    begin: Callable[[str, int], None] = lambda text, total: None,
) -> tuple[Path, ...]:
    """Train what was not trained, measure what was not measured, and write NAME.csv, NAME.timings.csv and NAME.md.

    Args:
        target: NAME.csv. folder: where the weights go, with their cards.

    Raises:
        UserError: as trainings and measurements.
    """
    files = []
    for one in plan.trainings:
        for seed, file in one.files(folder).items():
            begin(f"training {one.generator} on {one.dataset}, seed {seed}", 0)
            chosen = {"dataset": one.dataset, "seed": seed, "data_root": data_root, "progress": progress}
            train(one.generator, out=file, **chosen, **one.recipe)
            files.append(file)
    frame = measure_files(
        files, out=folder / target.name, options=plan.options, data_root=data_root, training=progress, begin=begin
    )
    return write(target, frame, plan.page(read_text(csv_of(frame)), target.stem))


def merge(files: Sequence[Path], target: Path) -> tuple[Path, ...]:
    """Write the rows of several tables as one; of a row that stands in several, the last counts.

    Where NAME.toml with `[[training]]` lies beside `target`, rows that no training of it gives are left out, and those of papers
    on data that none of them learns.

    Args:
        target: NAME.csv.

    Raises:
        UserError: one cannot be read, or the folder cannot be written.
    """
    table, toml = merged([read_timed(file) for file in files]), target.with_suffix(".toml")
    plan = GeneratorPlan.load(toml) if toml.exists() else None
    if plan is None:
        told = (
            f"Merged from {', '.join(file.name for file in files)}; all figures are in [{target.name}]({target.name})."
        )
        return write(target, table, page(table, target.stem, "", told))
    table = without_gaps(table[[plan.gives(row) for row in table.to_dict("records")]])
    return write(target, table, plan.page(table, target.stem))


def faults(path: Path) -> Iterator[str]:
    """What is wrong with NAME.csv: rows that no training of the plan gives, published figures that no paper tells, its page.

    Raises:
        UserError: it cannot be read.
    """
    whole = read_sealed(path)
    table = whole.drop(columns=EVIDENCE, errors="ignore")
    yield from ([UNSEALED] if EVIDENCE not in whole else (one.told(path.stem) for one in edits(whole)))
    yield from _without_evidence(table, path)


def _without_evidence(table: pd.DataFrame, path: Path) -> Iterator[str]:
    toml = path.with_suffix(".toml")
    for row in table[table["kind"] == "published"].to_dict("records"):
        if not any(_tells(one, row) for one in PUBLISHED):
            yield f"{row['generator']} on {row['data']}: {row['source'] or 'nobody'} does not tell that"
    plan = GeneratorPlan.load(toml) if toml.exists() else None
    if plan is None:
        yield f"there is no plan {toml.name} with [[training]] beside it"
        return
    ours = table[table["kind"] == "measured"].to_dict("records")
    yield from (
        f"{one} is in the plan and not in the table"
        for one in plan.trainings
        if not any(one.gives(row) for row in ours)
    )
    yield from (
        f"{row['generator']} on {row['data']} ({row['setting']}) is in the table and not in the plan"
        for row in ours
        if not plan.gives(row)
    )
    beside = path.with_suffix(".md")
    if not beside.exists() or beside.read_text(encoding="utf-8") != plan.page(table, path.stem):
        yield f"{beside.name} is not what {path.name} and {toml.name} give"


def seal(path: Path, changed: Sequence[str] = ()) -> tuple[Path, ...]:
    """Write the evidence of a table that has none, or in which these columns were changed on purpose; see `validate.seal`.

    Raises:
        UserError: it is not sound, or something else was changed.
    """
    whole = read_sealed(path)
    found = [] if EVIDENCE not in whole else list(edits(whole))
    wrong = list(_without_evidence(whole.drop(columns=EVIDENCE, errors="ignore"), path))
    wrong += [one.told(path.stem) for one in found if not set(one.columns) <= set(changed)]
    if wrong:
        raise UserError(f"{str(path)!r} is not sealed: {printable(wrong[0])}")
    if EVIDENCE in whole and not found:
        return ()
    return write_files({path: csv_of(sealed(whole.drop(columns=EVIDENCE, errors="ignore")))})


def _tells(paper: Row, row: Mapping[Any, Any]) -> bool:
    """Whether a row is one of a paper, with its figures and no other."""
    told = {name: f"{value:.6g}" for name, value in paper.figures.items()}
    who = {name: str(getattr(paper, name)) for name in (*HEAD, "source")}
    return {name: value for name, value in row.items() if value != ""} == {
        name: value for name, value in {**who, **told}.items() if value != ""
    }
