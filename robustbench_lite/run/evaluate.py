"""`evaluate`: the way through, from a plan or from a model and tensors to a table."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from robustbench_lite import data as datasets
from robustbench_lite.attack import Attack, needs_of, prepares, resolve_attack
from robustbench_lite.data.base import Dataset
from robustbench_lite.defense import resolve_defense
from robustbench_lite.errors import UserError
from robustbench_lite.networks import bound
from robustbench_lite.physical import Camera, resolve_camera
from robustbench_lite.results import diagnostics as checks
from robustbench_lite.results import physical as physics
from robustbench_lite.results.claims import claims, known
from robustbench_lite.results.metrics import summarise
from robustbench_lite.results.physical import CLEAN
from robustbench_lite.results.stages import by_stage
from robustbench_lite.run.cell import Cell, Ran, run_cell
from robustbench_lite.run.devices import find_device
from robustbench_lite.run.exact import steady_threads
from robustbench_lite.run.physical import Shown, digest, measure
from robustbench_lite.run.plan import Plan
from robustbench_lite.run.probes import probe_subject
from robustbench_lite.run.records import Records
from robustbench_lite.run.subject import Subject, behind, prepare
from robustbench_lite.run.systems import Builder, Built, borrowed
from robustbench_lite.run.tries import check as check_tries
from robustbench_lite.run.tries import sitting_of, tries, without_eot
from robustbench_lite.system import System
from robustbench_lite.threat import Threat
from robustbench_lite.training import threads_for

TIMINGS = (
    *("dataset", "model", "defense", "threat", "attack", "needs", "key", "expected", "seconds", "setup_seconds"),
    *("setup_queries", "batch_size", "floor", "failed", "stages"),
)


class Reporter(Protocol):
    """Who is told how the run goes; the command line draws bars, a library call is silent."""

    def begin(self, text: str, total: int) -> None: ...
    def advance(self, done: int, broken: int) -> None: ...
    def training(self, done: int, total: int, text: str) -> None: ...
    def note(self, text: str) -> None: ...


class Silent:
    """A reporter that says nothing."""

    def begin(self, text: str, total: int) -> None: ...
    def advance(self, done: int, broken: int) -> None: ...
    def training(self, done: int, total: int, text: str) -> None: ...
    def note(self, text: str) -> None: ...


@dataclass(kw_only=True)
class Result:
    """What an evaluation found.

    Args:
        plan: what was run. records: one row a sample and cell. timings: one row a cell. diagnostics: the checks.
        examples: (model, defense, threat, attack) -> {index: adversarial image (c, h, w)}, as many as were asked for.
        environment: versions, device, digests. out: where it lies on disk, or None.
        physical, sweep: behind a camera, what it shows of the examples (`results.physical`); else empty.
    """

    plan: Plan
    records: pd.DataFrame
    timings: pd.DataFrame
    diagnostics: pd.DataFrame
    examples: dict[tuple[str, str, str, str], dict[int, np.ndarray]] = field(default_factory=dict)
    clean_images: dict[int, np.ndarray] = field(default_factory=dict)
    class_names: tuple[str, ...] | None = None
    environment: dict[str, Any] = field(default_factory=dict)
    out: Path | None = None
    physical: pd.DataFrame = field(default_factory=pd.DataFrame)
    sweep: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def table(self) -> pd.DataFrame:
        """The summary: one row an attack, and the worst case over them, per system and threat."""
        return summarise(self.records, self.timings, self.diagnostics, expected=expected_of(self.timings))

    @property
    def claims(self) -> pd.DataFrame:
        """What each defense claims and what it is worth, where one hides something; see `results.claims`."""
        return claims(self.records, expected=expected_of(self.timings))

    @property
    def stages(self) -> pd.DataFrame:
        """The components of the attacks that are cascades; see `results.stages`."""
        return by_stage(self.records, self.timings)

    @property
    def failed(self) -> dict[str, str]:
        """Cells that did not finish, and why."""
        bad = self.timings[self.timings["failed"] != ""]
        names = bad["attack"] + " on " + bad["model"] + ", " + bad["defense"] + ", " + bad["threat"]
        return dict(zip(names, bad["failed"], strict=True))


def expected_of(timings: pd.DataFrame) -> dict[tuple[str, str, str, str, str], int]:
    """How many samples each cell was to have."""
    names = ["dataset", "model", "defense", "threat", "attack"]
    keys = timings[names].itertuples(index=False, name=None)
    return dict(zip(keys, timings["expected"].astype(int), strict=True))


def evaluate(
    model: "nn.Module | System | str | None" = None,
    x: Tensor | np.ndarray | None = None,
    y: Tensor | np.ndarray | None = None,
    *,
    attacks: Sequence[str | Attack] | str | Attack | None = None,
    threat: str | Threat | Sequence[str | Threat] | None = None,
    defense: str | Sequence[str] | None = None,
    dataset: str | None = None,
    targets: Tensor | None = None,
    out: str | Path | None = None,
    plan: Plan | None = None,
    reporter: Reporter | None = None,
    fresh: bool = False,
    **options: Any,
) -> Result:
    """Attack a model and say how robust it is.

    Args:
        model: an `nn.Module` from images in [0, 1] (normalisation inside) to logits, a `System`, or a spec string.
        x: (n, c, h, w) images in [0, 1], float, or uint8; y: (n,) labels. Without them, `dataset`.
        attacks: spec strings such as `pgd:steps=40`, or attack objects. threat: such as `Linf:8/255`, or several.
        defense: what to put around the model or train; `none` for a module.
        targets: (n,) classes for attacks with `target=column`.
        out: a folder to write to and resume from; without it nothing is written.
        options: the other fields of `Plan`: samples, seed, device, batch_size, precision, early_exit, diagnostics, …

    Raises:
        UserError: something in what was given; the message says what, and what is accepted.
    """
    plan = _planned(plan or Plan(), model, x, attacks, threat, defense, dataset, options)
    given = _objects(attacks)
    data = None if x is None else _tensors(x, y)
    return run(plan, model=model, data=data, attacks=given, targets=targets, out=out, reporter=reporter, fresh=fresh)


def run(
    plan: Plan,
    *,
    model: "nn.Module | System | str | None" = None,
    data: Dataset | None = None,
    attacks: Mapping[str, Attack] | None = None,
    targets: Tensor | None = None,
    out: str | Path | None = None,
    reporter: Reporter | None = None,
    fresh: bool = False,
) -> Result:
    """Run a plan; `evaluate` is the friendly front of this."""
    from robustbench_lite.run.output import Output

    reporter = reporter or Silent()
    threats = {text: Threat.parse(text) for text in plan.threats}
    camera = None if plan.physical is None else resolve_camera(plan.physical)
    chosen = {text: (attacks or {}).get(text) or resolve_attack(without_eot(text)) for text in plan.attacks}
    for text in plan.defenses:
        resolve_defense(text)
    device = find_device(plan.device)
    root = None if plan.data_root is None else Path(plan.data_root)
    if data is None:
        data = datasets.load(plan.dataset, "test", root=root, download=plan.download)
    indices = datasets.choose(data, plan.samples, plan.slice_seed)
    _check(chosen, threats, data, targets)
    check_tries(plan, chosen, threats)
    _check_camera(camera, threats)
    if any(prepares(attack, threat) for attack in chosen.values() for threat in threats.values()):
        datasets.outside(data, indices, 1)  # there must be something to learn from
    output = Output(None if out is None else Path(out), plan, fresh=fresh)
    collected = _Collected(plan=plan, data=data, indices=indices, output=output)
    output.begin(data, indices, device)
    with (
        steady_threads(threads_for(data, device)),
        borrowed(None if isinstance(model, str) else model, data, device) as given,
    ):
        builder = Builder(
            plan=plan,
            data=data,
            device=device,
            threats=tuple(threats.values()),
            training=reporter.training,
            given=given,
        )
        shelf = builder.shelf()
        for attack in chosen.values():  # a mistake in what they name is told before anything runs
            bound(attack, shelf.of(data.num_classes if given is None else given.num_classes))
        for built in builder.systems():
            subject = _subject(built, data, indices, plan, device)
            subject = subject if camera is None else behind(camera, subject, sitting_of(plan))
            own = {text: bound(attack, shelf.of(subject.system.num_classes)) for text, attack in chosen.items()}
            for threat_text, threat in threats.items():
                seen = f"{threat_text}{plan.sees_through}"
                _trial(subject, own, threat, seen, plan, output.records, reporter, collected, targets)
    return collected.result()


def _subject(built: Built, data: Dataset, indices: np.ndarray, plan: Plan, device: torch.device) -> Subject:
    return prepare(
        model=built.model,
        defense=built.defense,
        system=built.system,
        data=data,
        indices=indices,
        seed=plan.seed,
        device=device,
        adaptive=built.adaptive,
        hides=built.hides,
        batch=plan.batch_size,
        precision=plan.precision,
        sitting=sitting_of(plan),
    )


def _trial(
    subject: Subject,
    attacks: Mapping[str, Attack],
    threat: Threat,
    threat_text: str,
    plan: Plan,
    records: Records,
    reporter: Reporter,
    collected: "_Collected",
    targets: Tensor | None,
) -> None:
    """All attacks on one system under one threat, and the checks."""
    frames, needs = [], {}
    shown: list[Shown] = []
    for one in tries(plan, subject, attacks, threat):
        text, attack = one.text, one.attack
        cell = Cell(
            subject=subject,
            attack=attack.under(threat, subject.system.num_classes),
            attack_text=text,
            threat=threat,
            threat_text=threat_text,
            early_exit=plan.early_exit,
            precision="float32" if subject.reduced is None else plan.precision,
            targets=targets,
            keep=_keep(plan, len(subject.indices)),
            eot=one.eot,
            blind=one.blind,
            plain=one.plain,
        )
        cell, ran = _with_room(cell, records, reporter, collected.output.held)
        subject = cell.subject
        if ran.failed:
            reporter.note(f"{text} on {subject.model}, {subject.defense} failed: {ran.failed}")
        frames.append(ran.rows)
        needs[text] = needs_of(attack).value
        shown.append(collected.add(cell, ran))
    if plan.physical is not None:
        reporter.begin(f"what the camera sees of {subject.model}, {subject.defense}, {threat_text}", 0)
        collected.photograph(subject, resolve_camera(plan.physical), threat, threat_text, shown)
    if plan.diagnostics:
        reporter.begin(f"checks on {subject.model}, {subject.defense}, {threat_text}", 0)
        own = [known(pd.concat(filled))] if (filled := [frame for frame in frames if len(frame)]) else []
        collected.check(subject, threat_text, _checks(subject, threat, threat_text, own, needs, reporter))


def _with_room(
    cell: Cell, records: Records, reporter: Reporter, held: Callable[[str], frozenset[int]]
) -> tuple[Cell, Ran]:
    """Run the cell, with ever smaller micro-batches while the memory does not do; a new floor is a new key."""
    while True:
        subject = cell.subject
        reporter.begin(
            f"{cell.attack_text} on {subject.model}, {subject.defense}, {cell.threat_text}", len(subject.indices)
        )
        try:
            return cell, run_cell(cell, records, reporter.advance, held(cell.key))
        except (torch.OutOfMemoryError, MemoryError) as error:
            failed = f"out of memory with one image at a time: {error}"
        smaller = _smaller(subject, reporter)
        if smaller is None:
            return cell, Ran(rows=records.rows(cell.key), failed=failed)
        cell = replace(cell, subject=smaller)


def _checks(
    subject: Subject,
    threat: Threat,
    threat_text: str,
    frames: Sequence[pd.DataFrame],
    needs: dict[str, str],
    reporter: Reporter,
) -> list[checks.Diagnostic]:
    """The probes, with ever smaller micro-batches while the memory does not do."""
    own = [frame for frame in frames if len(frame)]
    if (
        subject.bare is not None
    ):  # the gradients of the system itself; what cameras break and spare is no sign of masking
        subject, own = replace(subject.bare, shapes=subject.shapes), []
    smaller: Subject | None = subject
    while smaller is not None:
        try:
            return probe_subject(smaller, threat, threat_text, own, needs)
        except (torch.OutOfMemoryError, MemoryError):
            pass
        smaller = _smaller(smaller, reporter)
    return [checks.unchecked(name, "out of memory") for name in ("zero-gradients", "survives-unbounded-eps")]


def _smaller(subject: Subject, reporter: Reporter) -> Subject | None:
    """The subject in smaller micro-batches, after the memory ran out; None where one image did not fit either."""
    shapes = subject.shapes.smaller()
    if shapes is None:
        return None
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    reporter.note(f"out of memory; going on with micro-batches of {shapes.most}")
    return replace(subject, shapes=shapes)


@dataclass(kw_only=True)
class _Collected:
    """What has been found so far, kept on disk as it grows."""

    plan: Plan
    data: Dataset
    indices: np.ndarray
    output: Any
    frames: list[pd.DataFrame] = field(default_factory=list)
    clocks: list[dict[str, Any]] = field(default_factory=list)
    found: dict[tuple[str, str, str, str], list[checks.Diagnostic]] = field(default_factory=dict)
    examples: dict[tuple[str, str, str, str], dict[int, np.ndarray]] = field(default_factory=dict)
    physical: list[pd.DataFrame] = field(default_factory=list)
    swept: list[pd.DataFrame] = field(default_factory=list)

    def photograph(self, subject: Subject, camera: Camera, threat: Threat, text: str, shown: Sequence[Shown]) -> None:
        """Measure what the camera shows of the clean images and of every attack's examples, or look it up."""
        draws = subject.sitting.count
        clean = Shown(attack=CLEAN, adaptive=False, key="", images={}, targets={})
        for one in (clean, *shown):
            measured = self.output.measured(
                digest(subject, camera, one, draws), partial(measure, subject, camera, one, draws)
            )
            names = (self.data.name, subject.model, subject.defense, text, one.attack, one.adaptive)
            who: dict[str, Any] = dict(zip(physics.WHO, names, strict=True))
            row = who | physics.figures(measured, targeted=threat.goal == "targeted") | {"key": one.key}
            self.physical.append(pd.DataFrame([row], columns=list(physics.COLUMNS)))
            self.swept.append(physics.swept(measured).assign(**who)[list(physics.SWEEP)])

    def add(self, cell: Cell, ran: Ran) -> Shown:
        """Keep what came of a cell; its examples, to be shown to a camera."""
        subject = cell.subject
        names = (subject.model, subject.defense, cell.threat_text, cell.attack_text + " (plain)" * cell.plain)
        self.frames.append(ran.rows)
        self.examples[names] = self.output.examples(cell.key, ran.examples)
        clock = dict(zip(("model", "defense", "threat", "attack"), (*names[:3], cell.attack_text), strict=True)) | {
            "dataset": self.data.name,
            "needs": needs_of(cell.attack).value,
            "key": cell.key,
            "expected": len(self.indices),
            "seconds": ran.seconds,
            "setup_seconds": ran.setup_seconds,
            "setup_queries": ran.setup_queries,
            "batch_size": subject.shapes.most,
            "floor": subject.shapes.floor,
            "failed": ran.failed,
            "stages": json.dumps(ran.stages) if len(cell.attack.stages()) > 1 else "",
        }
        self.clocks.append(self.output.clock(clock, subject))
        targets = dict(zip(ran.rows["index"].astype(int), ran.rows["target"].astype(int), strict=True))
        wanted = set(self.indices.tolist())
        images = {index: image for index, image in self.examples[names].items() if index in wanted}
        return Shown(attack=cell.attack_text, adaptive=cell.adaptive, key=cell.key, images=images, targets=targets)

    def check(self, subject: Subject, threat_text: str, found: list[checks.Diagnostic]) -> None:
        self.found[(self.data.name, subject.model, subject.defense, threat_text)] = found

    def result(self) -> Result:
        """Everything, written out where there is an output folder."""
        filled = [frame for frame in self.frames if len(frame)]
        records = pd.concat(filled, ignore_index=True) if filled else self.frames[0]
        timings = pd.DataFrame(self.clocks, columns=list(TIMINGS))
        result = Result(
            plan=self.plan,
            records=records,
            timings=timings,
            diagnostics=checks.frame(self._diagnosed(records, timings)),
            examples=self.examples,
            clean_images=self._clean_images(),
            class_names=self.data.class_names,
            physical=pd.concat(self.physical, ignore_index=True) if self.physical else pd.DataFrame(),
            sweep=pd.concat(self.swept, ignore_index=True) if self.swept else pd.DataFrame(),
        )
        self.output.end(result)
        return result

    def _diagnosed(
        self, records: pd.DataFrame, timings: pd.DataFrame
    ) -> dict[tuple[str, str, str, str], list[checks.Diagnostic]]:
        """What records alone tell, overruled by the probes where these looked closer."""
        if not len(records):
            return {}
        needs = dict(zip(timings["attack"], timings["needs"], strict=True))
        merged = {}
        for system, told in checks.from_records(known(records), needs=needs).items():
            probed = {one.name: one for one in self.found.get(system, [])}
            names = {one.name for one in told}
            merged[system] = [probed.get(one.name, one) for one in told] + [
                one for one in probed.values() if one.name not in names
            ]
        return merged

    def _clean_images(self) -> dict[int, np.ndarray]:
        """The clean images of the kept examples, for the picture."""
        wanted = sorted({index for kept in self.examples.values() for index in kept})[:64]
        if not wanted:
            return {}
        images = self.data.batch(np.array(wanted)).numpy()
        return dict(zip(wanted, images, strict=True))


