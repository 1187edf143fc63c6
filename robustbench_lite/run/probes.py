"""Cheap checks that an evaluation makes besides its attacks, on at most 100 samples; their cost is counted apart."""

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd
import torch

from robustbench_lite.attack import Needs, resolve_attack
from robustbench_lite.objectives import Goal, cross_entropy
from robustbench_lite.oracle import Oracle
from robustbench_lite.results import diagnostics
from robustbench_lite.results.diagnostics import Diagnostic
from robustbench_lite.run.cell import Cell, Ran, run_cell
from robustbench_lite.run.records import Records
from robustbench_lite.run.subject import Subject
from robustbench_lite.threat import Threat

MOST = 100
_DUST = 1e-5
NOISE, ONE_STEP, UNBOUNDED = "noise:draws=10", "fgsm", "pgd:steps=20,restarts=1"


def probe_subject(
    subject: Subject, threat: Threat, threat_text: str, own: Sequence[pd.DataFrame], needs: dict[str, str]
) -> list[Diagnostic]:
    """The diagnostics of one system under one threat.

    Args:
        own: the records of the plan's attacks on it. needs: attack text -> what it needs.
    """
    chosen = _chosen(subject)
    frame = pd.concat(own, ignore_index=True) if own else pd.DataFrame()
    found = [_probabilities(subject)]
    if not len(chosen):
        why = "no sample is right on its clean image"
        names = ("zero-gradients", "survives-unbounded-eps", "noise-beats-gradient", "one-step-beats-iterative")
        return [*found, *(diagnostics.unchecked(name, why) for name in names)]
    found += [_zero_gradients(subject, chosen, threat), _unbounded(subject, chosen, threat)]
    if not len(frame) or threat.aim == "minimum-norm" or threat.goal == "targeted":
        return found
    return [*found, *_compared(subject, chosen, threat, threat_text, frame, needs)]


def _chosen(subject: Subject) -> torch.Tensor:
    """The first samples of the slice that are right on their clean images, as positions."""
    return (~subject.clean.wrong).nonzero().squeeze(1)[:MOST]


def _probabilities(subject: Subject) -> Diagnostic:
    scores = subject.clean.scores
    in_range = bool(((scores >= -_DUST) & (scores <= 1 + _DUST)).all())
    found = in_range and bool(((scores.sum(1) - 1).abs() < _DUST).all())
    return diagnostics.outputs_are_probabilities(found, len(scores))


def _zero_gradients(subject: Subject, chosen: torch.Tensor, threat: Threat) -> Diagnostic:
    """The share of samples whose cross-entropy gradient, as the attacks see it, is exactly zero."""
    zero = 0
    for begin, end in subject.shapes.chunks(len(chosen)):
        x, y, draws = subject.load(chosen[begin:end])
        index = subject.shapes.padding(end - begin, x.device)
        x, y, draws = x[index], y[index], draws[index]
        oracle = Oracle(
            subject.fast, Needs.GRADIENTS, x, Goal(y=y), threat, draws, adaptive=subject.adaptive, watch=False
        )
        try:
            grads = oracle.query(x, cross_entropy, probe=True).grads
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # a model that leaves torch on its way
            return diagnostics.zero_gradients(None, detail=f"no gradient: {error}".splitlines()[0])
        assert grads is not None
        zero += int((grads[0, : end - begin] == 0).flatten(1).all(1).sum())
    return diagnostics.zero_gradients(zero / len(chosen), len(chosen))


def _unbounded(subject: Subject, chosen: torch.Tensor, threat: Threat) -> Diagnostic:
    """A gradient attack that may draw any image."""
    attack = resolve_attack(UNBOUNDED)
    if threat.norm not in attack.norms:
        return diagnostics.survives_unbounded_eps(None, 0.0, 0, f"{attack.name} does not support {threat.norm}")
    wide = Threat(norm=threat.norm, eps=threat.geometry.covers(subject.data.shape))
    ran = _ran(subject, chosen, UNBOUNDED, wide)
    if ran.failed:
        return diagnostics.survives_unbounded_eps(None, 0.0, 0, f"{attack.name} failed: {ran.failed}")
    labels = subject.labels[chosen]
    prior = float(labels.bincount().max()) / len(labels)
    return diagnostics.survives_unbounded_eps(1 - float(ran.rows["broken"].mean()), prior, len(chosen))


def _compared(
    subject: Subject,
    chosen: torch.Tensor,
    threat: Threat,
    threat_text: str,
    frame: pd.DataFrame,
    needs: dict[str, str],
) -> list[Diagnostic]:
    """Weak attacks against strong ones: the plan's own records, with a probe for a weak attack that it lacks."""
    noise = diagnostics.noise_beats_gradient(frame, needs)
    one_step = diagnostics.one_step_beats_iterative(frame)
    part = frame[frame["index"].isin(subject.indices[chosen.numpy()])]
    found = []
    for one, probe, kind in ((noise, NOISE, "noise"), (one_step, ONE_STEP, "one-step")):
        if (
            one.status == "unchecked"
            and f"no {kind} attack" in one.detail
            and threat.norm in resolve_attack(probe).norms
        ):
            ran = _ran(subject, chosen, probe, threat)
            if ran.failed:
                found.append(diagnostics.unchecked(one.name, f"{probe} failed: {ran.failed}"))
                continue
            both = pd.concat([part, ran.rows.assign(threat=threat_text)], ignore_index=True)
            one = (
                diagnostics.noise_beats_gradient(both, {**needs, probe: "labels"})
                if kind == "noise"
                else diagnostics.one_step_beats_iterative(both)
            )
        found.append(one)
    return found


def _ran(subject: Subject, chosen: torch.Tensor, attack: str, threat: Threat) -> Ran:
    """What a probe found, in memory."""
    small = _narrowed(subject, chosen)
    cell = Cell(
        subject=small, attack=resolve_attack(attack), attack_text=attack, threat=threat, threat_text=str(threat)
    )
    return run_cell(cell, Records(None), lambda done, broken: None)


def _narrowed(subject: Subject, chosen: torch.Tensor) -> Subject:
    return replace(subject, indices=subject.indices[chosen.numpy()], clean=subject.clean[chosen], reduced=None)
