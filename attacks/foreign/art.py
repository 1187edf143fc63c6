"""ART's attacks: `art:ProjectedGradientDescent;max_iter=40`. Nicolae et al. 2018, arXiv 1807.01069; version 1.18 and later."""

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from robustbench_lite.attack import Needs, State
from robustbench_lite.attacks.foreign.base import Foreign, Kind
from robustbench_lite.attacks.foreign.constructors import options_of, values

_ORDERS = {"Linf": math.inf, "L2": 2, "L1": 1}
_MODEL = ("estimator", "classifier")
_GIVEN = (*_MODEL, "norm", "eps", "targeted", "verbose", "summary_writer", "estimator_orig")
_BALL, _LABELS, _SCORES = Kind(("Linf", "L2", "L1")), Needs.LABELS, Needs.SCORES
#: what can be run on images and a network, and what it is; the library does not say
_KINDS = {
    **dict.fromkeys(
        (
            *("FastGradientMethod", "MomentumIterativeMethod", "ProjectedGradientDescent"),
            *("ProjectedGradientDescentNumpy", "ProjectedGradientDescentPyTorch", "AutoProjectedGradientDescent"),
            *("AutoConjugateGradient", "RescalingAutoConjugateGradient", "AutoAttack", "UniversalPerturbation"),
        ),
        _BALL,
    ),
    "BasicIterativeMethod": Kind(("Linf",)),
    "VirtualAdversarialMethod": Kind(("L2",)),
    "SquareAttack": Kind(("Linf", "L2", "L1"), needs=_SCORES),
    "HopSkipJump": Kind(("Linf", "L2"), minimises=True, needs=_LABELS),
    "GeoDA": Kind(("Linf", "L2", "L1"), minimises=True, needs=_LABELS),
    **dict.fromkeys(("BoundaryAttack", "SignOPTAttack"), Kind(("L2",), minimises=True, needs=_LABELS)),
    **dict.fromkeys(("SimBA", "ZooAttack"), Kind(("L2",), minimises=True, needs=_SCORES)),
    **dict.fromkeys(("CarliniL2Method", "DeepFool", "NewtonFool"), Kind(("L2",), minimises=True)),
    "CarliniLInfMethod": Kind(("Linf",), minimises=True),
    "ElasticNet": Kind(("L1",), minimises=True),
    **dict.fromkeys(("CarliniL0Method", "SaliencyMapMethod"), Kind(("L0",), minimises=True)),
}
#: takes one image at a time, and probabilities
_SINGLY = ("SimBA",)


@dataclass(frozen=True, kw_only=True)
class ART(Foreign):
    """An attack of the Adversarial Robustness Toolbox, by its class name: `art:ProjectedGradientDescent;max_iter=40`.

    The radius and the norm are the threat's, the labels are the true ones, and its last point is judged like any other. Step
    sizes are the library's own, in units of an image: eps_step is 0.1 if it is left out, so write eps_step=eps/4. Attacks that
    look for a small perturbation run under a threat without eps too (`L2`); under one with eps their point is cut to the ball.
    """

    name: ClassVar[str] = "art"
    source: ClassVar[str] = "Nicolae et al. 2018, Adversarial Robustness Toolbox, arXiv 1807.01069"
    module: ClassVar[str] = "art.attacks.evasion"
    packages: ClassVar[tuple[str, ...]] = ("adversarial-robustness-toolbox",)
    called: ClassVar[str] = "ART"
    given: ClassVar[tuple[str, ...]] = _GIVEN
    example: ClassVar[str] = "art:ProjectedGradientDescent;max_iter=40;eps_step=eps/4"

    @classmethod
    def known(cls) -> Mapping[str, Any]:
        """The evasion attacks that work on images and a network."""
        library = cls.library()
        found = {name: getattr(library, name, None) for name in _KINDS}
        return {name: kind for name, kind in found.items() if inspect.isclass(kind)}

    def kind(self) -> Kind:
        """By a table: the library does not say."""
        self._values(1.0)
        return replace(_KINDS[self.attack], aims="targeted" in options_of(self.known()[self.attack]))

    def _values(self, eps: float | None) -> dict[str, Any]:
        cls = self.known()[self.attack]
        return values(cls, dict(self.options), who=f"{self.name}:{self.attack}", eps=eps, given=_GIVEN)

    def craft(self, network: nn.Module, state: State, seed: int) -> Tensor:
        """Its `generate` on the whole micro-batch, through ART's own wrapper of a PyTorch network."""
        cls, threat, goal, x = self.known()[self.attack], state.threat, state.goal, state.x
        takes, aimed = options_of(cls), goal.success == "targeted"
        singly = self.attack in _SINGLY
        given = {"eps": threat.eps, "norm": _ORDERS.get(threat.norm), "batch_size": 1 if singly else len(x)}
        given |= {"targeted": aimed, "verbose": False}
        told = {name: value for name, value in given.items() if name in takes and value is not None}
        classes = int(network.num_classes)  # type: ignore[arg-type]  # Module says Tensor or Module
        estimator = self.library("art.estimators.classification").PyTorchClassifier(
            nn.Sequential(network, nn.Softmax(1)) if singly else network,
            loss=nn.CrossEntropyLoss(),
            input_shape=tuple(x.shape[1:]),
            nb_classes=classes,
            clip_values=(0.0, 1.0),
            device_type="gpu" if x.device.type == "cuda" else "cpu",
        )
        attack = cls(estimator, **{**told, **self._values(threat.eps)})
        labels = goal.target if aimed else goal.y
        assert labels is not None
        found = attack.generate(x.cpu().numpy().copy(), one_hot(labels, classes).float().cpu().numpy())
        return torch.from_numpy(found)
