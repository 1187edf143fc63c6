"""The only place that says *broken*.

An example breaks its sample when it is finite, in [0, 1], inside the threat, and the system's answer to it is wrong
(targeted: is the target) and accepted. The deployed system answers, in float32, with deterministic kernels, at a padded batch
size; a randomised system answers several times and the majority counts.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from robustbench_lite.norms.rowwise import row_sum
from robustbench_lite.objectives import Goal
from robustbench_lite.randomness import Draws
from robustbench_lite.rows import Rows, along, concat
from robustbench_lite.run.exact import exact_math
from robustbench_lite.run.shapes import Shapes
from robustbench_lite.system import Outputs, System
from robustbench_lite.threat import Threat

#: what `Verdict.reason` means; 0 is an ordinary verdict
REASONS = ("", "not-finite", "outside-box", "outside-threat", "nan-scores", "clean-wrong", "target-is-label", "failed")
NOT_FINITE, OUTSIDE_BOX, OUTSIDE_THREAT, NAN_SCORES, CLEAN_WRONG, TARGET_IS_LABEL, FAILED = range(1, 8)
#: the reasons of examples that the threat forbids
INVALID = REASONS[NOT_FINITE : OUTSIDE_THREAT + 1]
RANDOM_DRAWS = 20


@dataclass(frozen=True, kw_only=True)
class Sitting:
    """How a randomised system is asked: how often, and with which draws. Another salt is other draws, of no search.

    What a search is told (the first sitting) may decide where it stops, or which restart it hands in; the last word on a
    randomised system is spoken with draws that nothing was chosen by.
    """

    count: int = RANDOM_DRAWS
    salt: int = 0x7E57

    @property
    def last(self) -> "Sitting":
        """As often, with other draws."""
        return Sitting(count=self.count, salt=0x1A57)


FIRST = Sitting()


@dataclass(frozen=True, kw_only=True)
class Scene(Rows):
    """Examples that are rendered from parameters, anew for every draw; what an attack has drawn is not looked at.

    Args:
        threat: renders them. witness: (n, k). valid: (n,) bool; of the others the clean image is shown.
        levels: round to 256 levels.
    """

    threat: Threat
    witness: Tensor
    valid: Tensor
    levels: bool = False

    @classmethod
    def of(cls, threat: Threat, x: Tensor, witness: Tensor) -> "Scene":
        """The examples that these parameters mean."""
        valid = witness.isfinite().flatten(1).all(1) & threat.contains(x, x, witness)
        return cls(threat=threat, witness=torch.where(along(valid, witness), witness, 0), valid=valid)

    def image(self, x: Tensor, draws: Draws, number: int) -> Tensor:
        """What this draw shows of the images x."""
        shown = self.threat.render(x, self.witness, draws, number).clamp(0, 1)
        shown = (shown * 255).round() / 255 if self.levels else shown
        return torch.where(along(self.valid, x), shown, x)


@torch.no_grad()
def pictured(threat: Threat, x: Tensor, witness: Tensor, draws: Draws, sitting: Sitting = FIRST) -> Tensor:
    """One picture of each example that is rendered: what the verdict is shown first."""
    return Scene.of(threat, x, witness).image(x, _unseen(draws, sitting), 0)


def _unseen(draws: Draws, sitting: Sitting) -> Draws:
    """Not the draws that the search has seen, and the same in every lane."""
    return draws.fold(sitting.salt).in_lane(0)


@dataclass(frozen=True, kw_only=True)
class Verdict(Rows):
    """What was judged of n examples; all (n,).

    Args:
        broken, valid: bool. reason: int64, an index of `REASONS`. prediction: int64. margin: float64, see `Goal.margin`.
        norms: (n, 4) float64, Linf, L2, L1, L0 of the perturbation.
        broken_8bit: bool, whether it still breaks after rounding to 8 bits. rejected: bool. score: float64, the
            detector's, NaN without one. break_rate: float64, the share of draws that broke. target_hit: bool.
    """

    broken: Tensor
    valid: Tensor
    reason: Tensor
    prediction: Tensor
    margin: Tensor
    norms: Tensor
    broken_8bit: Tensor
    rejected: Tensor
    score: Tensor
    break_rate: Tensor
    target_hit: Tensor


@torch.no_grad()
def judge(
    system: System,
    x: Tensor,
    goal: Goal,
    threat: Threat,
    adv: Tensor,
    draws: Draws,
    shapes: Shapes,
    sitting: Sitting = FIRST,
    witness: Tensor | None = None,
) -> Verdict:
    """Judge the examples adv (n, c, h, w) of the clean images x.

    Under a threat that is `rendered` the witness (n, k) is judged, and adv is not looked at.

    Returns:
        A verdict a row. An example that is not finite, leaves the box or the threat is invalid and never broken.
    """
    scene = None if witness is None else Scene.of(threat, x, witness)
    adv = adv if scene is None else scene.image(x, _unseen(draws, sitting), 0)
    valid, reason = _validity(x, adv, threat, witness)
    # an invalid example is not shown; its row is a clean one
    shown = torch.where(along(valid, x), adv, x) if scene is None else x
    with exact_math():
        parts = [_answers(system, shown, goal, draws, shapes, cut, sitting, scene) for cut in shapes.chunks(len(x))]
        said = concat(parts)
        broken = said.broken & valid
        broken_8bit = _rounded(system, x, goal, threat, adv, draws, shapes, broken, sitting, scene)
    reason = torch.where(valid & said.nan, NAN_SCORES, reason)
    return Verdict(
        broken=broken,
        valid=valid,
        reason=reason,
        prediction=said.prediction,
        margin=said.margin.masked_fill(~valid, torch.nan),
        norms=_norms(adv, x),
        broken_8bit=broken_8bit,
        rejected=said.rejected,
        score=said.score,
        break_rate=said.rate * valid,
        target_hit=said.target_hit & valid,
    )


@dataclass(frozen=True, kw_only=True)
class Clean(Rows):
    """What the system says of the clean images; all (n,), but scores (n, k) float32. Kept on the CPU."""

    scores: Tensor
    prediction: Tensor
    margin: Tensor
    wrong: Tensor
    rejected: Tensor
    score: Tensor
    nan: Tensor


@torch.no_grad()
def look(system: System, x: Tensor, y: Tensor, draws: Draws, shapes: Shapes, sitting: Sitting = FIRST) -> Clean:
    """The verdict's arithmetic on clean images; `wrong` also where the right answer is rejected.

    A random system is asked with the draws of the last word, so that an example that changes nothing breaks nothing.
    """
    goal = Goal(y=y)
    with exact_math():
        parts = [_answers(system, x, goal, draws, shapes, cut, sitting.last) for cut in shapes.chunks(len(x))]
    said = concat(parts)
    return Clean(
        scores=said.scores,
        prediction=said.prediction,
        margin=said.margin,
        wrong=(said.prediction != y) | said.broken | said.rejected | said.nan,
        rejected=said.rejected,
        score=said.score,
        nan=said.nan,
    ).to("cpu")


@dataclass(frozen=True, kw_only=True)
class _Said(Rows):
    scores: Tensor
    prediction: Tensor
    margin: Tensor
    broken: Tensor
    rate: Tensor
    rejected: Tensor
    score: Tensor
    nan: Tensor
    target_hit: Tensor


def _answers(
    system: System,
    x: Tensor,
    goal: Goal,
    draws: Draws,
    shapes: Shapes,
    cut: tuple[int, int],
    sitting: Sitting,
    scene: Scene | None = None,
) -> _Said:
    """The answers to the rows of the cut, padded; over several draws where the system or the scene is random."""
    begin, end = cut
    index = begin + shapes.padding(end - begin, x.device)
    x, goal, draws = x[index].contiguous(), goal[index], draws[index]
    random = system.randomised or (scene is not None and scene.threat.random)
    count = sitting.count if random else 1
    draws = _unseen(draws, sitting) if random else draws
    if scene is None:
        outputs = [system(x, draws, number) for number in range(count)]
    else:
        scene = scene[index]
        outputs = [system(scene.image(x, draws, number).contiguous(), draws, number) for number in range(count)]
    reached = torch.stack([goal.reached(one) for one in outputs]).double().mean(0)
    mean = outputs[0] if count == 1 else _mean(outputs)
    detector = system.detector
    score = torch.full_like(reached, torch.nan)
    if detector is not None and mean.reject is not None:
        score = mean.reject.double() + detector.threshold
    label = mean.prediction() if count == 1 else _majority(outputs)
    hit = torch.zeros_like(reached, dtype=torch.bool) if goal.target is None else label == goal.target
    said = _Said(
        scores=mean.scores,
        prediction=label,
        margin=goal.margin(mean).double(),
        broken=reached > 0.5,
        rate=reached,
        rejected=~mean.accepted(),
        score=score,
        nan=mean.scores.isnan().any(1),
        target_hit=hit,
    )
    return said[: end - begin]


def _mean(outputs: list[Outputs]) -> Outputs:
    scores = torch.stack([one.scores for one in outputs]).mean(0)
    if outputs[0].reject is None:
        return Outputs(scores=scores)
    return Outputs(scores=scores, reject=torch.stack([one.reject for one in outputs if one.reject is not None]).mean(0))


def _majority(outputs: list[Outputs]) -> Tensor:
    return torch.stack([one.prediction() for one in outputs]).mode(0).values


def _validity(x: Tensor, adv: Tensor, threat: Threat, witness: Tensor | None) -> tuple[Tensor, Tensor]:
    """Which examples count, and what is wrong with the others; what is rendered is in the box if its witness is allowed."""
    finite = (adv if witness is None else witness).isfinite().flatten(1).all(1)
    boxed = ((adv >= 0) & (adv <= 1)).flatten(1).all(1)
    inside = threat.contains(adv, x, witness)
    reason = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    reason = torch.where(inside, reason, OUTSIDE_THREAT)
    reason = torch.where(boxed, reason, OUTSIDE_BOX)
    reason = torch.where(finite, reason, NOT_FINITE)
    return reason == 0, reason


def _norms(adv: Tensor, x: Tensor) -> Tensor:
    delta = (adv.double() - x.double()).abs().flatten(1)
    squares = row_sum(delta * delta).sqrt()
    return torch.stack((delta.amax(1), squares, row_sum(delta), (delta > 0).sum(1).double()), 1)


def _rounded(
    system: System,
    x: Tensor,
    goal: Goal,
    threat: Threat,
    adv: Tensor,
    draws: Draws,
    shapes: Shapes,
    broken: Tensor,
    sitting: Sitting,
    scene: Scene | None,
) -> Tensor:
    """Whether the broken ones still break as 8-bit images."""
    rows = broken.nonzero().squeeze(1)
    result = torch.zeros_like(broken)
    if not len(rows):
        return result
    if scene is not None:
        x, goal, draws, scene = x[rows], goal[rows], draws[rows], replace(scene[rows], levels=True)
        cuts = shapes.chunks(len(rows))
        result[rows] = concat([_answers(system, x, goal, draws, shapes, cut, sitting, scene) for cut in cuts]).broken
        return result
    rounded = eight_bits(adv[rows], x[rows], threat)
    inside = threat.contains(rounded, x[rows])
    already = (rounded == adv[rows]).flatten(1).all(1)
    result[rows[already]] = True
    open_ = (inside & ~already).nonzero().squeeze(1)
    if len(open_):
        rows, rounded = rows[open_], rounded[open_]
        parts = [
            _answers(system, rounded, goal[rows], draws[rows], shapes, cut, sitting) for cut in shapes.chunks(len(rows))
        ]
        result[rows] = concat(parts).broken
    return result


def rounded(adv: Tensor, x: Tensor, threat: Threat) -> Tensor:
    """The 8-bit image next to each example, where it is inside the threat; else the example itself."""
    grid = eight_bits(adv, x, threat)
    usable = threat.contains(grid, x) & adv.isfinite().flatten(1).all(1)
    return torch.where(along(usable, x), grid, adv)


def eight_bits(adv: Tensor, x: Tensor, threat: Threat) -> Tensor:
    """The example on the grid of 256 levels: rounded, and where that leaves the ball, rounded towards the clean image."""
    nearest = (adv * 255).round() / 255
    outside = (~threat.contains(nearest, x)).nonzero().squeeze(1)
    if len(outside):
        levels, clean = adv[outside] * 255, x[outside] * 255
        inwards = torch.where(levels >= clean, (levels + 1e-4).floor(), (levels - 1e-4).ceil())
        nearest[outside] = inwards.clamp(0, 255) / 255
    return nearest
