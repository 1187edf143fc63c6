"""torchattacks' attacks: `torchattacks:PGD;steps=40`. Kim 2020, arXiv 2010.01950; version 3.4 and later."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from robustbench_lite.attack import Needs, State
from robustbench_lite.attacks.foreign.base import Foreign, Kind
from robustbench_lite.attacks.foreign.constructors import options_of, values

#: how it calls the radius
_RADIUS = ("eps", "max_epsilon")
_GIVEN = ("model", "norm", "n_classes", "verbose", *_RADIUS)
#: those that are not of Linf; the library does not say
_KINDS = {
    **dict.fromkeys(("APGD", "APGDT"), Kind(("Linf", "L2"))),
    **dict.fromkeys(("AutoAttack", "FAB"), Kind(("Linf", "L2", "L1"))),
    "Square": Kind(("Linf", "L2"), needs=Needs.SCORES),
    "SPSA": Kind(("Linf",), needs=Needs.SCORES),
    **dict.fromkeys(("PGDL2", "PGDRSL2"), Kind(("L2",))),
    **dict.fromkeys(("CW", "DeepFool"), Kind(("L2",), minimises=True)),
    **dict.fromkeys(("EADL1", "EADEN"), Kind(("L1",), minimises=True)),
    **dict.fromkeys(("JSMA", "SparseFool"), Kind(("L0",), minimises=True)),
    **dict.fromkeys(("OnePixel", "Pixle"), Kind(("L0",), minimises=True, needs=Needs.SCORES)),
}


@dataclass(frozen=True, kw_only=True)
class TorchAttacks(Foreign):
    """An attack of torchattacks, by its class name: `torchattacks:PGD;steps=40`.

    The radius is the threat's, the labels are the true ones, and its last point is judged like any other. Step sizes are the
    library's own, in units of an image (`alpha=2/255`, or `alpha=eps/4`). Attacks that look for a small perturbation run under
    a threat without eps too (`L2`); under one with eps their point is cut to the ball.
    """

    name: ClassVar[str] = "torchattacks"
    source: ClassVar[str] = "Kim 2020, Torchattacks, arXiv 2010.01950"
    module: ClassVar[str] = "torchattacks"
    packages: ClassVar[tuple[str, ...]] = ("torchattacks",)
    called: ClassVar[str] = "torchattacks"
    how: ClassVar[str] = "pip install --no-deps torchattacks"
    given: ClassVar[tuple[str, ...]] = _GIVEN
    example: ClassVar[str] = "torchattacks:PGD;steps=40"

    @classmethod
    def known(cls) -> Mapping[str, Any]:
        """Every class that takes a radius, or is known to look for a small perturbation."""
        library = cls.library()
        base = cls.library("torchattacks.attack").Attack
        found = {name: kind for name, kind in vars(library).items() if inspect.isclass(kind) and issubclass(kind, base)}
        return {
            name: kind for name, kind in found.items() if name in _KINDS or {*_RADIUS} & options_of(kind).keys()
        }  # fmt: skip

    def kind(self) -> Kind:
        """By a table: the library does not say."""
        self._values(1.0)
        return _KINDS.get(self.attack, Kind(("Linf",)))

    def _values(self, eps: float | None) -> dict[str, Any]:
        cls = self.known()[self.attack]
        return values(cls, dict(self.options), who=f"{self.name}:{self.attack}", eps=eps, given=_GIVEN)

    def craft(self, network: nn.Module, state: State, seed: int) -> Tensor:
        """Its call, with the labels, or with the targets where these are what counts."""
        cls, threat, goal = self.known()[self.attack], state.threat, state.goal
        # What it draws with a generator of its own is seeded like the rest, unless the user says otherwise.
        radius: Any = threat.eps
        given: dict[str, Any] = dict.fromkeys(_RADIUS, radius)
        given |= {"norm": threat.norm, "n_classes": network.num_classes, "verbose": False, "seed": seed}
        told = {name: value for name, value in given.items() if name in options_of(cls) and value is not None}
        attack = cls(network, **{**told, **self._values(threat.eps)})
        labels = goal.y
        if goal.success == "targeted":
            assert goal.target is not None
            attack.set_mode_targeted_by_label(quiet=True)
            labels = goal.target
        adv: Tensor = attack(state.x.clone(), labels)
        return adv
