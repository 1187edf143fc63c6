"""Probes that look at the loss itself: is it there, does it say where to go, does following it help?

Each asks on the clean images of the given positions, through the oracle that the attacks have, and notes nothing.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from robustbench_lite.attack import Needs
from robustbench_lite.norms.rowwise import row_sum
from robustbench_lite.objectives import Goal, Objective, cross_entropy, margin
from robustbench_lite.oracle import Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.results import diagnostics
from robustbench_lite.results.diagnostics import Diagnostic
from robustbench_lite.rows import along
from robustbench_lite.run.subject import Subject
from robustbench_lite.threat import Threat

#: how far the slope is followed to measure it, in the unit of an image: as far as 8 bits can tell, in L2 a pixel
REACH = 1 / 255
#: steps of the climb, each an eighth of eps, from the clean image
CLIMB = 8

Asked = Callable[[Tensor, Objective], tuple[Tensor, Tensor]]


def zero_gradients(subject: Subject, chosen: Tensor, threat: Threat, name: str = "zero-gradients") -> Diagnostic:
    """The share of samples whose cross-entropy gradient, as the attacks see it, is exactly zero."""

    def zero(x: Tensor, y: Tensor, asked: Asked) -> Tensor:
        return (asked(x, cross_entropy)[1] == 0).flatten(1).all(1)

    return _share(name, subject, chosen, threat, zero)


def nonfinite_gradients(subject: Subject, chosen: Tensor, threat: Threat) -> Diagnostic:
    """The share of samples whose gradient has NaN in it; infinite slopes, which are directions, are told beside it."""
    name, undefined, infinite = "nonfinite-gradients", 0, 0
    try:
        for oracle, x, _, _, count in oracles(subject, chosen, threat):
            query(oracle, x, cross_entropy)
            undefined += int(oracle.undefined[:count].sum())
            infinite += int(oracle.infinite[:count].sum())
    except NoGradientError as refused:
        return diagnostics.unchecked(name, str(refused))
    n = len(chosen)
    parts = [f"{count} of {n} {what}" for count, what in ((undefined, "are NaN"), (infinite, "are infinite")) if count]
    return diagnostics.judged(name, undefined / n, n, ", ".join(parts))


def plain_gradients_vanish(subject: Subject, chosen: Tensor, threat: Threat) -> Diagnostic:
    """The same for an adversary who does not know what the defense hides."""
    return zero_gradients(subject.plain, chosen, threat, "plain-gradients-vanish")


def loss_stands_still(subject: Subject, chosen: Tensor, threat: Threat) -> Diagnostic:
    """The share of samples on which a climb of a few steps inside the ball never gets above the loss at the clean image."""
    if threat.eps is None or not threat.eps:
        return diagnostics.unchecked("loss-stands-still", "needs an eps above 0")

    def still(x: Tensor, y: Tensor, asked: Asked) -> Tensor:
        adv, highest = x, torch.full((len(x),), -torch.inf, device=x.device)
        begun, grad = asked(x, margin)
        for _ in range(CLIMB):
            adv = threat.project(adv + threat.radius / CLIMB * threat.ascent(grad, at=adv), x)
            value, grad = asked(adv, margin)
            highest = torch.maximum(highest, value)
        return ~(highest > begun)

    return _share("loss-stands-still", subject, chosen, threat, still)


def gradients_mislead(subject: Subject, chosen: Tensor, threat: Threat) -> Diagnostic:
    """How far the gradient is from the slope that the answers show along it: the median of |measured / told - 1|.

    Samples with an infinite slope are left out: no step is short enough to show one.
    """
    name = "gradients-mislead"
    if subject.adaptive and (subject.fast.differentiable_as or any(part.hidden for part in subject.fast.purifiers)):
        return diagnostics.unchecked(name, "the adversary differentiates a stand-in on purpose")
    if subject.system.randomised:
        return diagnostics.unchecked(name, "two answers to one image differ, so no slope can be measured")

    errors = list[Tensor]()
    try:
        for oracle, x, _, _, count in oracles(subject, chosen, threat):
            grad = query(oracle, x, margin)[1].double()
            infinite = oracle.infinite
            size = row_sum(grad * grad).sqrt()
            way = grad / along(size.clamp(min=1e-30), grad) * REACH
            # Where the box is left on the way, the slope is that of the model's own continuation.
            up, down = (query(oracle, (x.double() + sign * way).float(), margin)[0].double() for sign in (1, -1))
            error = ((up - down) / (2 * REACH * size) - 1).abs().nan_to_num(nan=torch.inf)
            errors.append(error[:count][~infinite[:count]])
    except NoGradientError as refused:
        return diagnostics.unchecked(name, str(refused))
    every = torch.cat(errors)
    if not len(every):
        return diagnostics.unchecked(name, "the slope is infinite at every sample")
    return diagnostics.judged(name, float(every.median()), len(every))


def differentiates_inside(subject: Subject, chosen: Tensor) -> Diagnostic:
    """Whether the system computes gradients while it answers."""
    x, _, draws = subject.load(chosen[:1])
    called: list[str] = []

    def spied(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            called.append(name)
            return original(*args, **options)

        return call

    grad, backward = torch.autograd.grad, torch.autograd.backward
    torch.autograd.grad, torch.autograd.backward = spied("grad", grad), spied("backward", backward)
    try:
        with torch.no_grad():
            subject.system(x, draws, 0)
    finally:
        torch.autograd.grad, torch.autograd.backward = grad, backward
    return diagnostics.judged("differentiates-inside", float(bool(called)), 1)


class NoGradientError(Exception):
    """The model leaves torch on its way."""


def _share(
    name: str, subject: Subject, chosen: Tensor, threat: Threat, found: Callable[[Tensor, Tensor, Asked], Tensor]
) -> Diagnostic:
    try:
        hits = sum(int(part.sum()) for part in _asked(subject, chosen, threat, found))
    except NoGradientError as refused:
        return diagnostics.unchecked(name, str(refused))
    return diagnostics.judged(name, hits / len(chosen), len(chosen))


def _asked(
    subject: Subject, chosen: Tensor, threat: Threat, found: Callable[[Tensor, Tensor, Asked], Tensor]
) -> Iterator[Tensor]:
    """What `found` (x, y, asked) says of the samples, block by block; `asked` (x, objective) -> values, gradients."""
    for oracle, x, y, _, count in oracles(subject, chosen, threat):
        yield found(x, y, partial(query, oracle))[:count]


def oracles(subject: Subject, chosen: Tensor, threat: Threat) -> Iterator[tuple[Oracle, Tensor, Tensor, Draws, int]]:
    """An oracle that shows gradients, its images, labels and streams for each block, and how many of them are no padding."""
    for begin, end in subject.shapes.chunks(len(chosen)):
        x, y, draws = subject.load(chosen[begin:end])
        index = subject.shapes.padding(end - begin, x.device)
        x, y, draws = x[index], y[index], draws[index]
        oracle = Oracle(
            subject.fast, Needs.GRADIENTS, x, Goal(y=y), threat, draws, adaptive=subject.adaptive, watch=False
        )
        yield oracle, x, y, draws, end - begin


def query(oracle: Oracle, at: Tensor, objective: Objective) -> tuple[Tensor, Tensor]:
    """Value and gradient of an objective.

    Raises:
        NoGradientError: none comes back.
    """
    try:
        answer = oracle.query(at, objective, probe=True)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise NoGradientError(f"no gradient: {error}".splitlines()[0]) from error
    assert answer.grads is not None
    return answer.values[0], answer.grads[0]
