"""The geometry of threats: Lp balls around an image, intersected with the box [0, 1]^d that images live in.

A norm is data: attacks ask it for a step, a projection, a random point, and never which norm it is.
Everything works on batches (n, c, h, w) and is batch-blind: a row's result has the same bits alone and in any
batch.
"""

from robustbench_lite.errors import unknown
from robustbench_lite.norms.base import Norm
from robustbench_lite.norms.l0 import L0
from robustbench_lite.norms.l1 import L1
from robustbench_lite.norms.l2 import L2
from robustbench_lite.norms.linf import Linf
from robustbench_lite.specs import norm_name

#: told by its code in the keys of what is made of it; see `hashing.values`
__hashed_by_code__ = True
__all__ = ["L0", "L1", "L2", "NORMS", "Linf", "Norm", "norm"]

NORMS: dict[str, Norm] = {item.name: item for item in (Linf(), L2(), L1(), L0())}


def norm(name: str) -> Norm:
    """The norm of this name, however it is written: Linf, l_inf, inf; L2, l2, 2.

    Raises:
        UserError: there is no such norm.
    """
    found = norm_name(name)
    if found is None:
        raise unknown("norm", name, NORMS)
    return NORMS[found]
