"""The systems of a plan, built one at a time: every model with every defense."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_lite import zoo
from robustbench_lite.data.base import Dataset
from robustbench_lite.defense import Workshop, resolve_defense
from robustbench_lite.errors import UserError, cut
from robustbench_lite.escaping import printable
from robustbench_lite.guard import calling
from robustbench_lite.results.loading import loading_text
from robustbench_lite.run.build import defended_system
from robustbench_lite.run.dataset import load_data
from robustbench_lite.run.plan import Plan
from robustbench_lite.run.shapes import default_shapes
from robustbench_lite.run.shelf import Shelf
from robustbench_lite.run.treatment import hides
from robustbench_lite.specs import system_name
from robustbench_lite.system import Observed, System
from robustbench_lite.task import task_of
from robustbench_lite.threat import Threat
from robustbench_lite.zoo.base import ask, loading
from robustbench_lite.zoo.compat import handling_of
from robustbench_lite.zoo.given import as_network

#: what callers give as a model: a spec, a system, a module of any make, an exported program, or a function of images
GivenModel = str | System | nn.Module | torch.export.ExportedProgram | Callable[[Tensor], Any]


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
        present: the system that is being built, in words.
        note: is told once of each model what was applied when it was loaded.
    """

    plan: Plan
    data: Dataset
    device: torch.device
    threats: tuple[Threat, ...]
    training: Callable[[int, int, str], None]
    given: System | None = None
    judges: Shelf | None = None
    present: str = ""
    note: Callable[[str], None] = lambda text: None
    told: set[str] = field(default_factory=set)

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
        return Shelf(
            data=self.data,
            device=self.device,
            workshop=self._workshop,
            allow_pickle=self.plan.allow_pickle,
            allow_code=self.plan.allow_code,
        )

    def build(self, model: str, defense: str) -> Built:
        self.present = system_name(model, defense)
        chain = resolve_defense(defense)
        known = [part for part in chain if part.name != "none"]
        with calling(f"{model} with {defense}"):
            system = defended_system(self._loaded(model), chain, self._workshop)
        self._tell(model, system)
        audited, hidden = all(part.adaptivity != "unaudited" for part in known), hides(system)
        adaptive = audited and (bool(known) or hidden)
        self.present = ""
        names = {"model": printable(model), "defense": printable(defense)}
        return Built(**names, system=system, adaptive=adaptive, hides=hidden and adaptive)

    def _tell(self, model: str, system: System) -> None:
        said = loading_text(system.notes.get("loading", {}))
        if said and model not in self.told:
            self.told.add(model)
            self.note(f"{cut(model)}: {said}")

    def _loaded(self, model: str) -> zoo.LoadedModel | System:
        if task_of(self.plan.task).reconstructs:
            return self._reconstructing(model)
        if self.given is not None:
            return self.given
        return zoo.load(
            model,
            num_classes=self.data.num_classes,
            input_shape=self.data.shape,
            **self.plan.trust,
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
            look=self._train, threats=self.threats, seed=self.plan.seed, device=self.device, progress=self._progress
        )

    def _progress(self, done: int, total: int, text: str) -> None:
        """Told of a training; tells of which system."""
        self.training(done, total, ": ".join(part for part in (self.present, text) if part))

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


def name_of(model: object) -> str:
    """What results call a model that the caller gives: the text itself, a system's name, a function's or a class's."""
    if isinstance(model, str):
        return model
    if isinstance(model, System):
        return model.name
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return name_of(model.module)
    own = None if isinstance(model, nn.Module) else getattr(model, "__name__", None)
    return own.strip("<>") if isinstance(own, str) else type(model).__name__


@contextmanager
def borrowed(model: object, data: Dataset | None, device: torch.device) -> Iterator[System | None]:
    """The caller's model as a system for a while; modes, gradient flags and device are put back afterwards.

    Args:
        model: a system, a module of any make, an exported program, a function of images, or None.

    Raises:
        UserError: it is none of these, or no classifier of such images.
    """
    if model is None or isinstance(model, System):
        yield model
        return
    name = name_of(model)
    with loading(name):
        network, kind = as_network(model, name)
    if data is None:
        raise UserError("evaluate got a module without x and y; give the images and labels too")
    with loading(name):
        # a frozen script has no modes
        modes = {part: part.training for part in network.modules() if hasattr(part, "training")}
        made = (parameter for parameter in network.parameters() if not nn.parameter.is_lazy(parameter))
        flags = {parameter: parameter.requires_grad for parameter in made}
        home = next((tensor.device for tensor in (*network.parameters(), *network.buffers())), torch.device("cpu"))
        network = network.to(device)
    try:
        yield _system_of(network, name, kind, data, device)
    finally:
        with loading(name):
            network.to(home)
        for part, training in modes.items():
            part.training = training
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)


def _system_of(network: nn.Module, name: str, kind: str, data: Dataset, device: torch.device) -> System:
    """A module as a system; one image tells how it must be asked, and how many classes it has."""
    x = data.batch([0]).to(device)
    handling = handling_of(network, x, name, default_shapes(device, None, data.shape).most)
    model = handling.around(network)
    scores = ask(model, x, name)
    told = {**({"made": kind} if kind else {}), **handling.notes()}
    with loading(name):
        return System(
            model=model,
            num_classes=scores.shape[1],
            input_shape=data.shape,
            name=name,
            notes={"loading": told} if told else {},
        )
