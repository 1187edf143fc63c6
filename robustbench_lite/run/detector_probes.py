"""Does the gradient of a detector's score lead anywhere? If not, an attack that follows it never passes the detector."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from robustbench_lite.objectives import rejection
from robustbench_lite.randomness import Draws
from robustbench_lite.results import diagnostics
from robustbench_lite.results.diagnostics import Diagnostic
from robustbench_lite.run.gradient_probes import NoGradientError, oracles, query
from robustbench_lite.run.subject import Subject
from robustbench_lite.threat import Threat

#: steps along the slope, each a quarter of eps, and draws of noise that show whether the score changes at all
STEPS, NOISE = 6, 4
#: by what a score must change to be one that changes
_DUST = 1e-6
#: images with no more levels than this lie on a grid
LEVELS = 256


def detector_without_slope(subject: Subject, chosen: Tensor, threat: Threat) -> Diagnostic:
    """The share of samples on which the slope of the detector's score leads nowhere, though the score changes.

    From a noisy image it is followed both ways. A slope that says where to go makes the score lower on the way down than on
    the way up; one that is zero, or made up, does not.
    """
    name = "detector-without-slope"
    if subject.system.detector is None:
        return diagnostics.unchecked(name, "there is no detector")
    if threat.rendered or not threat.eps:
        return diagnostics.unchecked(name, "needs a norm and an eps above 0")
    if subject.system.randomised:
        return diagnostics.unchecked(name, "two answers to one image differ, so no slope can be measured")
    lost = 0
    try:
        for oracle, x, _, draws, count in oracles(replace(subject, adaptive=True), chosen, threat):
            found = _leads_nowhere(partial(query, oracle, objective=rejection), x, draws, threat)
            lost += int(found[:count].sum())
    except NoGradientError as refused:
        return diagnostics.unchecked(name, str(refused))
    return diagnostics.judged(name, lost / len(chosen), len(chosen))


def _leads_nowhere(asked: Callable[..., tuple[Tensor, Tensor]], x: Tensor, draws: Draws, threat: Threat) -> Tensor:
    """On which images the score is no lower on the way down its slope than on the way up, but changes, (n,) bool."""
    noisy = [threat.random_point(x, draws, number) for number in range(NOISE)]
    values = torch.stack([asked(at)[0] for at in noisy])
    changes = (values.amax(0) - values.amin(0)) > _DUST
    ends = []
    for sign in (1, -1):
        at, seen = (noisy[0] + x) / 2, list[Tensor]()
        for _ in range(STEPS):
            _, slope = asked(at)
            at = threat.project(at + sign * threat.radius / 4 * threat.ascent(slope, at=at), x)
            seen.append(asked(at)[0].double())
        ends.append(torch.stack(seen).mean(0))
    return changes & ~(ends[0] > ends[1])


def on_the_grid(x: Tensor, adv: Tensor, eps: float) -> Tensor | None:
    """The examples (n, c, h, w) on the levels that the clean images x have, each pixel within eps of its own.

    What rejects an image for pixels between two levels does not see these. None where the images have no few levels.
    """
    levels = x.unique()
    if not 1 < len(levels) <= LEVELS:
        return None
    above = torch.searchsorted(levels, adv).clamp(1, len(levels) - 1)
    low, high = levels[above - 1], levels[above]
    near = torch.where(adv - low < high - adv, low, high)
    other = torch.where(near == low, high, low)
    # x is a level itself, so one of the two lies between the example and x
    return torch.where((near - x).abs() <= eps, near, other)
