"""A leaderboard of generators: what is trained, the table, its page. Nobody is ranked: no figure says it all."""

import io
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pandas as pd

from robustbench_lite.cache import atomic_write, writing
from robustbench_lite.errors import UserError
from robustbench_lite.generators.quality.published import PUBLISHED, Row
from robustbench_lite.leaderboard.plan import known_keys, seeds_of, tables_of
from robustbench_lite.run.generate import train
from robustbench_lite.run.quality import SHOWN, Options, measure_files

#: the columns by which such a table is known, and its clock
HEAD, CLOCK = ("generator", "data", "kind", "setting"), "training_seconds"
_RECIPE = ("epochs", "batch_size", "learning_rate", "ema")


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
            title=str(own.get("title", path.stem)), about=str(own.get("about", "")), options=Options(**measure),
            trainings=tuple(_training(one, f"{what}: [[training]]") for one in trainings),
        )  # fmt: skip


def _training(told: Mapping[str, Any], what: str) -> Training:
    known_keys(told, ("generator", "dataset", "seeds", *_RECIPE), what)
    if "generator" not in told:
        raise UserError(f"{what} has no generator")
    seeds = seeds_of(told, 0, what)
    recipe = {name: told[name] for name in _RECIPE if name in told}
    return Training(
        generator=str(told["generator"]), dataset=str(told.get("dataset", "digits")), seeds=tuple(seeds), recipe=recipe
    )


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
    figures = frame.drop(columns=CLOCK, errors="ignore").to_csv(index=False, float_format="%.6g")
    written = {target: figures, target.with_suffix(".md"): page(read_text(figures), plan, target.stem)}
    if CLOCK in frame:
        clocks = frame.loc[frame[CLOCK].notna(), [*HEAD, CLOCK]]
        written[target.with_name(f"{target.stem}.timings.csv")] = clocks.to_csv(index=False, float_format="%.6g")
    with writing(target.parent):
        for path, text in written.items():
            atomic_write(path, text.encode())
    return tuple(written)


def is_table(path: Path) -> bool:
    """Whether a CSV is such a table."""
    try:
        with path.open(encoding="utf-8") as file:
            return file.readline().strip().split(",")[: len(HEAD)] == list(HEAD)
    except (OSError, UnicodeDecodeError):
        return False


def read(path: Path) -> pd.DataFrame:
    """The table as texts, as it stands in its file.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return read_text(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the table of generators {str(path)!r}: {error}") from None


def read_text(text: str) -> pd.DataFrame:
    """The same of the file's content."""
    return pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False, na_values=[])


def parts(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """For each kind of data its rows, with the figures that people ask for first and somebody has; ± is the spread."""
    for data, own in table.groupby(table["data"].str.partition(":")[0], sort=False):
        figures = [name for name in SHOWN if name in own and name != CLOCK and not name.endswith("_sd")]
        names = [name for name in figures if (own[name] != "").any()]
        shown = {name.replace("_", " "): [_figure(row, name) for row in own.to_dict("records")] for name in names}
        who = [source or setting for source, setting in zip(own["source"], own["setting"], strict=True)]
        yield str(data), pd.DataFrame({"generator": own["generator"].tolist(), **shown, "how, or who": who})


def page(table: pd.DataFrame, plan: GeneratorPlan, name: str) -> str:
    """NAME.md."""
    out = [f"# {plan.title}", "", *([plan.about, ""] if plan.about else [])]
    for data, own in parts(table):
        out += [f"## {data}", "", "| " + " | ".join(own.columns) + " |", "|" + "---|" * len(own.columns)]
        out += ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in own.to_numpy()]
        out.append("")
    out += [
        "± is the spread over seeds, or of one training over samplings. There is no rank: no figure says it all, and what papers"
        " tell was measured by other judges and trainings.\n",
        f"Built from [{name}.toml]({name}.toml) by `rbl leaderboard build {name}.toml`; all figures are in"
        f" [{name}.csv]({name}.csv).",
    ]
    return "\n".join(out) + "\n"


def faults(path: Path) -> Iterator[str]:
    """What is wrong with NAME.csv: rows that no training of the plan gives, published figures that no paper tells, its page.

    Raises:
        UserError: it cannot be read.
    """
    table, toml = read(path), path.with_suffix(".toml")
    for row in table[table["kind"] == "published"].to_dict("records"):
        if not any(_tells(one, row) for one in PUBLISHED):
            yield f"{row['generator']} on {row['data']}: {row['source'] or 'nobody'} does not tell that"
    plan = GeneratorPlan.load(toml) if toml.exists() else None
    if plan is None:
        yield f"there is no plan {toml.name} with [[training]] beside it"
        return
    ours = table[table["kind"] == "measured"]
    planned = {(one.generator, one.dataset): one for one in plan.trainings}
    found = set(zip(ours["generator"], ours["data"], strict=True))
    yield from (
        f"{who} on {data} is in the plan and not in the table" for who, data in planned if (who, data) not in found
    )
    yield from (
        f"{who} on {data} is in the table and not in the plan"
        for who, data in sorted(found)
        if (who, data) not in planned
    )
    beside = path.with_suffix(".md")
    if not beside.exists() or beside.read_text(encoding="utf-8") != page(table, plan, path.stem):
        yield f"{beside.name} is not what {path.name} and {toml.name} give"


def _tells(paper: Row, row: Mapping[Any, Any]) -> bool:
    """Whether a row is one of a paper, with its figures and no other."""
    told = {name: f"{value:.6g}" for name, value in paper.figures.items()}
    who = {name: str(getattr(paper, name)) for name in (*HEAD, "source")}
    return {name: value for name, value in row.items() if value != ""} == {
        name: value for name, value in {**who, **told}.items() if value != ""
    }


def _figure(row: Mapping[Any, Any], name: str) -> str:
    value, spread = str(row[name]), str(row.get(f"{name}_sd", ""))
    if value == "":
        return ""
    return f"{float(value):.4g}" + (f" ± {float(spread):.2g}" if spread else "")
