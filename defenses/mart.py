"""MART: adversarial training that cares more for what is misclassified already."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor

from robustbench_lite.defenses.inner import kl
from robustbench_lite.defenses.robust import scores
from robustbench_lite.defenses.trades import Diverging
from robustbench_lite.system import System
from robustbench_lite.threat import Threat
from robustbench_lite.training import Batch

#: keep the logarithm of what no other class has finite, as the authors' code does
_ABOVE, _TINY = 1.0001, 1e-12


@dataclass(frozen=True, kw_only=True)
class Mart(Diverging):
    """Minimise BCE(p(x'), y) + beta KL(p(x) || p(x')) (1 - p_y(x)) (Wang et al. 2020, eq. 11).

    BCE is -ln p_y - ln(1 - max_{k != y} p_k): it also pushes the runner-up down. Clean images of little confidence weigh
    more in the divergence. The inner attack is PGD on the cross-entropy in eval mode, from x + 0.001 N(0, 1).

    Its gain over TRADES shows under PGD; under stronger attacks most of it is gone. Measure with `autoattack`.

    Args:
        beta: weight of the divergence, the paper's lambda.
        steps, step_size: of the inner attack, equal steps, their length as a fraction of eps.
        threat: what to train against; left out, the first threat of the evaluation that has a radius.
        awp: adversarial weight perturbation after a tenth of the training, as a share of each layer's weights (0.005);
            none: without.
        ramp, from_: as for `adversarial-training`.
    """

    name: ClassVar[str] = "mart"
    source: ClassVar[str] = (
        "Wang et al. 2020, Improving adversarial robustness requires revisiting misclassified examples, ICLR"
    )
    climbed: ClassVar[Literal["kl", "ce"]] = "ce"
    beta: float = 5.0

    def descended(self, system: System, batch: Batch, adv: Tensor, threat: Threat) -> Tensor:
        """The boosted cross-entropy, and beta times the weighted divergence."""
        clean, moved = scores(system, batch.x, batch), scores(system, adv, batch)
        unsure = 1 - clean.softmax(1).gather(1, batch.y[:, None]).squeeze(1)
        return (boosted_cross_entropy(moved, batch.y) + self.beta * kl(clean, moved) * unsure).mean()


def boosted_cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """-ln p_y - ln(1.0001 - max_{k != y} p_k + 1e-12) of every row: (n, k), (n,) -> (n,)."""
    own = F.one_hot(y, logits.shape[1]).bool()
    runner_up = logits.softmax(1).masked_fill(own, 0).amax(1)
    return F.cross_entropy(logits, y, reduction="none") - (_ABOVE - runner_up + _TINY).log()
