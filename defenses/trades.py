"""TRADES: the clean loss, and how far the answer can be moved."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor

from robustbench_lite.attack import Attack
from robustbench_lite.attacks.options import at_least
from robustbench_lite.defenses.inner import Nearby, kl
from robustbench_lite.defenses.robust import CraftedTraining, scores
from robustbench_lite.system import System
from robustbench_lite.threat import Threat
from robustbench_lite.training import Batch


@dataclass(frozen=True, kw_only=True)
class Diverging(CraftedTraining):
    """A loss on clean images and on neighbours whose answers differ most, by `climbed`; the divergence weighs beta.

    Args:
        beta: weight of the divergence. steps, step_size: of the inner attack, as fractions of eps.
    """

    awp_after: ClassVar[float] = 0.1
    #: what the inner attack climbs
    climbed: ClassVar[Literal["kl", "ce"]]
    beta: float = 6.0
    steps: int = 10
    step_size: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, "beta", 0)
        self.inner()  # refuses steps out of range

    def inner(self) -> tuple[Attack, ...]:
        """Equal steps from beside the clean image."""
        return (Nearby(objective=self.climbed, steps=self.steps, step_size=self.step_size),)


@dataclass(frozen=True, kw_only=True)
class Trades(Diverging):
    """Minimise J(f(x), y) + beta KL(p(x) || p(x')), where x' makes that divergence large (Zhang et al. 2019, eq. 5).

    The inner maximisation climbs the divergence itself, which looks at no label, from x + 0.001 N(0, 1): at x its
    gradient is zero. It crafts in eval mode. The divergence is summed over the classes and averaged over the batch, and
    the gradient flows through both of its sides. Early stopping keeps the epoch that is most robust to ten-step PGD.

    PGD on the cross-entropy overrates it: the training leaves flat directions that the margin still finds. Measure with
    `pgd:objective=margin` or `autoattack`.

    Args:
        beta: weight of the divergence, the paper's 1/lambda; 6 is its choice for CIFAR-10, 1 for MNIST.
        steps, step_size: of the inner maximisation, equal steps, their length as a fraction of eps.
        threat: what to train against; left out, the first threat of the evaluation that has a radius.
        awp: adversarial weight perturbation after a tenth of the training, as a share of each layer's weights (0.005);
            none: without.
        ramp, from_: as for `adversarial-training`.
    """

    name: ClassVar[str] = "trades"
    source: ClassVar[str] = "Zhang et al. 2019, Theoretically principled trade-off, arXiv 1901.08573, alg. 1"
    climbed: ClassVar[Literal["kl", "ce"]] = "kl"

    def descended(self, system: System, batch: Batch, adv: Tensor, threat: Threat) -> Tensor:
        """The clean loss, and beta times the divergence."""
        clean = scores(system, batch.x, batch)
        return F.cross_entropy(clean, batch.y) + self.beta * kl(clean, scores(system, adv, batch)).mean()