def _keep(plan: Plan, count: int) -> frozenset[int]:
    every = plan.examples == "all" or plan.physical is not None
    return frozenset(range(count if every else min(int(plan.examples), count)))


def _objects(attacks: Sequence[str | Attack] | str | Attack | None) -> dict[str, Attack]:
    """The attacks that were given as objects, by what records call them."""
    every = [attacks] if isinstance(attacks, (str, Attack)) else list(attacks or ())
    found: dict[str, Attack] = {}
    for attack in every:
        if isinstance(attack, Attack) and found.setdefault(str(attack), attack) is not attack:
            raise UserError(f"two attacks are both called {attack}; give them options, or names, that tell them apart")
    return found


def _check(attacks: Mapping[str, Attack], threats: Mapping[str, Threat], data: Dataset, targets: Tensor | None) -> None:
    for attack in attacks.values():
        for threat in threats.values():
            attack.check(threat, data.num_classes)
            if threat.eps is None and len(attack.stages()) > 1:
                raise UserError(f"{attack.name} is a cascade and ends at the first break; it needs {threat.norm}:EPS")
            rule = threat.target if threat.goal == "targeted" else attack.target_rule
            if rule == "column":
                _check_column(targets, data)


def _check_camera(camera: Camera | None, threats: Mapping[str, Threat]) -> None:
    """A camera photographs an image; a threat that renders its images would do so anew behind it."""
    for text, threat in threats.items():
        if camera is not None and threat.rendered:
            raise UserError(
                f"physical is for threats in a norm; {text} moves or pastes its images itself: give one of the two"
            )


