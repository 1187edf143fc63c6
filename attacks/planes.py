"""Where the boundary to another class would lie if the model were linear: what FAB and DeepFool step to."""

import torch
from torch import Tensor

from robustbench_lite.norms import Norm
from robustbench_lite.norms.rowwise import row_sum
from robustbench_lite.objectives import Goal, Objective, log_odds, margin, towards
from robustbench_lite.oracle import Answer
from robustbench_lite.rows import along

# A slope that is 0 leads nowhere: its boundary counts as this much less than infinitely far.
_TINY = 1e-12


def leads(goal: Goal, rivals: Tensor) -> list[Objective]:
    """What is 0 on the boundaries that matter: the lead of each rival (n, m) over the label.

    A targeted threat has one boundary, where its target overtakes the best of all others.
    """
    if goal.success == "targeted":
        return [margin]
    return [towards(log_odds, rival) for rival in rivals.T]


def every_other(goal: Goal, classes: int) -> Tensor:
    """All classes but the label, (n, k - 1)."""
    ahead = torch.arange(1, classes, device=goal.y.device)
    return (goal.y[:, None] + ahead) % classes


def nearest(said: Answer, geometry: Norm) -> tuple[Tensor, Tensor, Tensor]:
    """The objective whose linearised boundary is nearest, of each row: value, gradient, and how far it is in the norm.

    Returns:
        (n,) float64, (n, c, h, w), (n,) float64. From either side of a boundary, and where no slope leads anywhere, the
        distance is finite and at least 0.
    """
    assert said.grads is not None  # whoever asks has declared Needs.GRADIENTS
    values = said.values.to(torch.float64).nan_to_num(nan=0.0, posinf=1e9, neginf=-1e9)
    slopes = torch.stack([geometry.dual(grad) for grad in said.grads])
    far = values.abs() / slopes.clamp(min=_TINY)
    if len(values) == 1:
        return values[0], said.grads[0], far[0]
    pick, row = far.argmin(0), torch.arange(len(far[0]), device=far.device)
    return values[pick, row], said.grads[pick, row], far[pick, row]


def plane(at: Tensor, value: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """The hyperplane {v: <w, v> = b} where value + <grad, v - at> is 0, as `Norm.hyperplane` takes it: w and b (n,)."""
    return grad, row_sum(grad.to(torch.float64) * at.to(torch.float64)) - value


def stretched(values: Tensor, like: Tensor) -> Tensor:
    """One number a row (n,) that multiplies images, in their type."""
    return along(values, like).to(like.dtype)
