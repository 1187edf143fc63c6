"""The systems of a plan, built one at a time: every model with every defense."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from robustbench_lite import zoo
from robustbench_lite.data.base import Dataset
from robustbench_lite.defense import Workshop, resolve_defense
from robustbench_lite.errors import ModelError, UserError
from robustbench_lite.guard import calling
from robustbench_lite.run.build import defended_system
from robustbench_lite.run.dataset import load_data
from robustbench_lite.run.plan import Plan
from robustbench_lite.run.shelf import Shelf
from robustbench_lite.run.treatment import hides
from robustbench_lite.system import Observed, System
from robustbench_lite.task import task_of
from robustbench_lite.threat import Threat


@dataclass(frozen=True, kw_only=True)
class Built:
    """A system and what records call it.

    Args:
        adaptive: whether attacks on it use what they know of the defense. hides: whether there is something to know.
    """

    model: str
    defense: str
    system: System
    adaptive: bool
    hides: bool = False


@dataclass(kw_only=True)
class Builder:
    """Builds the systems of a plan.

    Args:
        data: the test split, for shape and classes. given: the caller's own system instead of the plan's model specs.
        training: (done, total, text) of a training under way. judges: what reads reconstructions, kept.
    """

    plan: Plan
    data: Dataset
    device: torch.device
    threats: tuple[Threat, ...]
    training: Callable[[int, int, str], None]
    given: System | None = None
    judges: Shelf | None = None

    def pairs(self) -> list[tuple[str, str]]:
        """Every model with every defense, in the order of the plan.

        Raises:
            UserError: a model is not there: told of the last one before the first one is attacked.
        """
        for model in self.plan.models[1:]:
            self._loaded(model)
        return [(model, defense) for model in self.plan.models for defense in self.plan.chains]

    def networks(self) -> list[nn.Module]:
        """The network of every model, with whatever weights it comes with."""
        found = [self._loaded(model) for model in self.plan.models]
        return [one.model if isinstance(one, System) else one.module for one in found]

    def shelf(self) -> Shelf:
        """The networks that attacks name."""
        return Shelf(data=self.data, device=self.device, allow_pickle=self.plan.allow_pickle, workshop=self._workshop)

    def build(self, model: str, defense: str) -> Built:
        chain = resolve_defense(defense)
        known = [part for part in chain if part.name != "none"]
        with calling(f"{model} with {defense}"):
            system = defended_system(self._loaded(model), chain, self._workshop)
        audited, hidden = all(part.adaptivity != "unaudited" for part in known), hides(system)
        adaptive = audited and (bool(known) or hidden)
        return Built(model=model, defense=defense, system=system, adaptive=adaptive, hides=hidden and adaptive)

    def _loaded(self, model: str) -> zoo.LoadedModel | System:
        if task_of(self.plan.task).reconstructs:
            return self._reconstructing(model)
        if self.given is not None:
            return self.given
        return zoo.load(
            model,
            num_classes=self.data.num_classes,
            input_shape=self.data.shape,
            allow_pickle=self.plan.allow_pickle,
            class_names=self.data.class_names,
        )

    def _reconstructing(self, model: str) -> System:
        """The model with the classifier that reads its reconstructions."""
        if self.given is not None:
            if not isinstance(self.given.model, Observed):
                raise UserError(f"{model} is a classifier and reconstructs nothing; leave out task=reconstruction")
            return self.given
        if not zoo.reconstructs(model):
            wanted = "vae:FILE, autoencoder:FILE or generator:FILE"
            raise UserError(f"{model} is a classifier and reconstructs nothing; accepted: {wanted}, or task=classify")
        self.judges = self.judges or self.shelf().of(self.data.num_classes)
        return zoo.load_reconstructing(model, input_shape=self.data.shape, judge=self.judges.model)

    def _workshop(self) -> Workshop:
        """Looks for the training split only where something learns from it: it may not be there."""
        return _Unhurried(
            look=self._train, threats=self.threats, seed=self.plan.seed, device=self.device, progress=self.training
        )

    def _train(self) -> Dataset:
        if self.plan.dataset == "tensors":
            raise UserError(
                "a defense, or a network to be trained, learns from training data, and evaluate was given images alone; "
                "name a dataset"
            )
        return load_data(self.plan, "train")


@dataclass(frozen=True, kw_only=True)
class _Unhurried(Workshop):
    """A workshop that loads its training data when they are first asked for.

    What learns nothing, such as a rounding of pixels, never asks, and can be put around a model of which there are
    test images alone.
    """

    train: Dataset = field(init=False, repr=False)
    look: Callable[[], Dataset]

    def __getattr__(self, name: str) -> Any:
        if name != "train":
            raise AttributeError(name)
        train = self.look()
        object.__setattr__(self, "train", train)
        return train


@contextmanager
def borrowed(model: nn.Module | System | None, data: Dataset | None, device: torch.device) -> Iterator[System | None]:
    """The caller's model as a system for a while; modes, gradient flags and device are put back afterwards."""
    if model is None or isinstance(model, System):
        yield model
        return
    if data is None:
        raise UserError("evaluate got a module without x and y; give the images and labels too")
    modes = {part: part.training for part in model.modules()}
    flags = {parameter: parameter.requires_grad for parameter in model.parameters()}
    home = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    try:
        yield _system_of(model.to(device), data, device)
    finally:
        model.to(home)
        for part, training in modes.items():
            part.training = training
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)


def _system_of(model: nn.Module, data: Dataset, device: torch.device) -> System:
    """A bare module as a system; one image tells how many classes it has."""
    model.eval()
    name = type(model).__name__
    x = data.batch([0]).to(device)
    try:
        with calling(name), torch.no_grad():
            scores = model(x)
    except ModelError as error:
        raise UserError(f"{name} cannot take images {tuple(x.shape[1:])}: {error}") from error
    if not isinstance(scores, torch.Tensor) or scores.dim() != 2 or len(scores) != 1:
        given = tuple(scores.shape) if isinstance(scores, torch.Tensor) else type(scores).__name__
        raise UserError(f"{name} answers one image with {given}; accepted: a tensor (1, classes) of logits")
    return System(model=model, num_classes=scores.shape[1], input_shape=data.shape, name=name)
