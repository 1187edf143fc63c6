"""Turns and shifts: every image is tried at many of them, and the system's answers decide."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from robustbench_lite.attack import Attack, Cost, Goal, Needs, State
from robustbench_lite.attacks.options import at_least, one_of
from robustbench_lite.errors import UserError
from robustbench_lite.families import SpatialThreat
from robustbench_lite.oracle import Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.threat import Threat


@dataclass(frozen=True, kw_only=True)
class Spatial(Attack):
    """Try rotations and translations, the farthest first, until the answer is wrong.

    The grid is the reference: gradients with respect to an angle and a shift lead into poor local optima, and the worst
    of a few random ones finds much less. The unmoved image is one of the grid's points.

    Args:
        mode: grid, all combinations of evenly spaced angles and shifts; random, as many random ones as `draws`.
        translations: shifts along each axis, an odd number, so that no shift is among them.
        rotations: angles, an odd number.
        draws: how many random ones; the first of any larger number.
    """

    name: ClassVar[str] = "spatial"
    needs: ClassVar[Needs] = Needs.LABELS
    norms: ClassVar[tuple[str, ...]] = ("spatial",)
    source: ClassVar[str] = (
        "Engstrom et al. 2019, Exploring the landscape of spatial robustness, arXiv 1712.02779 (grid, worst of 10)"
    )
    mode: Literal["grid", "random"] = "grid"
    translations: int = 5
    rotations: int = 31
    draws: int = 10

    def __post_init__(self) -> None:
        one_of(self, "mode", ("grid", "random"))
        at_least(self, "draws", 1)
        for option in ("translations", "rotations"):
            at_least(self, option, 1)
            if getattr(self, option) % 2 == 0:
                raise UserError(f"spatial: {option}={getattr(self, option)}; accepted: an odd number, so that 0 is one")

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> State:
        """At the clean images."""
        state: State = State.begin(x, goal, threat, draws, x, witness=x.new_zeros((len(x), 3)))
        return state

    def step(self, state: State, oracle: Oracle) -> State:
        """One more transformation; the oracle keeps the worst."""
        threat = state.threat
        assert isinstance(threat, SpatialThreat)
        limits = threat.limits(state.x)
        if self.mode == "grid":
            shares = self._grid(limits)
            witness, done = shares[state.k.clamp(max=len(shares) - 1)] * limits, state.k + 1 >= len(shares)
        else:
            lots = state.draws.uniform((3,), "spatial", state.k).double()
            witness, done = (2 * lots - 1) * limits, state.done
        witness = witness.to(state.x.dtype)
        adv = threat.render(state.x, witness, state.draws)
        oracle.query(adv, witness=witness)
        return replace(state, adv=adv, witness=witness, done=done)

    def length(self) -> int:
        """As many steps as transformations."""
        return self.translations**2 * self.rotations if self.mode == "grid" else self.draws

    def cost(self, num_classes: int) -> Cost:
        """One forward a transformation."""
        return Cost(self.length())

    def _grid(self, limits: Tensor) -> Tensor:
        """All combinations as shares of the limits, (m, 3) float64, the farthest first; a limit of 0 has one value."""
        counts = (self.translations, self.translations, self.rotations)
        pairs = zip(counts, limits.tolist(), strict=True)
        axes = [_evenly(count if limit else 1, limits.device) for count, limit in pairs]
        shares = torch.cartesian_prod(*axes)
        return shares[(shares**2).sum(1).argsort(descending=True, stable=True)]


def _evenly(count: int, device: torch.device) -> Tensor:
    """From -1 to 1, (count,) float64; one is 0, exactly."""
    half = count // 2
    return torch.arange(-half, half + 1, dtype=torch.float64, device=device) / max(half, 1)
