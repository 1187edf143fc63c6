"""The published AutoAttack: `fra31:standard`. Croce and Hein 2020, arXiv 2003.01690."""

import importlib.util
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from robustbench_lite.attack import State
from robustbench_lite.attacks.foreign.base import Foreign, Kind
from robustbench_lite.errors import UserError

_VERSIONS = ("standard", "plus", "rand")
_PARTS = ("apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square")
#: the authors' own code, and a package of the same code
_MODULES = ("autoattack", "pyautoattack")


@dataclass(frozen=True, kw_only=True)
class Fra31(Foreign):
    """The published AutoAttack, or one part of it: `fra31:standard`, `fra31:apgd-ce`.

    Names: standard, plus, rand, and the parts apgd-ce, apgd-dlr, apgd-t, fab, fab-t, square, each with its published budget.
    Each part sees only what the ones before it left; the row is what all of them together leave. Its own seed is drawn from ours.
    """

    name: ClassVar[str] = "fra31"
    norms: ClassVar[tuple[str, ...]] = ("Linf", "L2", "L1")
    source: ClassVar[str] = "Croce and Hein 2020, arXiv 2003.01690, and their code (fra31/auto-attack)"
    module: ClassVar[str] = "autoattack"
    packages: ClassVar[tuple[str, ...]] = _MODULES
    called: ClassVar[str] = "the published AutoAttack"
    how: ClassVar[str] = "pip install git+https://github.com/fra31/auto-attack, or pyautoattack"
    example: ClassVar[str] = "fra31:standard"

    @classmethod
    def known(cls) -> Mapping[str, Any]:
        """The versions and their parts."""
        cls._autoattack()
        return dict.fromkeys((*_VERSIONS, *_PARTS))

    @classmethod
    def _autoattack(cls) -> Any:
        there = next((name for name in _MODULES if importlib.util.find_spec(name) is not None), _MODULES[0])
        return cls.library(there).AutoAttack

    def kind(self) -> Kind:
        """All of them attack inside a ball."""
        if self.options:
            raise UserError(
                f"{self.name}:{self.attack} has no option {self.options[0][0]!r}; its budgets are published"
            )
        return Kind(type(self).norms, aims=False)

    def craft(self, network: nn.Module, state: State, seed: int) -> Tensor:
        """Its standard evaluation on the whole micro-batch."""
        found, threat = self._autoattack(), state.threat
        takes = inspect.signature(found.__init__).parameters
        alone = self.attack not in _VERSIONS
        given = {"norm": threat.norm, "eps": threat.eps, "seed": seed, "verbose": False, "device": state.x.device}
        given |= {"version": "custom" if alone else self.attack}
        attack = found(network, **{name: value for name, value in given.items() if name in takes})
        if alone:
            attack.attacks_to_run = [self.attack]
        for part in (attack.apgd_targeted, attack.fab):  # it aims at nine others, as its page says to change for fewer
            part.n_target_classes = min(part.n_target_classes, int(network.num_classes) - 1)  # type: ignore[arg-type]
        size = "bs" if "bs" in inspect.signature(attack.run_standard_evaluation).parameters else "batch_size"
        answer = attack.run_standard_evaluation(state.x.clone(), state.goal.y, **{size: len(state.x)})
        adv = answer[0] if isinstance(answer, tuple) else answer
        assert isinstance(adv, torch.Tensor)
        return adv
