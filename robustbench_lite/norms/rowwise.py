"""Arithmetic within rows (n, d) whose result for a row does not depend on the rows beside it.

torch may split the sum of a (1, d) tensor over threads while it sums (n, d) row by row, and on a GPU the
order of a sum follows the shape; here a row is always added up in the same order.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from robustbench_lite.rows import along

# Points land this far inside the ball, relative to eps, so that float32 dust cannot leave it.
INSIDE = 1.0 - 1e-6
# A level that takes every coordinate to its cap; finite, because 0 * infinity is not 0.
_ALL = 1e300
# How many numbers `in_slices` takes at once.
_CPU_SLICE, _GPU_SLICE = 2**15, 2**24


def row_sum(values: Tensor) -> Tensor:
    """Sum over all but the first axis, in float64: (n, ...) -> (n,).

    The order of the additions follows from the width of a row alone: on a GPU halves are added to halves.
    """
    total = values.flatten(1).to(torch.float64)
    if total.device.type == "cpu":
        # Here torch adds up each of several rows by itself, and splits a sum over threads only where it is alone.
        total = total.contiguous()
        return total.sum(1) if len(total) != 1 else torch.cat((total, total)).sum(1)[:1]
    if total.shape[1] == 0:
        return total.new_zeros(len(total))
    while total.shape[1] > 1:
        half = total.shape[1] // 2
        odd = total[:, 2 * half :]
        total = total[:, :half] + total[:, half : 2 * half]
        if odd.shape[1]:
            total = torch.cat((total, odd), 1)
    return total[:, 0]


def in_slices(search: Callable[..., Tensor], *rows: Tensor) -> Tensor:
    """Run a search on a few rows at a time and join the results: its float64 copies stay small, on a CPU in cache."""
    at_once = _CPU_SLICE if rows[0].device.type == "cpu" else _GPU_SLICE
    size = max(1, at_once // max(1, rows[0].shape[1:].numel()))
    count = max(1, len(rows[0]))
    return torch.cat([search(*(part[i : i + size] for part in rows)) for i in range(0, count, size)])


def radii(eps: float | Tensor, x: Tensor) -> Tensor:
    """One radius a sample, (n,) float64, from one for all or one each; what is negative or NaN becomes 0."""
    given = torch.as_tensor(eps, dtype=torch.float64, device=x.device).expand(len(x))
    return given.nan_to_num(nan=0.0, posinf=torch.inf).clamp(min=0.0)


def usable(grad: Tensor) -> Tensor:
    """The gradient with NaN as 0 (no direction) and infinities as the largest finite number."""
    return grad.nan_to_num(nan=0.0)


def room(direction: Tensor, x: Tensor) -> Tensor:
    """How far each coordinate of x can go in the direction's sign before it meets the wall, float64; 0 without sign."""
    sign = direction.sign().to(torch.float64)
    # 1 - x upwards, x downwards, both exact; of two types at once a product takes ten times as long
    return sign.clamp(min=0.0) - sign * x.to(torch.float64)


