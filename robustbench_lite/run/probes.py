"""Cheap checks that an evaluation makes besides its attacks, on at most 100 samples; their cost is counted apart."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch

from robustbench_lite.attack import Attack, prepares, resolve_attack
from robustbench_lite.errors import ModelError, UserError
from robustbench_lite.objectives import Goal
from robustbench_lite.oracle import overheard
from robustbench_lite.results import diagnostics
from robustbench_lite.results.diagnostics import Diagnostic
from robustbench_lite.results.fates import trials
from robustbench_lite.run import gradient_probes
from robustbench_lite.run.budget import Budget
from robustbench_lite.run.cell import Cell
from robustbench_lite.run.consistency import Questions, answers_vary, how_many
from robustbench_lite.run.detector_probes import detector_without_slope, on_the_grid
from robustbench_lite.run.records import Records
from robustbench_lite.run.run_cell import Ran, run_cell
from robustbench_lite.run.subject import Subject
from robustbench_lite.run.tape import Attacked, Tape
from robustbench_lite.run.tries import draws_of, without_eot
from robustbench_lite.run.verdict import judge
from robustbench_lite.threat import Threat

MOST = 100
_DUST = 1e-5
UNBOUNDED = "pgd:steps=20,restarts=1"
#: Where a weak attack alone breaks a few samples, a gradient attack with another objective and pace has a second try at them:
#: a search now and then finds what a good one missed, and what this one breaks is not hidden from gradients. More than
#: `FEW` of the samples is no accident.
SECOND, FEW = "apgd:objective=margin,restarts=5", 0.05
#: what is tried where a detector's score has no slope: a joint attack by scores, and one on the classifier alone
BY_SCORES, CLASSIFIER_ALONE = "square:queries=500,rescale=true", "pgd:steps=20,restarts=1,objective=margin"
#: diagnostics that set a weak attack against the plan's strong ones, and the probe where the plan has none of the kind
COMPARED = {
    "noise-beats-gradient": "noise:draws=100",
    "one-step-beats-iterative": "fgsm",
    "black-box-beats-gradient": "square:queries=200,rescale=true",
    "transfer-beats-gradient": None,
    "doubling-breaks-more": None,
}


def probe_subject(
    subject: Subject,
    threat: Threat,
    threat_text: str,
    own: Sequence[pd.DataFrame],
    needs: dict[str, str],
    budget: Budget | None = None,
    *,
    left: Sequence[tuple[pd.DataFrame, Mapping[int, np.ndarray]]] = (),
    tape: Tape | None = None,
) -> list[Diagnostic]:
    """The diagnostics of one system under one threat.

    Args:
        own: the records of the plan's attacks on it. needs: attack text -> what it needs.
        budget: asked before each probe; the checks of what a system says, which cost little and tell most, are always made.
        left: of each attack the records, and kept examples by index. tape: what the attacks asked.
    """
    tape = tape or Tape(subject=subject)
    with overheard(tape):
        found = _of_attacks(subject, threat, own, needs, tape, budget or Budget())
    return [*checks_of_answers(subject, threat, left, tape), *found]


def checks_of_answers(
    subject: Subject, threat: Threat, left: Sequence[tuple[pd.DataFrame, Mapping[int, np.ndarray]]], tape: Tape
) -> list[Diagnostic]:
    """Checks of what the system says, wherever and whenever it is asked."""
    found = [_probabilities(subject)]
    if subject.before is None:
        why = "nothing was asked before the attacks"
        return [*found, *(diagnostics.unchecked(name, why) for name in ANSWERS)]
    attacked = Attacked.of(subject, left, how_many(subject))
    asked = Questions(subject=subject, threat=threat, before=subject.before, attacked=attacked, tape=tape)
    return [*found, *(_checked(name, check, asked) for name, check in ANSWERS.items())]


def _checked(name: str, check: Callable[[Questions], Diagnostic], asked: Questions) -> Diagnostic:
    """What the check says; unchecked where the network fails on what it is shown."""
    try:
        return check(asked)
    except ModelError as error:
        return diagnostics.unchecked(name, str(error), for_now=True)


def _of_attacks(
    subject: Subject,
    threat: Threat,
    own: Sequence[pd.DataFrame],
    needs: dict[str, str],
    tape: Tape,
    budget: Budget,
) -> list[Diagnostic]:
    """Checks of gradients, and of attacks against each other."""

    def check(name: str, make: Callable[[], Diagnostic]) -> Diagnostic:
        found = budget.check(name, make)
        tape.turn()
        return found

    chosen = _chosen(subject)
    frame = pd.concat(own, ignore_index=True) if own else pd.DataFrame()
    found = list[Diagnostic]()
    if subject.system.detector is not None:
        of_detector = partial(_of_detector, subject, chosen, threat, frame)
        found.append(check("detector-without-slope", of_detector))
    if subject.hides and len(chosen):
        vanish = partial(gradient_probes.plain_gradients_vanish, subject, chosen, threat)
        found.append(check("plain-gradients-vanish", vanish))
    if not len(chosen):
        why = "no sample is right on its clean image"
        return [*found, *(diagnostics.unchecked(name, why) for name in (*ON_CLEAN, *COMPARED))]
    if threat.rendered:
        here = [
            check(name, partial(probe, subject, chosen, threat))
            for name, probe in ON_CLEAN.items()
            if name not in IN_A_NORM
        ]
        return [
            *found,
            *here,
            *(diagnostics.unchecked(name, f"{threat.norm} is no norm") for name in (*IN_A_NORM, *COMPARED)),
        ]
    found += [check(name, partial(probe, subject, chosen, threat)) for name, probe in ON_CLEAN.items()]
    if not len(frame) or threat.aim == "minimum-norm" or threat.goal == "targeted":
        return found
    compared = partial(_compared, subject=subject, chosen=chosen, threat=threat, frame=frame, needs=needs)
    return [*found, *(check(name, partial(compared, name)) for name in COMPARED)]


def _of_detector(subject: Subject, chosen: torch.Tensor, threat: Threat, frame: pd.DataFrame) -> Diagnostic:
    """Whether the detector's score has a slope; and what attacks without one make of the survivors.

    Examples on the levels of the images are always tried: a slope that is there may belong to another part of the score.
    """
    name = "detector-without-slope"
    if not len(chosen):
        return diagnostics.unchecked(name, "no sample is right on its clean image")
    told = detector_without_slope(subject, chosen, threat)
    lost = (
        frame.loc[frame["broken"].astype(bool), "index"].to_numpy(dtype=np.int64)
        if len(frame)
        else np.empty(0, np.int64)
    )
    alive = chosen[torch.from_numpy(~np.isin(subject.indices[chosen.numpy()], lost))]
    if not len(alive):
        return told
    broken, text = _on_the_grid(subject, alive, threat)
    if told.status == "fired":
        tries = [_by_scores(subject, alive, threat), text]
        return replace(told, detail="; ".join(one for one in tries if one) or told.detail)
    if len(broken) <= FEW * len(chosen):
        return told
    ran = _ran(replace(subject, adaptive=True), broken, resolve_attack(SECOND), threat)
    share = 0.0 if ran.failed else int((~ran.rows["broken"].astype(bool)).sum()) / len(chosen)
    return replace(told, status="fired", value=share, detail=f"{text}; {SECOND} does not") if share > FEW else told


def _by_scores(subject: Subject, alive: torch.Tensor, threat: Threat) -> str:
    """What a joint attack by scores makes of these samples, in words."""
    attack = resolve_attack(BY_SCORES)
    if threat.norm not in attack.norms:
        return ""
    ran = _ran(replace(subject, adaptive=True), alive, attack, threat)
    if ran.failed:
        return f"{attack} failed: {ran.failed}"
    return f"{attack}, which needs no slope, breaks {int(ran.rows['broken'].sum())} of {len(alive)} that are left"


def _on_the_grid(subject: Subject, alive: torch.Tensor, threat: Threat) -> tuple[torch.Tensor, str]:
    """Which of these samples break where the classifier alone is attacked and the examples lie on the images' levels."""
    attack = resolve_attack(CLASSIFIER_ALONE)
    if threat.norm != "Linf" or not threat.eps or threat.goal == "targeted":
        return alive[:0], ""
    ran = _ran(subject.plain, alive, attack, threat, keep=True)
    x, y, draws = subject.load(alive)
    held = [ran.examples.get(int(index)) for index in subject.indices[alive.numpy()]]
    adv = torch.stack([x[row] if one is None else torch.from_numpy(one).to(x.device) for row, one in enumerate(held)])
    shown = on_the_grid(x, adv, threat.radius)
    if shown is None:
        return alive[:0], ""
    verdict = judge(subject.system, x, Goal(y=y), threat, shown, draws, subject.shapes, subject.sitting)
    broken = alive[verdict.broken.cpu()]
    return broken, f"examples of the classifier on the levels of the images break {len(broken)} of {len(alive)}"


