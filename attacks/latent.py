"""Unrestricted examples: images that a conditional generator makes of one class, and a system takes for another.

There is no clean image and no norm, so this is no attack with a threat and a verdict: `robustbench_lite.run.latent` runs it,
and has a second, independent classifier say which of its images still show their class.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_lite.attacks.options import at_least, one_of, positive
from robustbench_lite.errors import UserError
from robustbench_lite.generators.base import Network
from robustbench_lite.generators.inversion import adam
from robustbench_lite.objectives import OBJECTIVES, Goal
from robustbench_lite.oracle import EOT, Needs, Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.rows import Rows, along
from robustbench_lite.system import System
from robustbench_lite.threat import Threat

#: images (n, c, h, w) -> logits (n, k)
Reader = Callable[[Tensor], Tensor]
_TINY = 1e-8
#: variance of the noise on the gradient at step k is SCALE / (1 + k) ** POWER (Neelakantan et al. 2015, as in the paper)
_SCALE, _POWER = 0.01, 0.55


@dataclass(frozen=True, kw_only=True)
class Witness(Rows):
    """What n images are rendered from.

    Args:
        y: (n,) int64, the class that the generator is asked for. z: (n, latent). start: (n, latent), where the search began.
        noise: (n, c, h, w), what is added to the generator's image.
    """

    y: Tensor
    z: Tensor
    start: Tensor
    noise: Tensor


@dataclass(frozen=True, kw_only=True)
class Latent:
    """Search near random latent points for an image of class y that the system takes for another (Song et al. 2018).

    From z0 ~ N(0, 1) it climbs the system's objective at g(z, y) by Adam on z, with noise on the gradient that fades, less
    `guidance` times the cross-entropy by which another classifier, the guide, reads y. Every coordinate of z stays within
    `reach` of z0: the limit of the paper's penalty for large lambda_1. With `noise`, the image itself may change a little
    as well: clip(g(z, y) + noise * tanh(tau)).

    A generator asked for a 3 may draw a 5. Whether an image shows its class, neither system nor guide decides.

    Args:
        steps: of the search. learning_rate: of Adam on z. reach: how far a coordinate of z may move; 0: it stays.
        noise: the most that a pixel may change besides; 0: nothing.
        guidance: weight of the guide's cross-entropy, the paper's lambda_2 / 100; 0: there is no guide.
        objective: what is climbed: margin, ce, dlr, log-odds or squared.
        langevin: add noise to the gradient.
        eot: draws of the system's own randomness that a step averages over, where it is random.
    """

    name: ClassVar[str] = "latent"
    source: ClassVar[str] = (
        "Song, Shu, Kushman, Ermon 2018, Constructing unrestricted adversarial examples, arXiv 1805.07894"
    )
    steps: int = 200
    learning_rate: float = 0.05
    reach: float = 0.1
    noise: float = 0.0
    guidance: float = 1.0
    objective: str = "margin"
    langevin: bool = True
    eot: int = 10

    def __post_init__(self) -> None:
        at_least(self, "steps", 1)
        at_least(self, "eot", 1)
        positive(self, "learning_rate")
        for option in ("reach", "guidance"):
            at_least(self, option, 0)
        if not 0 <= self.noise <= 1:
            raise UserError(f"latent: noise={self.noise:g}; accepted: 0 to 1")
        one_of(self, "objective", tuple(OBJECTIVES))

    def render(self, network: Network, witness: Witness) -> Tensor:
        """The images (n, c, h, w) in [0, 1] that these witnesses mean; nothing is drawn."""
        with torch.no_grad():
            return (network.decode(witness.z, witness.y).clamp(0, 1) + witness.noise).clamp(0, 1)

    def allowed(self, witness: Witness) -> Tensor:
        """Which witnesses are finite and keep both limits, (n,) bool."""
        moved, added = (witness.z - witness.start).abs(), witness.noise.abs().flatten(1)
        finite = witness.z.isfinite().all(1) & added.isfinite().all(1)
        return finite & (moved <= self.reach * (1 + 1e-5)).all(1) & (added <= self.noise * (1 + 1e-5)).all(1)

    def search(
        self,
        network: Network,
        system: System,
        y: Tensor,
        draws: Draws,
        guide: Reader | None,
        target: Tensor | None = None,
    ) -> tuple[Witness, Tensor, Tensor]:
        """One attempt a row; each ends at its first image that fools the system and that the guide reads as y.

        Args:
            network: conditional, in eval mode. y: (n,) the classes asked for. draws: of n rows; another attempt at the same
                class is another row. guide: None: the search has none. target: (n,) what to be taken for; None: anything.

        Returns:
            The witnesses, and the images and gradients that each row paid, (n,) and (n,).
        """
        start = network.prior(draws)
        goal = Goal(y=y, target=target, success="untargeted" if target is None else "targeted")
        z, tau = start.clone(), start.new_zeros((len(y), *network.shape))
        oracle = Oracle(
            system, Needs.GRADIENTS, torch.zeros_like(tau), goal, Threat(norm="Linf", eps=1.0), draws, watch=False,
            eot=EOT(draws=self.eot) if system.randomised else None,
        )  # fmt: skip
        state, done = (torch.zeros_like(z), torch.zeros_like(z)), torch.zeros_like(y, dtype=torch.bool)
        for step in range(self.steps + 1):
            here, shift = z.detach().requires_grad_(), tau.detach().requires_grad_()
            with torch.enable_grad():
                image = (network.decode(here, y).clamp(0, 1) + self.noise * shift.tanh()).clamp(0, 1)
                read = None if guide is None else guide(image)
            said = oracle.query(image.detach(), OBJECTIVES[self.objective], probe=True, asking=~done)
            done = done | (said.adversarial & (True if read is None else read.argmax(1) == y))
            if step == self.steps or bool(done.all()):
                break
            assert said.grads is not None
            slopes = self._slopes(image, said.grads[0], read, y, (here, shift))
            z, tau, state = self._moved(z, tau, start, slopes, state, done, draws, step)
        witness = Witness(y=y, z=z, start=start, noise=self.noise * tau.tanh())
        return witness, oracle.ledger.forwards, oracle.ledger.backwards

    def _slopes(
        self, image: Tensor, grad: Tensor, read: Tensor | None, y: Tensor, leaves: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Of what is climbed, by z and by tau: the system's objective through its oracle, less the guide's loss."""
        climbed = (image * grad).sum()
        if read is not None and self.guidance:
            climbed = climbed - self.guidance * F.cross_entropy(read, y, reduction="sum")
        by_z, by_tau = torch.autograd.grad(climbed, leaves)
        return by_z, by_tau

    def _moved(
        self,
        z: Tensor,
        tau: Tensor,
        start: Tensor,
        slopes: tuple[Tensor, Tensor],
        state: tuple[Tensor, Tensor],
        done: Tensor,
        draws: Draws,
        step: int,
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """The next point and Adam's state; rows that are done stay where they are."""
        by_z, by_tau = slopes
        if self.langevin:
            spread = (_SCALE / (1 + step) ** _POWER) ** 0.5
            by_z = by_z + spread * draws.normal(z.shape[1:], "latent-search", step)
        move, state = adam(self.learning_rate, by_z, state, step)
        length = along(by_tau.flatten(1).norm(dim=1).clamp(min=_TINY), by_tau)
        there = torch.minimum(torch.maximum(z + move, start - self.reach), start + self.reach)
        z = torch.where(done[:, None], z, there)
        return z, torch.where(along(done, tau), tau, tau + by_tau / length), state
