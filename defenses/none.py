"""No defense: the model as it is."""

from dataclasses import dataclass
from typing import ClassVar

from robustbench_lite.defense import Adaptivity, Defense, Workshop
from robustbench_lite.system import System


@dataclass(frozen=True, kw_only=True)
class NoDefense(Defense):
    """The undefended model, which defenses are compared with; an untrained one is trained on clean images first."""

    name: ClassVar[str] = "none"
    adaptivity: ClassVar[Adaptivity] = "plain-is-adaptive"
    why_plain: ClassVar[str] = "there is nothing to adapt to: a white-box adversary sees the whole model"

    def defend(self, system: System, workshop: Workshop) -> System:
        return system
