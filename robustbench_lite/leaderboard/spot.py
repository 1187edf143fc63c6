"""A spot check: random images of every row are run again, on the row's own weights, by the row's own attacks."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from robustbench_lite.attack import Attack, prepares
from robustbench_lite.data.base import Dataset
from robustbench_lite.defense import resolve_defense
from robustbench_lite.errors import ModelError, UserError
from robustbench_lite.escaping import printable
from robustbench_lite.leaderboard.board import Board
from robustbench_lite.leaderboard.columns import CLEAN, WORST, Key, key_of, name_of, number_of
from robustbench_lite.leaderboard.plan import BoardPlan
from robustbench_lite.leaderboard.rows import lines_of
from robustbench_lite.leaderboard.samples import unpacked
from robustbench_lite.leaderboard.slices import slice_digest
from robustbench_lite.results.claims import base_of
from robustbench_lite.results.fates import trials
from robustbench_lite.run.exact import steady_threads
from robustbench_lite.run.records import Records
from robustbench_lite.run.reporter import Reporter, Silent
from robustbench_lite.run.setting import Open, Setting
from robustbench_lite.run.subject import Subject
from robustbench_lite.run.systems import Builder
from robustbench_lite.run.threads import choose_threads
from robustbench_lite.run.trial import trial
from robustbench_lite.system import System
from robustbench_lite.threat import Threat
from robustbench_lite.zoo.checkpoints import WeightsReplacedError

#: an answer is borderline where its margin is less than this share of the usual one: rounding decides it, and another
#: processor rounds otherwise
BORDERLINE = 0.02
Bits = NDArray[np.bool_]
Row = Mapping[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Spot:
    """What is run again.

    Args:
        count: images of each row. seed: by which they are drawn. budget: queries an image; where a row's attacks have asked for
            more, its cheapest strong one is run alone. train: also rows that are trained on the spot.
        data_root: where datasets lie, instead of the plan's.
    """

    count: int
    seed: int
    budget: float = 10000.0
    train: bool = False
    data_root: Path | None = None


@dataclass(kw_only=True)
class Finding:
    """What came of a row: faults; notes; or why it was not checked."""

    who: str
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    skipped: str = ""


def spot(path: Path, options: Spot, reporter: Reporter | None = None) -> Iterator[Finding]:
    """Check NAME.csv against its plan NAME.toml, a finding a row.

    Raises:
        UserError: the leaderboard or its plan cannot be read, or the data are not there.
    """
    toml, reporter = path.with_suffix(".toml"), reporter or Silent()
    if not toml.exists():
        raise UserError(f"--spot: there is no plan {toml.name!r} beside {str(path)!r}; it says how the rows were made")
    board, given = Board.read(path), BoardPlan.load(toml)
    root = given.plan.data_root if options.data_root is None else str(options.data_root)
    setting = Setting.of(replace(given.plan, seed=given.seeds[0], data_root=root))
    digest = slice_digest(setting.data.digest(), setting.indices.tolist())
    rows = {key_of(row)[1:]: row for row in board.rows.to_dict("records")}
    count = len(setting.indices)
    places = np.sort(np.random.default_rng(options.seed).permutation(count)[: options.count])
    some = replace(setting, indices=np.sort(setting.indices)[places])
    with some.opened(None, reporter) as opened, _threads(some, opened):
        check = _Check(
            board=board, opened=Open(setting=some, builder=_Watched.of(opened.builder)), places=places, slice=digest,
            options=options, reporter=reporter,
        )  # fmt: skip
        for model, defense in product(setting.plan.models, setting.plan.chains):
            names = printable(model), printable(defense)  # as records have them
            keys = {text: (f"{text}{setting.plan.sees_through}", *names) for text in setting.threats}
            own = {text: rows[key] for text, key in keys.items() if key in rows}
            if own:
                yield from check.system(model, defense, own)


def _threads(setting: Setting, opened: Open) -> AbstractContextManager[int]:
    """As many threads as an evaluation here takes; of networks that are not there, as many as their trainings take."""
    try:
        count = choose_threads(opened.builder.networks, setting.data, setting.device)
    except (UserError, ModelError):
        count = setting.threads
    return steady_threads(count)


@dataclass(kw_only=True)
class _Watched(Builder):
    """A builder that tells whether something was learned from training data: weights, or parts of a defense."""

    learned: bool = False

    def trains(self, model: str, defense: str) -> bool:
        """Whether the weights are made here."""
        loaded = self._loaded(model)
        given = isinstance(loaded, System) or loaded.trained
        return any(part.trains for part in resolve_defense(defense)) or not given

    @classmethod
    def of(cls, builder: Builder) -> "_Watched":
        return cls(**{one.name: getattr(builder, one.name) for one in fields(Builder)})

    def _train(self) -> Dataset:
        self.learned = True
        return super()._train()


@dataclass(frozen=True, kw_only=True, eq=False)
class _Check:
    """The check of a leaderboard.

    Args:
        places: of the images among those of a row. slice: digest of all of them, as the data here have it.
    """

    board: Board
    opened: Open
    places: NDArray[np.int64]
    slice: str
    options: Spot
    reporter: Reporter

    def system(self, model: str, defense: str, rows: Mapping[str, Row]) -> Iterator[Finding]:
        """The rows of a model and a defense, by threat."""
        found = {text: Finding(who=name_of(key_of(row))) for text, row in rows.items()}
        for text, row in rows.items():
            if row["slice"] != self.slice:
                found[text].skipped = "the images here are not those of the leaderboard"
        try:
            self._rows(model, defense, {text: row for text, row in rows.items() if not found[text].skipped}, found)
        except WeightsReplacedError as error:
            for finding in found.values():
                finding.faults.append(f"digest: {error}")
                finding.skipped = ""
        except (UserError, ModelError) as error:  # weights that are not there, an attack that fails
            for finding in found.values():
                if not finding.notes and not finding.faults:
                    finding.skipped = finding.skipped or str(error)
        yield from found.values()

    def _rows(self, model: str, defense: str, rows: Mapping[str, Row], found: Mapping[str, Finding]) -> None:
        if not rows:
            return
        builder = self.opened.builder
        assert isinstance(builder, _Watched)
        if builder.trains(model, defense) and not self.options.train:
            for finding in (found[text] for text in rows):
                finding.skipped = (
                    "it is trained on the spot; --train trains it here, and weights may differ by processor"
                )
            return
        builder.learned = False
        subject = self.opened.subject(self.opened.build(model, defense))
        for text, row in rows.items():
            here = subject.system.digest
            if here == row["digest"]:
                self._row(found[text], subject, row, text)
            elif builder.learned:
                found[
                    text
                ].skipped = "what is trained or fitted here came out otherwise, as it may on another processor"
            else:
                found[text].faults.append(
                    f"digest: the weights or parts here are {here}, those of the row {row['digest']}"
                )

    def _row(self, finding: Finding, subject: Subject, row: Row, text: str) -> None:
        setting, key = self.opened.setting, key_of(row)
        attacks, why = _affordable(
            self.board, key, self.opened.attacks(subject), setting.threats[text], self.options.budget
        )
        if not attacks:
            finding.skipped = why
            return
        records = self._records(subject, attacks, text)
        told, here = _bits(self.board.samples, key, self.places), _found(records)
        margins = _Margins.of(subject, records)
        _compare_clean(finding, told[CLEAN, False], here[CLEAN, False], subject, margins)
        ran = [one for one in told if one in here and one[0] not in (CLEAN, WORST)]
        if ran:
            _compare_attacks(finding, told, here, ran, margins, row)
        finding.notes.insert(
            0, f"{len(self.places)} images, {', '.join(dict.fromkeys(printable(a) for a, _ in ran))}{why}"
        )

    def _records(self, subject: Subject, attacks: Mapping[str, Attack], text: str) -> pd.DataFrame:
        setting = self.opened.setting
        frames = []
        plan = setting.plan
        for _, ran in trial(
            setting, subject, attacks, setting.threats[text], f"{text}{plan.sees_through}", Records(None),
            lambda _: frozenset(), self.reporter,
        ):  # fmt: skip
            if ran.failed:
                raise UserError(f"an attack failed: {ran.failed}")
            frames.append(ran.rows)
        return pd.concat(frames, ignore_index=True)


def _affordable(
    board: Board, key: Key, attacks: Mapping[str, Attack], threat: Threat, budget: float
) -> tuple[dict[str, Attack], str]:
    """The attacks to run, and what to say of it: all whose result follows from seed and image, else the cheapest strong one."""
    own = {text: attack for text, attack in attacks.items() if not _of_their_own(attack, threat)}
    lines = [row for row in board.samples.to_dict("records") if key_of(row) == key]
    asked, left = dict.fromkeys(own, 0.0), {}
    for text in own:
        forms = [row for row in lines if base_of(str(row["attack"])) == base_of(text)]
        asked[text] = float(np.nansum([number_of(row["queries"]) for row in forms]))
        kept = [unpacked(str(row["left"]), int(float(row["n"]))) for row in forms]
        if kept:
            left[text] = float(np.logical_and.reduce(kept).mean())
    if not left:
        return {}, "no attack of it follows from seed and image alone"
    total = sum(asked[text] for text in left)
    if total <= budget:
        return {text: own[text] for text in left}, ""
    strong = min((text for text in left if left[text] <= min(left.values())), key=lambda text: asked[text])
    if asked[strong] > budget:
        return (
            {},
            f"its cheapest strong attack, {printable(strong)}, asks {asked[strong]:.0f} queries an image: --budget",
        )
    return {strong: own[strong]}, f" alone (all attacks ask {total:.0f} queries an image, --budget {budget:g})"


def _of_their_own(attack: Attack, threat: Threat) -> bool:
    """Whether a result depends on more than seed and image: on other images that it learns from, or on another library."""
    return prepares(attack, threat) or any(stage.foreign for stage in (attack, *attack.stages()))


def _bits(samples: pd.DataFrame, key: Key, places: NDArray[np.int64]) -> dict[tuple[str, bool], Bits]:
    """(attack, adaptive) -> which of the images at these places it leaves, as the leaderboard says."""
    own = [row for row in samples.to_dict("records") if key_of(row) == key]
    return {
        (str(row["attack"]), str(row["adaptive"]) == "true"): unpacked(str(row["left"]), int(float(row["n"])))[places]
        for row in own
    }


def _found(records: pd.DataFrame) -> dict[tuple[str, bool], Bits]:
    """The same as it came out here."""
    (one,) = trials(records)
    return {
        (line["attack"], line["adaptive"] == "true"): unpacked(line["left"], int(line["n"])) for line in lines_of(one)
    }


@dataclass(frozen=True, kw_only=True, eq=False)
class _Margins:
    """How far answers are from turning, in units of the usual margin of a clean image.

    Args:
        index: (k,) positions of the images. clean: (k,) of the clean ones. attacked: (k,) the most that any attack reached.
    """

    index: NDArray[np.int64]
    clean: NDArray[np.float64]
    attacked: NDArray[np.float64]

    @classmethod
    def of(cls, subject: Subject, records: pd.DataFrame) -> "_Margins":
        clean = subject.clean.margin.double().numpy()
        usual = max(float(np.nanmedian(np.abs(clean))), 1e-12)
        most = records.groupby("index")["margin"].max().reindex(subject.indices).to_numpy(dtype=float)
        return cls(index=subject.indices, clean=clean / usual, attacked=most / usual)


def _compare_clean(finding: Finding, told: Bits, here: Bits, subject: Subject, margins: _Margins) -> None:
    for place in np.flatnonzero(told != here):
        image, was = margins.index[place], "right" if told[place] else "wrong"
        text = f"clean: image {image} is answered {'wrongly' if told[place] else 'rightly'} here, and is {was} in the leaderboard"
        _add(finding, text, margins.clean[place])


def _compare_attacks(
    finding: Finding,
    told: Mapping[tuple[str, bool], Bits],
    here: Mapping[tuple[str, bool], Bits],
    ran: Sequence[tuple[str, bool]],
    margins: _Margins,
    row: Row,
) -> None:
    """What broke must break again; what held by all attacks, and breaks, is a stronger finding that lowers the row."""
    before, now = (np.logical_and.reduce([side[one] for one in ran]) for side in (told, here))
    for place in np.flatnonzero(~before & now):
        by = ", ".join(dict.fromkeys(printable(one[0]) for one in ran if not told[one][place]))
        _add(
            finding,
            f"image {margins.index[place]} is broken by {by} in the leaderboard, and holds here",
            margins.attacked[place],
        )
    stronger = np.flatnonzero(told[WORST, _worst(told)] & before & ~now)
    for number, place in enumerate(stronger, 1):
        by = ", ".join(dict.fromkeys(printable(one[0]) for one in ran if not here[one][place]))
        most = float(row["worst_case"]) - number / int(row["n"])
        text = f"image {margins.index[place]} holds in the leaderboard, and {by} breaks it here"
        _add(finding, f"{text}: worst_case is {most:.6g} at most", margins.attacked[place])


def _worst(told: Mapping[tuple[str, bool], Bits]) -> bool:
    """Whether the line of the worst case says that an attack knew the defense."""
    return (WORST, True) in told


def _add(finding: Finding, text: str, margin: float) -> None:
    """A fault; only a note where the answer is so near to turning that rounding decides it."""
    if abs(margin) <= BORDERLINE:
        finding.notes.append(f"{text} (borderline: another processor may round it so)")
    else:
        finding.faults.append(text)
