"""Does a system compute in steps: in half precision, in whole numbers, with rounding?

Then the last digit of an answer may depend on the batch that it is computed in, as where the scale of int8 values is taken
from all of it, without anybody's having meant it so.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from robustbench_lite.randomness import Draws
from robustbench_lite.system import System

#: types that hold few digits; integers are indices more often than not, but for these short ones
_SHORT = {torch.float16, torch.bfloat16, torch.int8, torch.quint8, torch.qint8, torch.qint32, torch.quint4x2}
_SHORT |= {getattr(torch, name) for name in dir(torch) if name.startswith("float8_")}
_ROUNDS = ("round", "floor", "ceil", "trunc", "sign", "fake_quantize", "quantize", "bucketize")


class _Watch(TorchDispatchMode):
    """Listens to the operations of torch while it is entered."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.coarse = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not self.coarse:
            name = str(func)
            rounds = name.startswith("quantized.") or name.partition(".")[2].startswith(_ROUNDS)
            self.coarse = rounds or any(
                isinstance(leaf, Tensor) and leaf.dtype in _SHORT for leaf in tree_leaves(result)
            )
        return result


@torch.no_grad()
def is_coarse(system: System, x: Tensor, y: Tensor) -> bool:
    """Whether the system computes its answers to x (n, c, h, w) with few digits somewhere on the way."""
    if any(weight.dtype in _SHORT for module in system.modules for weight in module.parameters()):
        return True
    with _Watch() as watch:
        system(x, Draws.for_images(0, x, y), 0)
    return watch.coarse
