"""The laws of defenses: each takes a `Case`, a defense on a small network, and raises where it breaks.

A crash inside a law is a finding too.
"""

import math
import re
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_lite import plugins, specs
from robustbench_lite.attack import resolve_attack
from robustbench_lite.defense import Defense, resolve_defense
from robustbench_lite.objectives import Goal, margin
from robustbench_lite.randomness import Draws
from robustbench_lite.system import Outputs, Purifier, System
from robustbench_lite.testing import options
from robustbench_lite.testing.probes import fingerprint
from robustbench_lite.testing.report import LawError, generators, seed_generators
from robustbench_lite.testing.workbench import Case


def law_says_what_it_is(case: Case) -> None:
    """Name, docstring, and how the plain adversary relates to one who knows the defense."""
    defense, kind = case.defense, type(case.defense)
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", getattr(defense, "name", "")):
        raise LawError(f"name={getattr(defense, 'name', None)!r}; write it in lower case with dashes")
    if not (kind.__doc__ or "").strip() or (kind.__doc__ or "").startswith(f"{kind.__name__}("):
        raise LawError("the class has no docstring")
    if defense.adaptivity not in ("plain-is-adaptive", "adaptive", "unaudited"):
        raise LawError(f"adaptivity={defense.adaptivity!r}; accepted: plain-is-adaptive, adaptive, unaudited")
    if defense.adaptivity == "plain-is-adaptive" and not defense.why_plain.strip():
        raise LawError("adaptivity is plain-is-adaptive, and why_plain does not say why")
    if defense.adaptivity == "unaudited" and kind.__module__.startswith("robustbench_lite."):
        raise LawError("a built-in defense owes an adaptive oracle, or the reason why the plain one is it")


def law_prints_back(case: Case) -> None:
    """The spec string of the defense reads back to an equal defense."""
    options.prints_back(case.defense, lambda text: _read(case.defense, text))


def law_refuses_bad_options(case: Case) -> None:
    """An unknown option and a number without meaning are a `UserError`."""
    options.refuses_unknown(case.defense)
    options.refuses_nonsense(case.defense, lambda given: True)


def law_returns_a_frozen_system_in_eval_mode(case: Case) -> None:
    """What comes out is a `System` of the same images and classes, in eval mode, with frozen weights."""
    given, system = case.given(), case.system
    if not isinstance(system, System):
        raise LawError(f"defend returned {type(system).__name__}, not a System")
    if (system.num_classes, tuple(system.input_shape)) != (given.num_classes, given.input_shape):
        raise LawError("the defended system takes other images or tells other classes apart")
    for module in _modules(system):
        if any(part.training for part in module.modules()):
            raise LawError("a module is in train mode")
        if any(parameter.requires_grad for parameter in module.parameters()):
            raise LawError("a parameter is not frozen")


def law_leaves_what_it_wraps_alone(case: Case) -> None:
    """A defense that does not train changes neither the weights nor the parts of the system that it is given."""
    if case.defense.trains:
        return
    given = case.given()
    before, parts = fingerprint(given.model), (given.purifiers, given.detector, given.differentiable_as)
    case.defended(given)
    if fingerprint(given.model) != before or parts != (given.purifiers, given.detector, given.differentiable_as):
        raise LawError("the system that it was given changed")


def law_same_seed_same_system(case: Case) -> None:
    """Built twice with the same seed, the systems agree in every bit, whatever the global generators hold."""
    seed_generators(1)
    again = case.defended(case.given())
    if again.digest != case.system.digest:
        raise LawError("two systems from the same seed differ in weights, parts or threshold")
    if not torch.equal(_answers(again, case).scores, _answers(case.system, case).scores):
        raise LawError("two systems from the same seed answer differently")


def law_leaves_global_generators_alone(case: Case) -> None:
    """Neither building nor answering moves the global generators of torch, numpy and Python."""
    given, before = case.given(), generators()
    system = case.defended(given)
    if generators() != before:
        raise LawError("a global generator moved while it was built")
    _answers(system, case)
    if generators() != before:
        raise LawError("a global generator moved while it answered; draw from `draws`")


def law_answers_have_the_right_shape(case: Case) -> None:
    """Scores are (n, k) float32 and finite; a detector's answers are (n,) and finite, its threshold too."""
    outputs, count = _answers(case.system, case), len(case.x)
    if outputs.scores.shape != (count, case.num_classes) or outputs.scores.dtype != torch.float32:
        raise LawError(f"scores are {outputs.scores.dtype}{tuple(outputs.scores.shape)}")
    if not bool(outputs.scores.isfinite().all()):
        raise LawError("scores are not finite")
    if case.system.detector is not None and not math.isfinite(case.system.detector.threshold):
        raise LawError(f"the detector's threshold is {case.system.detector.threshold}")
    if outputs.reject is not None and (outputs.reject.shape != (count,) or not bool(outputs.reject.isfinite().all())):
        raise LawError(f"the detector's answers are {tuple(outputs.reject.shape)}, or not finite")