def _chosen(subject: Subject) -> torch.Tensor:
    """The first samples of the slice that are right on their clean images, as positions."""
    return (~subject.clean.wrong).nonzero().squeeze(1)[:MOST]


def _probabilities(subject: Subject) -> Diagnostic:
    scores = subject.clean.scores
    in_range = bool(((scores >= -_DUST) & (scores <= 1 + _DUST)).all())
    found = in_range and bool(((scores.sum(1) - 1).abs() < _DUST).all())
    return diagnostics.outputs_are_probabilities(found, len(scores))


def _unbounded(subject: Subject, chosen: torch.Tensor, threat: Threat) -> Diagnostic:
    """A gradient attack that may draw any image."""
    attack = resolve_attack(UNBOUNDED)
    if threat.norm not in attack.norms:
        return diagnostics.survives_unbounded_eps(None, 0.0, 0, f"{attack.name} does not support {threat.norm}")
    wide = Threat(norm=threat.norm, eps=threat.geometry.covers(subject.data.shape))
    ran = _ran(subject, chosen, attack, wide)
    if ran.failed:
        return diagnostics.survives_unbounded_eps(None, 0.0, 0, f"{attack.name} failed: {ran.failed}")
    labels = subject.labels[chosen]
    prior = float(labels.bincount().max()) / len(labels)
    return diagnostics.survives_unbounded_eps(1 - float(ran.rows["broken"].mean()), prior, len(chosen))