def deficit(p: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """w (float64, without dust), turned so that <w, p> has to grow to reach the plane, and by how much, (n,)."""
    w = usable(w).to(torch.float64)
    size = w.abs()
    w = w.masked_fill(size < along(1e-8 * size.flatten(1).amax(1), w), 0.0)
    gap = (b.to(torch.float64) - row_sum(w * p.to(torch.float64))).nan_to_num(nan=0.0)
    return w * along(torch.where(gap < 0, -1.0, 1.0), w), gap.abs()


def divided(values: Tensor, by: Tensor) -> Tensor:
    """Each row divided by its own number (n,), in float64; a row whose number is 0 stays as it is."""
    return values.to(torch.float64) / along(torch.where(by > 0, by, 1.0), values)


def fill(rate: Tensor, cap: Tensor, total: Tensor) -> Tensor:
    """The smallest t >= 0 with sum(min(t * rate, cap)) = total, per row; `_ALL` where even sum(cap) is less.

    The sum is concave and piecewise linear in t, so Newton's method from the left is monotone, and ends when
    no further coordinate reaches its cap. A row that has converged repeats its last step, bit for bit.

    Args:
        rate: (n, d) float64, finite, >= 0.
        cap: (n, d) float64, >= 0, and 0 where the rate is 0.
        total: (n,) float64, finite, >= 0.
    """
    level, before = torch.zeros_like(total), None
    for _ in range(rate.shape[1] + 2):
        growing = (cap - level[:, None] * rate).sign_().clamp_(min=0.0)  # 1 or 0: quicker than a mask
        if before is not None and torch.equal(growing, before):
            break
        slope, missing = row_sum(rate * growing), total - row_sum(cap - cap * growing)
        stuck = torch.where(missing > 0, _ALL, level)
        newer = torch.maximum(level, torch.where(slope > 0, missing / slope, stuck))
        if torch.equal(newer, level):
            break
        level, before = newer, growing
    return level


def filled(level: Tensor, rate: Tensor, cap: Tensor) -> Tensor:
    """min(t * rate, cap), for rows (n, d) and one t each."""
    return torch.minimum(level[:, None] * rate, cap)


def pour(score: Tensor, cap: Tensor, total: Tensor) -> Tensor:
    """Spend `total` (n,) on the coordinates (n, d) in the order of their score, each up to its cap; ties by index."""
    few = score.shape[1] // 64  # so many are found in a fraction of the time that sorting all takes, and often enough
    if few < 2:
        return _spent(cap, score.argsort(dim=1, descending=True, stable=True), total)
    index = score.topk(few, dim=1).indices.sort(dim=1).values
    best = score.gather(1, index).sort(dim=1, descending=True, stable=True)
    order = index.gather(1, best.indices)
    spent = _spent(cap, order, total)
    whole = best.values > best.values[:, -1:]  # of the last value there may be more than were found
    short = row_sum(cap.gather(1, order) * whole) < total
    if bool(short.any()):
        rows = short.nonzero()[:, 0]
        order = score[rows].argsort(dim=1, descending=True, stable=True)
        spent = spent.index_copy(0, rows, _spent(cap[rows], order, total[rows]))
    return spent


def _spent(cap: Tensor, order: Tensor, total: Tensor) -> Tensor:
    """Spend `total` on the coordinates (n, m) that `order` names, in that order, and nothing on others."""
    room = cap.gather(1, order)
    before = room.cumsum(1) - room
    spent = torch.minimum((total[:, None] - before).clamp(min=0.0), room)
    return torch.zeros_like(cap).scatter(1, order, spent)


def top(score: Tensor, count: Tensor) -> Tensor:
    """Mask (n, d) of the `count` (n,) largest positive scores of each row; ties go to the lower index."""
    most = int(count.max()) if len(count) else 0
    if most == 0:
        return torch.zeros_like(score, dtype=torch.bool)
    best = score.topk(min(most, score.shape[1]), dim=1).values
    last = best.gather(1, (count[:, None] - 1).clamp(0, best.shape[1] - 1))
    mask = (score >= last) & (score > 0)
    if bool((mask.sum(1) > count).any()):  # several are as large as the last
        level = score == last
        spare = (count - (score > last).sum(1))[:, None]
        mask = mask & ~(level & (level.cumsum(1) > spare))
    return mask & (count[:, None] > 0)


def sparse_signs(grad: Tensor, at: Tensor | None, keep: float | Tensor) -> Tensor:
    """The signs of the largest slopes; zero elsewhere, and where `at` stands at the wall that they point to.

    `keep`, a number or (n,), is the share of the coordinates that is taken: at least one.
    """
    width = grad.shape[1:].numel()
    share = torch.as_tensor(keep, dtype=torch.float64, device=grad.device).expand(len(grad))
    count = (share * width + 1e-9).floor().long().clamp(1, width)  # 29 % of 100 is 29, not 28.99...
    return in_slices(_signs, grad, count, *(() if at is None else (at,)))


def _signs(grad: Tensor, count: Tensor, at: Tensor | None = None) -> Tensor:
    grad = usable(grad)
    score = grad.abs() if at is None else grad.abs() * (room(grad, at) > 0)
    return grad.sign() * top(score.flatten(1), count).view_as(grad)