def law_rows_do_not_mix(case: Case) -> None:
    """An image is answered alike alone and in a batch, but for rounding."""
    together = _answers(case.system, case)
    for row in (0, len(case.x) - 1):
        with torch.no_grad():
            alone = case.system(case.x[row : row + 1], case.draws()[torch.tensor([row])], 0)
        if not torch.allclose(alone.scores[0], together.scores[row], rtol=1e-3, atol=1e-4):
            raise LawError(f"image {row} is answered differently alone")


def law_purifiers_return_images(case: Case) -> None:
    """What a purifier returns has the shape of what it was given, and lies in [0, 1] unless it is Gaussian noise alone."""
    for part in case.system.purifiers:
        with torch.no_grad():
            clean = part.apply(case.x, case.draws(), 0)
        if clean.shape != case.x.shape or clean.dtype != torch.float32:
            raise LawError(f"{part.name} returns {clean.dtype}{tuple(clean.shape)}")
        if not part.noise and not bool(((clean >= 0) & (clean <= 1)).all()):
            raise LawError(f"{part.name} leaves [0, 1]")


def law_a_gradient_of_zero_has_a_surrogate(case: Case) -> None:
    """A purifier without a gradient names a differentiable stand-in, and a detector's score has a gradient."""
    for part in case.system.purifiers:
        if _dead(case.x, lambda leaf, part=part: _shown(part, leaf, case.draws())):  # type: ignore[misc]
            raise LawError(f"{part.name} has no gradient and no surrogate; an adaptive adversary differentiates one")
    detector = case.system.detector
    if detector is not None and _dead(case.x, lambda leaf: detector.reject(leaf, case.draws(), 0)):
        raise LawError(f"the score of {detector.name} has no gradient for an adaptive adversary to follow")


def law_the_adaptive_adversary_sees_the_same_system(case: Case) -> None:
    """The adaptive adversary sees the answers of the deployed system, and has a gradient to follow."""
    deployed, goal = _answers(case.system, case), Goal(y=case.train.labels_at(np.arange(len(case.x))))
    with torch.no_grad():
        seen = case.system(case.x, case.draws(), 0, adaptive=True)
    if not torch.equal(seen.prediction(), deployed.prediction()):
        raise LawError("the adaptive adversary is shown other answers than the deployed system gives")
    if _dead(case.x, lambda leaf: margin(case.system(leaf, case.draws(), 0, adaptive=True), goal)):
        raise LawError("the margin has no gradient even for an adaptive adversary")


def law_random_parts_draw_from_the_sample(case: Case) -> None:
    """The same draws give the same answer, and other draws another one where the system calls itself random."""
    answers = []
    for state, seed in ((1, 0), (2, 0), (2, 1)):
        seed_generators(state)
        answers.append(_answers(case.system, case, seed).scores)
    if not torch.equal(answers[0], answers[1]):
        raise LawError("the same draws give different answers; draw from `draws`")
    if torch.equal(answers[1], answers[2]) is case.system.randomised:
        changed, said = ("no", "random") if case.system.randomised else ("other", "deterministic")
        raise LawError(f"other draws give {changed} answers, and the system calls itself {said}")


LAWS: tuple[Callable[[Case], None], ...] = (
    law_says_what_it_is,
    law_prints_back,
    law_refuses_bad_options,
    law_returns_a_frozen_system_in_eval_mode,
    law_leaves_what_it_wraps_alone,
    law_same_seed_same_system,
    law_leaves_global_generators_alone,
    law_answers_have_the_right_shape,
    law_rows_do_not_mix,
    law_purifiers_return_images,
    law_a_gradient_of_zero_has_a_surrogate,
    law_the_adaptive_adversary_sees_the_same_system,
    law_random_parts_draw_from_the_sample,
)


@torch.no_grad()
def _answers(system: System, case: Case, seed: int = 0) -> Outputs:
    return system(case.x, case.draws(seed), 0)


def _modules(system: System) -> tuple[nn.Module, ...]:
    soft = () if system.differentiable_as is None else (system.differentiable_as,)
    return (system.model, *soft, *(system.detector.modules if system.detector else ()))


def _shown(part: Purifier, leaf: Tensor, draws: Draws) -> Tensor:
    """What the adaptive adversary differentiates."""
    if part.derived is not None:
        return part.derived(leaf, draws, 0)
    return part.apply(leaf, draws, 0) if part.surrogate is None else part.surrogate(leaf)


def _dead(x: Tensor, function: Callable[[Tensor], Tensor]) -> bool:
    """Whether the gradient is zero everywhere, or there is none."""
    leaf = x.detach().clone().requires_grad_(True)
    value = function(leaf)
    if not value.requires_grad:
        return True
    # Weights without symmetry: the sum of a softmax, say, is constant although the softmax is not.
    slope = torch.linspace(0.5, 1.5, value.numel(), device=value.device).view_as(value).square()
    (grad,) = torch.autograd.grad((value * slope).sum(), leaf, allow_unused=True)
    return grad is None or not bool((grad != 0).any())


def _read(defense: Defense, text: str) -> Defense:
    """The defense that a spec string means; of a class without an entry point, by the class itself."""
    if defense.name in plugins.names("defense") and plugins.load("defense", defense.name) is type(defense):
        (found,) = resolve_defense(text)
        return found
    return specs.build(type(defense), specs.parse(text).options, resolve=lambda kind, inner: resolve_attack(inner))