def _compared(
    name: str, subject: Subject, chosen: torch.Tensor, threat: Threat, frame: pd.DataFrame, needs: dict[str, str]
) -> Diagnostic:
    """A weak attack against the plan's strong ones: by the plan's records, else by a probe on what these left unbroken."""
    if name == "doubling-breaks-more":
        attack = _longest(frame, needs, threat, averaged=subject.system.randomised)
        if attack is None:
            return diagnostics.unchecked(name, "no attack with a number of steps was run at fixed eps")
        return _on_survivors(name, replace(subject, seed=subject.seed + 1), chosen, threat, frame, needs, attack)
    trial = next(trials(frame))
    told = diagnostics.beaten(name, trial, needs)
    probe = COMPARED[name]
    if told.status == "fired":
        return _second(told, subject, diagnostics.alone(name, trial, needs).to_numpy(dtype=np.int64), threat)
    if probe is None or told.status != "unchecked" or f"no {diagnostics.RIVALS[name][0]} attack" not in told.detail:
        return told
    attack = resolve_attack(probe)
    if threat.norm not in attack.norms:
        return told
    return _on_survivors(name, subject, chosen, threat, frame, needs, attack)


def _on_survivors(
    name: str,
    subject: Subject,
    chosen: torch.Tensor,
    threat: Threat,
    frame: pd.DataFrame,
    needs: dict[str, str],
    attack: Attack,
) -> Diagnostic:
    """The share of the chosen samples that the strong attacks of the plan left unbroken and this one breaks."""
    rivals = "noise-beats-gradient" if name == "doubling-breaks-more" else name
    strong = diagnostics.sides(rivals, needs)[1]
    tried = frame[frame["attack"].map(strong)]
    if tried.empty:
        return diagnostics.unchecked(name, f"no {diagnostics.RIVALS[rivals][1]} attack at fixed eps was run")
    index = subject.indices[chosen.numpy()]
    lost = tried.loc[tried["broken"].astype(bool) & tried["valid"].astype(bool), "index"]
    alive = chosen[torch.from_numpy(~np.isin(index, lost.to_numpy(dtype=np.int64)))]
    names = f"{attack} against {', '.join(tried['attack'].unique())}"
    if not len(alive):
        return diagnostics.judged(name, 0.0, len(chosen), f"nothing survived {', '.join(tried['attack'].unique())}")
    ran = _ran(subject, alive, attack, threat)
    if ran.failed:
        return diagnostics.unchecked(name, f"{attack} failed: {ran.failed}", for_now=True)
    broken = ran.rows[ran.rows["broken"].astype(bool)]
    told = diagnostics.judged(name, len(broken) / len(chosen), len(chosen), names)
    if name == "doubling-breaks-more" or told.status != "fired":
        return told
    return _second(told, subject, broken["index"].to_numpy(dtype=np.int64), threat)


