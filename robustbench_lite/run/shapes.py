"""How many rows go through the network at once, and why it cannot change a number.

Libraries pick other kernels for other batches, and treat the last odd elements of a tensor in another way; either may round
differently. So every micro-batch is a whole number of blocks of W rows, filled up with copies where rows are few. The verdict
always shows the system exactly one block. The search may show several at once: measured, that gave every row the same bits,
while odd sizes and sizes below W did not; `probe` checks it for the network at hand, and where it does not hold the search
keeps to one block as well. Where less than a block is left for long, as many rows as there are may do: that is tried, too
(`snug`).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from robustbench_lite.guard import calling
from robustbench_lite.objectives import Goal, cross_entropy
from robustbench_lite.system import System

FLOORS = {"cpu": 32, "cuda": 256}
#: values of a micro-batch's images, and the most rows that this may come to; a block is the fewest
VALUES, MOST = {"cpu": 1 << 18, "cuda": 1 << 22}, {"cpu": 512, "cuda": 4096}


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """The sizes of micro-batches.

    Args:
        batch: the most rows in one. floor: W, the fewest; smaller ones are padded.
        fixed: rows depend on the batch size above the floor, so every micro-batch has exactly `floor` rows.
        few: what is known of sizes below the floor.
    """

    batch: int
    floor: int
    fixed: bool = False
    few: "Few" = field(default_factory=lambda: Few(), compare=False)

    @property
    def most(self) -> int:
        """The most rows that a micro-batch may hold."""
        return self.floor if self.fixed else max(self.batch // self.floor, 1) * self.floor

    def whole(self, count: int) -> int:
        """How many of `count` rows fill whole blocks; all of them where they are less than one."""
        return count // self.floor * self.floor or count

    def padding(self, count: int, device: torch.device, size: int | None = None) -> Tensor:
        """Indices that fill `count` rows up to `size`, else whole blocks: all of them, then the first one again."""
        index = torch.arange(size or -(-count // self.floor) * self.floor, device=device)
        return torch.where(index < count, index, 0)

    def snug(self, fast: System, x: Tensor, grads: bool) -> int | None:
        """How many rows to show where x (n, c, h, w) is less than a block; None: a whole block.

        n itself is tried, once, as soon as the copies shown before would have paid for the trial; with `grads`, also what
        comes back.
        """
        count = len(x)
        if self.fixed or fast.randomised or count >= self.floor:
            return None
        few = self.few
        few.copies += self.floor - count
        if (count, grads) not in few.alike and few.copies >= self.floor + count:
            few.copies -= self.floor + count
            block = x[self.padding(count, x.device)]
            few.alike[count, grads] = torch.equal(_bits(fast, block, grads)[:count], _bits(fast, x, grads))
        return count if few.alike.get((count, grads)) else None

    def chunks(self, count: int) -> Iterator[tuple[int, int]]:
        """Where to cut `count` rows for the verdict: W at a time."""
        for begin in range(0, count, self.floor):
            yield begin, min(begin + self.floor, count)

    def smaller(self) -> "Shapes | None":
        """Half of it, after the memory ran out; None where one row did not fit either."""
        if self.most <= 1:
            return None
        batch = self.most // 2
        return Shapes(batch=batch, floor=min(self.floor, batch), fixed=self.fixed)


@dataclass
class Few:
    """Which sizes below the floor give rows the same bits, without and with gradients; how many copies were for nothing."""

    alike: dict[tuple[int, bool], bool] = field(default_factory=dict)
    copies: int = 0


def default_shapes(device: torch.device, batch: int | None, image: tuple[int, ...]) -> Shapes:
    """The sizes for a device and a shape of images; `batch` is the user's, or None.

    Without it, small images come in large batches (there the network takes less time than the bookkeeping).
    """
    kind = device.type if device.type in FLOORS else "cpu"
    most = min(max(VALUES[kind] // math.prod(image), FLOORS[kind]), MOST[kind]) if batch is None else batch
    return Shapes(batch=most, floor=min(FLOORS[kind], most))


def probe(fast: System, x: Tensor, shapes: Shapes) -> Shapes:
    """Check on real images that the bits of a row do not depend on the batch; `fixed` where they do.

    Compared are the scores and input gradients of one block alone, and as the last of a full batch.

    Args:
        fast: what is searched on. x: (n, c, h, w), n >= 1; repeated to fill the batch.
    """
    if shapes.most <= shapes.floor:
        return shapes
    index = torch.arange(shapes.most, device=x.device) % len(x)
    small, large = _bits(fast, x[index[: shapes.floor]]), _bits(fast, x[index.roll(-shapes.floor)])
    return shapes if torch.equal(large[-shapes.floor :], small) else replace(shapes, fixed=True)


def _bits(system: System, x: Tensor, grads: bool = True) -> Tensor:
    if not grads:
        with torch.no_grad():
            return system(x, None, 0).scores
    leaf = x.detach().requires_grad_(True)
    try:
        outputs = system(leaf, None, 0)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:  # a model that leaves torch on its way has no gradient to compare
        with torch.no_grad():
            return system(x, None, 0).scores
    scores = outputs.scores.detach().flatten(1)
    value = cross_entropy(outputs, Goal(y=outputs.prediction())).sum()
    if not value.requires_grad:
        return scores
    with calling(system.name):  # a layer's own backward
        (grad,) = torch.autograd.grad(value, leaf, allow_unused=True)
    return scores if grad is None else torch.cat((scores, grad.flatten(1)), 1)
