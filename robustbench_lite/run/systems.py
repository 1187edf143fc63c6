"""The systems of a plan, built one at a time: every model with every defense."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robustbench_lite import data as datasets
from robustbench_lite import zoo
from robustbench_lite.data.base import Dataset
from robustbench_lite.defense import Workshop, resolve_defense
from robustbench_lite.run.build import defended_system
from robustbench_lite.run.plan import Plan
from robustbench_lite.system import System
from robustbench_lite.threat import Threat


@dataclass(frozen=True, kw_only=True)
class Built:
    """A system and what records call it; `adaptive`, whether attacks on it use what they know of the defense."""

    model: str
    defense: str
    system: System
    adaptive: bool


@dataclass(kw_only=True)
class Builder:
    """Builds the systems of a plan.

    Args:
        data: the test split, for shape and classes. module: the caller's own model instead of the plan's spec.
        training: (done, total, text) of a training under way.
    """

    plan: Plan
    data: Dataset
    device: torch.device
    threats: tuple[Threat, ...]
    training: Any
    module: nn.Module | System | None = None

    def systems(self) -> Iterator[Built]:
        """Every model with every defense, in the order of the plan."""
        for model in self.plan.models:
            for defense in self.plan.defenses:
                yield self._build(model, defense)

    def _build(self, model: str, defense: str) -> Built:
        chain = resolve_defense(defense)
        if isinstance(self.module, System):
            system = self.module
        else:
            system = defended_system(
                self._loaded(model), chain, workshop=self._workshop, seed=self.plan.seed, defense_text=defense
            )
        known = [part for part in chain if part.name != "none"]
        adaptive = bool(known) and all(part.adaptivity != "unaudited" for part in known)
        return Built(model=model, defense=defense, system=system, adaptive=adaptive)

    def _loaded(self, model: str) -> zoo.LoadedModel:
        if self.module is not None:
            assert isinstance(self.module, nn.Module)
            return zoo.from_module(
                self.module, name=model, num_classes=self.data.num_classes, input_shape=self.data.shape
            )
        return zoo.load(
            model,
            num_classes=self.data.num_classes,
            input_shape=self.data.shape,
            allow_pickle=self.plan.allow_pickle,
            class_names=self.data.class_names,
        )

    def _workshop(self) -> Workshop:
        """Made only when something is to be trained: the training split may not be there."""
        root = None if self.plan.data_root is None else Path(self.plan.data_root)
        train = datasets.load(self.plan.dataset, "train", root=root, download=self.plan.download)
        return Workshop(
            train=train, threats=self.threats, seed=self.plan.seed, device=self.device, progress=self.training
        )