def _second(told: Diagnostic, subject: Subject, alone: np.ndarray, threat: Threat) -> Diagnostic:
    """What is left of a check that fired after the second try at the samples that the weak attack alone broke."""
    attack = resolve_attack(SECOND)
    if told.value > FEW or threat.norm not in attack.norms:
        return told
    ran = _ran(subject, torch.from_numpy(np.isin(subject.indices, alone).nonzero()[0]), attack, threat)
    if ran.failed:
        return told
    left = len(alone) - int(ran.rows["broken"].sum())
    return diagnostics.judged(told.name, left / told.n, told.n, f"{told.detail} (second try: {attack})")


def _longest(frame: pd.DataFrame, needs: dict[str, str], threat: Threat, *, averaged: bool) -> Attack | None:
    """The gradient attack of the plan that has broken the most, of those with steps, with twice as many.

    One that averaged over draws is left out: the probe does not.
    """
    counts = frame.groupby("attack", sort=False)["broken"].sum().sort_values(ascending=False, kind="stable")
    texts = [str(text) for text in counts.index if needs.get(str(text)) == "gradients"]
    texts = [without_eot(text) for text in texts if not averaged or draws_of(text) is None]
    return next(filter(None, (_twice(text, threat) for text in texts)), None)


def _twice(text: str, threat: Threat) -> Attack | None:
    """The attack with twice its steps, of one restart; None where it has no number of steps, or is given as an object."""
    try:
        attack = resolve_attack(text)
    except UserError:
        return None
    steps = getattr(attack, "steps", None)
    if not isinstance(steps, int) or len(attack.stages()) > 1 or attack.foreign or prepares(attack, threat):
        return None
    longer: dict[str, Any] = {"steps": 2 * steps} | ({"restarts": 1} if hasattr(attack, "restarts") else {})
    return replace(attack, **longer)


def _ran(subject: Subject, chosen: torch.Tensor, attack: Attack, threat: Threat, *, keep: bool = False) -> Ran:
    """What a probe found, in memory; with its examples where they are to be kept."""
    small, kept = _narrowed(subject, chosen), frozenset(range(len(chosen) if keep else 0))
    cell = Cell(
        subject=small, attack=attack, attack_text=str(attack), threat=threat, threat_text=str(threat), keep=kept
    )
    return run_cell(cell, Records(None), lambda done, broken: None)


#: the attacks that the checks make
PROBING = (UNBOUNDED, SECOND, BY_SCORES, CLASSIFIER_ALONE, *filter(None, COMPARED.values()))
#: diagnostics that are probed on clean images that the system gets right
ON_CLEAN: dict[str, Callable[[Subject, torch.Tensor, Threat], Diagnostic]] = {
    "nonfinite-gradients": gradient_probes.nonfinite_gradients,
    "zero-gradients": gradient_probes.zero_gradients,
    "loss-stands-still": gradient_probes.loss_stands_still,
    "gradients-mislead": gradient_probes.gradients_mislead,
    "differentiates-inside": lambda subject, chosen, threat: gradient_probes.differentiates_inside(subject, chosen),
    "survives-unbounded-eps": _unbounded,
}
#: checks of what a system says to the same images, wherever and whenever they are shown; they come before all others
ANSWERS: dict[str, Callable[[Questions], Diagnostic]] = {
    "answers-vary": answers_vary,
    "order-dependent": lambda asked: asked.order,
    "mode-dependent": lambda asked: asked.mode,
    "stateful": lambda asked: asked.state,
}
#: everything that is probed of any system
PROBES = ("outputs-are-probabilities", *ANSWERS, *ON_CLEAN, *COMPARED)
#: those of them that take steps in a norm
IN_A_NORM = ("loss-stands-still", "survives-unbounded-eps")


def _narrowed(subject: Subject, chosen: torch.Tensor) -> Subject:
    return replace(subject, indices=subject.indices[chosen.numpy()], clean=subject.clean[chosen], reduced=None)
