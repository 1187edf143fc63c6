"""Foolbox's attacks: `foolbox:LinfPGD;steps=40`. Rauber, Brendel and Bethge 2017, arXiv 1707.04131; version 3 and later."""

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from robustbench_lite.attack import Needs, State
from robustbench_lite.attacks.foreign.base import Foreign, Kind
from robustbench_lite.attacks.foreign.constructors import options_of, values
from robustbench_lite.errors import UserError

_NORMS = {math.inf: "Linf", 2: "L2", 1: "L1", 0: "L0"}
#: what is in the names of those that look at answers alone
_BLIND = ("Noise", "Contrast", "Blur", "Inversion", "Binarization", "Boundary", "HopSkipJump")
#: chosen by the threat, not by the user
_GIVEN = ("distance", "constraint")
#: those that want other attacks, other images, or are of no norm
_LEFT_OUT = ("SpatialAttack", "DatasetAttack", "PointwiseAttack")


@dataclass(frozen=True, kw_only=True)
class Foolbox(Foreign):
    """An attack of Foolbox, by its class name: `foolbox:LinfPGD;steps=40`.

    The radius is the threat's, the labels are the true ones, and its last point is judged like any other. Attacks that look
    for a smallest perturbation run under a threat without eps too (`L2`), and under one with eps stop at it, as Foolbox has it.
    """

    name: ClassVar[str] = "foolbox"
    source: ClassVar[str] = "Rauber, Brendel and Bethge 2017, Foolbox, arXiv 1707.04131"
    module: ClassVar[str] = "foolbox"
    packages: ClassVar[tuple[str, ...]] = ("foolbox",)
    called: ClassVar[str] = "Foolbox"
    given: ClassVar[tuple[str, ...]] = _GIVEN
    example: ClassVar[str] = "foolbox:LinfPGD;steps=40"

    @classmethod
    def known(cls) -> Mapping[str, Any]:
        """Every class of `foolbox.attacks` that keeps to a norm."""
        library = cls.library()
        bases = (library.attacks.base.FixedEpsilonAttack, library.attacks.base.MinimizationAttack)
        found = {name: kind for name, kind in vars(library.attacks).items() if inspect.isclass(kind)}
        return {name: kind for name, kind in found.items() if issubclass(kind, bases) and name not in _LEFT_OUT}

    def kind(self) -> Kind:
        """By what the class says of its distance."""
        library, cls = self.library(), self.known()[self.attack]
        made = self._made(cls, None)
        needs = Needs.LABELS if any(word in cls.__name__ for word in _BLIND) else Needs.GRADIENTS
        needs = Needs.SCORES if cls.__name__ == "GenAttack" else needs
        minimises = issubclass(cls, library.attacks.base.MinimizationAttack)
        return Kind(norms=_norms(cls, made), minimises=minimises, needs=needs)

    def _made(self, cls: type, threat: Any) -> Any:
        """The attack itself; a threat chooses the norm of those that leave it open."""
        takes, more = options_of(cls), {}
        if threat is not None and "distance" in takes:
            order = next(order for order, norm in _NORMS.items() if norm == threat.norm)
            more["distance"] = self.library("foolbox.distances").LpDistance(order)
        if threat is not None and "constraint" in takes:
            more["constraint"] = threat.norm.lower()
        eps = 1.0 if threat is None else threat.eps
        made = values(cls, dict(self.options), who=f"{self.name}:{self.attack}", eps=eps, given=_GIVEN)
        try:
            return cls(**made, **more)
        except (TypeError, ValueError, AssertionError, ImportError) as error:
            raise UserError(f"{self}: {error}") from error

    def craft(self, network: nn.Module, state: State, seed: int) -> Tensor:
        """Its call with the threat's radius; the clipped points, which is what it calls its own."""
        library, goal = self.library(), state.goal
        attack = self._made(self.known()[self.attack], state.threat)
        wrapped = library.PyTorchModel(network, bounds=(0, 1), device=state.x.device)
        criterion = library.criteria.Misclassification(goal.y)
        if goal.success == "targeted":
            assert goal.target is not None
            criterion = library.criteria.TargetedMisclassification(goal.target)
        _, found, _ = attack(wrapped, state.x.clone(), criterion, epsilons=state.threat.eps)
        assert isinstance(found, torch.Tensor)
        return found


def _norms(cls: type, made: Any) -> tuple[str, ...]:
    """Those that the threat may choose from, or the one that the attack is made for."""
    takes = options_of(cls)
    if "constraint" in takes:
        return ("Linf", "L2")
    return tuple(_NORMS.values()) if "distance" in takes else (_NORMS[made.distance.p],)