def _check_column(targets: Tensor | None, data: Dataset) -> None:
    if targets is None:
        raise UserError("target=column needs the targets: evaluate(…, targets=…) with one class an image")
    if len(targets) != len(data.labels) or not 0 <= int(targets.min()) <= int(targets.max()) < data.num_classes:
        raise UserError(
            f"targets: {len(targets)} from {int(targets.min())} to {int(targets.max())};"
            f" accepted: {len(data.labels)} classes from 0 to {data.num_classes - 1}"
        )


def _planned(
    plan: Plan,
    model: Any,
    x: Any,
    attacks: Any,
    threat: Any,
    defense: Any,
    dataset: str | None,
    options: Mapping[str, Any],
) -> Plan:
    """The plan of a library call; what a plan cannot hold (a module, tensors) gets a name in it."""
    changes: dict[str, Any] = dict(options)
    if model is not None:
        changes["models"] = (model if isinstance(model, str) else _name_of(model),)
        changes["defenses"] = ("none",)
    if x is not None:
        changes["dataset"] = "tensors"
        changes.setdefault("samples", "all")
    for name, value in (("attacks", attacks), ("threats", threat), ("defenses", defense)):
        if value is not None:
            many = [value] if isinstance(value, (str, Attack, Threat)) else list(value)
            changes[name] = tuple(str(one) for one in many)
    if dataset is not None:
        changes["dataset"] = dataset
    if "samples" in changes and changes["samples"] is not None:
        changes["samples"] = str(changes["samples"])
    if "examples" in changes:
        changes["examples"] = str(changes["examples"])
    unknown = set(changes) - set(Plan.__dataclass_fields__)
    if unknown:
        raise UserError(f"evaluate has no option {sorted(unknown)[0]!r}; it has {', '.join(Plan.__dataclass_fields__)}")
    return replace(plan, **changes)


def _name_of(model: Any) -> str:
    return str(model.name) if isinstance(model, System) else type(model).__name__


def _tensors(x: Tensor | np.ndarray, y: Tensor | np.ndarray | None) -> Dataset:
    """A dataset of the caller's tensors, without copying them."""
    from robustbench_lite.data.tensors import from_tensors

    if y is None:
        raise UserError("evaluate got x without y; give the labels too")
    return from_tensors(x, y)
