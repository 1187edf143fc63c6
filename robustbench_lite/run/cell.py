"""One cell: an attack on a subject under a threat, and the address of what comes of it."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from robustbench_lite.attack import Attack, prepares
from robustbench_lite.data import outside
from robustbench_lite.hashing import hash_json
from robustbench_lite.hashing.values import hash_plugin, hash_value, versions_of
from robustbench_lite.run.subject import Subject
from robustbench_lite.threat import Threat

#: raised when the engine or the verdict changes in a way that could change numbers
NUMBERS = 2
#: the same, where only those of random systems could
RANDOM_NUMBERS = 2
#: the most samples that an attack is given to learn from
SETUP_SAMPLES = 1000


@dataclass(frozen=True, kw_only=True, eq=False)
class Cell:
    """What is run.

    Args:
        attack_text: what records call the attack. early_exit: retire a sample at its first confirmed break; see
            `leaves_early`.
        targets: (n,) the user's own, one for every sample of the split, or None.
        keep: positions of the slice whose adversarial examples are kept.
        eot: draws that every query averages over; 0, as the attack itself wants.
        blind: the adversary knows nothing of the camera: all steps are made on the system without it, and the point that
            is best there is handed in.
        plain: the adversary does not know the defense; where it rejects, the point that is best without is handed in.
    """

    subject: Subject
    attack: Attack
    attack_text: str
    threat: Threat
    threat_text: str
    early_exit: bool = True
    precision: str = "float32"
    targets: Tensor | None = None
    keep: frozenset[int] = frozenset()
    eot: int = 0
    blind: bool = False
    plain: bool = False

    @property
    def hunted(self) -> Subject:
        """What the adversary works on."""
        subject = self.subject.plain if self.plain else self.subject
        return replace(subject.bare, shapes=subject.shapes) if self.blind and subject.bare is not None else subject

    @property
    def hands_in(self) -> bool:
        """Whether examples are made on something else than the system, and are judged by it once."""
        return self.draws > 1 or (self.plain and self.subject.system.detector is not None)

    @property
    def adaptive(self) -> bool:
        """Whether the attack uses what its adversary knows of the defense, and of a camera."""
        return self.subject.is_known(plain=self.plain, blind=self.blind)

    @property
    def draws(self) -> int:
        """How often each example is looked at: more than once where the system or the threat is random."""
        random = self.subject.system.randomised or self.threat.random
        return self.subject.sitting.count if random else 1

    @property
    def leaves_early(self) -> bool:
        """Whether a sample leaves at its first confirmed break; on a random system none does, since that is confirmed by
        draws that the last word does not count, and it might deny a break that better ones would have followed."""
        return self.early_exit and not self.blind and self.draws == 1

    @property
    def idle(self) -> Tensor:
        """Which positions of the slice, (m,), nobody needs an example of: behind a camera those wrong on both sides of it."""
        wrong, bare = self.subject.clean.wrong, self.subject.bare
        return wrong if bare is None else wrong & bare.clean.wrong

    @property
    def target_rule(self) -> str | None:
        """How the class to climb towards is chosen."""
        return self.threat.target if self.threat.goal == "targeted" else self.attack.target_rule

    @property
    def target_column(self) -> Tensor | None:
        """The user's own targets in the order of the slice, (m,)."""
        return None if self.targets is None else self.targets.cpu()[torch.from_numpy(self.subject.indices)]

    @property
    def lessons(self) -> np.ndarray:
        """Positions of the split that the attack learns from, none of them evaluated; see `Attack.prepare`.

        Raises:
            UserError: every sample is evaluated.
        """
        return outside(self.subject.data, self.subject.indices, SETUP_SAMPLES, self.subject.seed)

    @cached_property
    def key(self) -> str:
        """The cell's content address."""
        subject = self.subject
        attack, packages = hash_plugin(self.attack)
        return hash_json(
            {
                "numbers": NUMBERS,
                "system": subject.system.digest,
                "fast": subject.fast.notes.get("fast", ""),
                "adaptive": subject.adaptive,
                "eot": self.eot,
                "blind": self.blind,
                "draws": self.draws,
                "data": subject.data.digest(),
                "attack": [self.attack.name, self.attack.version, attack],
                "threat": [
                    *(self.threat.norm, self.threat.eps, self.threat.goal, self.threat.target),
                    *self.threat.settings,
                ],
                "seed": subject.seed,
                "precision": self.precision,
                "early exit": self.leaves_early,
                "floor": subject.shapes.floor,
                "fixed": subject.shapes.fixed,
                "threads": torch.get_num_threads(),
                "device": _device_name(subject.device),
                "torch": torch.__version__,
                "packages": versions_of(tuple(sorted({*packages, *subject.system.packages} - {"torch"}))),
                "targets": hash_value(self.targets) if self.target_rule == "column" else None,
                "lessons": hash_value(self.lessons) if prepares(self.attack, self.threat) else None,
                **({"plain": True} if self.plain else {}),
                **({"random": RANDOM_NUMBERS} if self.draws > 1 else {}),
            }
        )


def left_out(cell: Cell, todo: Tensor) -> Tensor:
    """Which positions have the target as their label: there is nothing to do for them."""
    labels = cell.subject.labels[todo]
    rule = cell.target_rule
    if rule == "column" and cell.target_column is not None:
        return cell.target_column[todo] == labels
    if rule is not None and rule.isdigit():
        return labels == int(rule)
    return torch.zeros(len(todo), dtype=torch.bool)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
