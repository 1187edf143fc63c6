"""What the adversary climbs.

An objective maps outputs and a goal to one number a sample, (n,), larger = closer to broken. With a target in the goal it
takes its targeted form by itself (targeted DLR is not the negative of DLR), so no attack holds a sign for the goal.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_lite.errors import UserError, unknown
from robustbench_lite.rows import Rows
from robustbench_lite.system import Outputs

#: told by its code in the keys of the attacks that climb it; see `hashing.values`
__hashed_by_code__ = True
_TINY = 1e-12
#: by what margin an answer must be wrong before whoever knows a detector turns to it, and what that is worth: more than
#: any objective of an answer that is right, cross-entropy below ln(classes) + WRONG included
WRONG, LIFT = 0.05, 20.0


@dataclass(frozen=True, kw_only=True)
class Goal(Rows):
    """What the adversary wants of each sample.

    Args:
        y: (n,) int64, the true labels, always.
        target: (n,) int64, the class to climb towards, or None. An attack may climb towards a class under an untargeted
            threat too; what counts as broken is `success` alone.
        success: `untargeted` (answer other than y) or `targeted` (answer is the target).
        context: whatever an objective compares with, sample axis first (clean probabilities, a target latent).
    """

    y: Tensor
    target: Tensor | None = None
    success: Literal["untargeted", "targeted"] = "untargeted"
    context: "Context" = field(default_factory=lambda: Context())

    def reached(self, outputs: Outputs) -> Tensor:
        """Whether the answer is broken and accepted, (n,) bool. NaN scores at a valid point count as broken."""
        answer = outputs.prediction()
        wrong = (answer != self.y) | outputs.scores.isnan().any(1)
        if self.success == "targeted":
            assert self.target is not None
            wrong = answer == self.target
        return wrong & outputs.accepted()

    def margin(self, outputs: Outputs) -> Tensor:
        """How far beyond the boundary, (n,): best other class minus the true one, or target minus best other class."""
        scores = outputs.scores
        if self.success == "targeted":
            assert self.target is not None
            return _pick(scores, self.target) - _best_other(scores, self.target)
        return _best_other(scores, self.y) - _pick(scores, self.y)


@dataclass(frozen=True, kw_only=True)
class Context(Rows):
    """Nothing to compare with; subclasses add fields."""


Objective = Callable[[Outputs, Goal], Tensor]


def cross_entropy(outputs: Outputs, goal: Goal) -> Tensor:
    """-ln p_y, or ln p_target. Its gradient dies where the model is very confident: see `margin`, `dlr`."""
    if goal.target is None:
        return F.cross_entropy(outputs.scores, goal.y, reduction="none")
    return -F.cross_entropy(outputs.scores, goal.target, reduction="none")


def margin(outputs: Outputs, goal: Goal) -> Tensor:
    """max_{k != y} z_k - z_y, or z_target - max_{k != target} z_k (Carlini and Wagner 2017, arXiv 1608.04644, f6)."""
    if goal.target is None:
        return _best_other(outputs.scores, goal.y) - _pick(outputs.scores, goal.y)
    return _pick(outputs.scores, goal.target) - _best_other(outputs.scores, goal.target)


def log_odds(outputs: Outputs, goal: Goal) -> Tensor:
    """ln p_target - ln p_true, which is z_target - z_true exactly, so it never saturates. Untargeted: `margin`."""
    if goal.target is None:
        return margin(outputs, goal)
    return _pick(outputs.scores, goal.target) - _pick(outputs.scores, goal.y)


def dlr(outputs: Outputs, goal: Goal) -> Tensor:
    """Difference of logits ratio, free of the logits' scale (Croce and Hein 2020, arXiv 2003.01690, eq. 6 and 7).

    Untargeted: -(z_y - max_{k != y} z_k) / (z_1st - z_3rd), for 3 classes or more. Targeted:
    -(z_y - z_target) / (z_1st - (z_3rd + z_4th) / 2), for 4 or more. With fewer classes it is the plain margin
    (or z_target - z_y), which has no scale to divide by.
    """
    scores = outputs.scores
    ranked = scores.sort(dim=1, descending=True).values
    if goal.target is None:
        rise, scale = margin(outputs, goal), None if scores.shape[1] < 3 else ranked[:, 0] - ranked[:, 2]
    else:
        rise = _pick(scores, goal.target) - _pick(scores, goal.y)
        scale = None if scores.shape[1] < 4 else ranked[:, 0] - (ranked[:, 2] + ranked[:, 3]) / 2
    return rise if scale is None else rise / (scale + _TINY)


def squared_distance(outputs: Outputs, goal: Goal) -> Tensor:
    """-||p - e_target||^2 / 2, or ||p - e_y||^2 / 2 without a target. It stalls where p is one-hot on a wrong class."""
    p = outputs.scores.softmax(1)
    if goal.target is None:
        return ((p - F.one_hot(goal.y, p.shape[1])) ** 2).sum(1) / 2
    return -((p - F.one_hot(goal.target, p.shape[1])) ** 2).sum(1) / 2


def towards(objective: Objective, target: Tensor) -> Objective:
    """The objective with the attack's own target (n,); what counts as success stays the threat's."""

    def climb(outputs: Outputs, goal: Goal) -> Tensor:
        return objective(outputs, replace(goal, target=target))

    return climb


def rejection(outputs: Outputs, goal: Goal) -> Tensor:
    """How far below its threshold the detector's score is: 0 and more is accepted; 0 without a detector.

    An attack that asks about it weighs the detector by itself; its other objectives are left as they are (see `knowing`).
    """
    if outputs.reject is None:
        return torch.zeros_like(outputs.scores[:, 0])
    return -outputs.reject.to(outputs.scores.dtype)


def knowing(objective: Objective) -> Objective:
    """The objective of an adversary who knows the detector: be wrong first, then pass.

    Where the answer is not yet wrong by `WRONG`, the objective itself; from there on `rejection`, squeezed by
    x / (1 + |x|) and lifted above whatever the objective was before. So any wrong answer is worth more than any right
    one, of two wrong ones the less suspicious is worth more, and unlimited confidence buys nothing: values can be compared
    over steps. Its ascent is the switching subgradient method for max rejection subject to margin >= `WRONG` (Polyak 1967),
    the selective attack of Bryniarski et al. 2021 (arXiv 2106.15023, sec. 3). Without a detector it is the objective.
    """

    def climb(outputs: Outputs, goal: Goal) -> Tensor:
        value = objective(outputs, goal)
        if outputs.reject is None:
            return value
        passing = rejection(outputs, goal)
        wrong = goal.margin(outputs) >= WRONG
        return torch.where(wrong, LIFT + passing / (1 + passing.abs()), value.clamp(max=LIFT - 1))

    return climb


OBJECTIVES: dict[str, Objective] = {
    "ce": cross_entropy,
    "margin": margin,
    "dlr": dlr,
    "log-odds": log_odds,
    "squared": squared_distance,
}


def named(name: str) -> Objective:
    """The objective of that name.

    Raises:
        UserError: there is none.
    """
    if name not in OBJECTIVES:
        raise unknown("objective", name, OBJECTIVES)
    return OBJECTIVES[name]


def choose_targets(rule: str, scores: Tensor, y: Tensor, uniform: Tensor, lane: Tensor) -> Tensor:
    """The target class of every sample, chosen once on the clean image; -1 where there is none.

    Args:
        rule: `least-likely`, `random`, `next`, `second`, `all` (lane j takes the j-th likeliest class but y, so that the
            lanes together try all of them), or a class index.
        scores: (n, k) clean scores. y: (n,) true labels. uniform: (n,) numbers in [0, 1). lane: (n,).

    Raises:
        UserError: no such rule, or an index that is not a class.
    """
    classes = scores.shape[1]
    others = scores.masked_fill(F.one_hot(y, classes).bool(), -torch.inf)
    if rule == "least-likely":
        return scores.masked_fill(F.one_hot(y, classes).bool(), torch.inf).argmin(1)
    if rule in ("second", "all"):
        rank = lane if rule == "all" else torch.zeros_like(lane)
        return others.argsort(dim=1, descending=True, stable=True).gather(1, rank[:, None]).squeeze(1)
    if rule == "next":
        return (y + 1) % classes
    if rule == "random":
        return _random_other(scores.argmax(1), y, uniform, classes)
    return _index(rule, y, classes)


def _random_other(answer: Tensor, y: Tensor, uniform: Tensor, classes: int) -> Tensor:
    """Uniform over the classes that are neither the label nor the clean answer."""
    barred = F.one_hot(y, classes).bool() | F.one_hot(answer, classes).bool()
    if classes == 2:
        barred = F.one_hot(y, classes).bool()
    free = (~barred).cumsum(1)  # (n, k): how many free classes up to here
    wanted = (uniform * free[:, -1]).long() + 1
    return (free < wanted[:, None]).sum(1)


def _index(rule: str, y: Tensor, classes: int) -> Tensor:
    try:
        index = int(rule)
    except ValueError:
        rules = ("least-likely", "random", "next", "second", "all", "column", "a class index")
        raise UserError(f"target={rule}; accepted: {', '.join(rules)}") from None
    if not 0 <= index < classes:
        raise UserError(f"target={index} is not a class; there are {classes}, from 0 to {classes - 1}")
    return torch.where(y == index, -1, index)


def _pick(scores: Tensor, label: Tensor) -> Tensor:
    return scores.gather(1, label[:, None]).squeeze(1)


def _best_other(scores: Tensor, label: Tensor) -> Tensor:
    barred = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, label[:, None], True)
    return scores.masked_fill(barred, -torch.inf).amax(1)
