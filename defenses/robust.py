"""What trainings against a threat have in common: which threat, the radius' ramp, crafting, adversarial weights."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_lite import data as datasets
from robustbench_lite import training
from robustbench_lite.attack import Attack, craft, resolve_attack
from robustbench_lite.attacks.options import share as share_of
from robustbench_lite.defense import Adaptivity, Defense, Workshop
from robustbench_lite.defenses import awp
from robustbench_lite.errors import UserError
from robustbench_lite.objectives import Goal
from robustbench_lite.randomness import Draws
from robustbench_lite.system import System
from robustbench_lite.threat import Threat
from robustbench_lite.training import Batch, Mixture, Moment, Recipe, TrainingOptions
from robustbench_lite.training.loop import split

#: width in pixels up to which a radius needs no ramp
_SMALL = 16
_BATCH = 256
#: the share of a batch that is generated, where something is and nobody says how much
_SHARE = 0.3


@dataclass(frozen=True, kw_only=True)
class TrainsAgainst(Defense, TrainingOptions):
    """A training that is made for one threat and crafts with `inner` attacks; the network is all that comes of it.

    Args:
        threat: what to train against; left out, the first threat of the evaluation that has a radius.
    """

    trains: ClassVar[bool] = True
    adaptivity: ClassVar[Adaptivity] = "plain-is-adaptive"
    why_plain: ClassVar[str] = (
        "nothing is hidden: the defended model is an ordinary network with other weights, and the plain white-box "
        "attack differentiates all of it"
    )
    threat: Threat | None = None

    def inner(self) -> tuple[Attack, ...]:
        """The attacks that the training crafts with."""
        raise NotImplementedError

    def recipe(self, workshop: Workshop) -> dict[str, Any]:
        """What decides the weights besides data, architecture and seed, with everything resolved."""
        crafted = [[one.name, one.version, _options(one)] for one in self.inner()]
        return {**super().recipe(workshop), "threat": str(self.trained_against(workshop)), "inner": crafted}

    def trained_against(self, workshop: Workshop) -> Threat:
        """The threat of the training: its own, or the first of the evaluation with a radius; always untargeted.

        One that turns or shifts images counts where the inner attacks do too.

        Raises:
            UserError: there is none.
        """
        return with_radius(
            self.threat,
            workshop,
            f"{self.name} needs a threat with a radius to train against; write {self.name}:threat=(Linf:8/255)",
            rendering=self.inner(),
        )

    def checked(self, threat: Threat, num_classes: int) -> Threat:
        """The threat, if every inner attack was made for it.

        Raises:
            UserError: one was not.
        """
        for attack in self.inner():
            try:
                attack.check(threat, num_classes)
            except UserError as error:
                raise UserError(f"{self.name} trains with {attack} against {threat}: {error}") from None
        return threat


@dataclass(frozen=True, kw_only=True)
class RobustTraining(TrainsAgainst):
    """Minimise a loss on adversarial examples of the network as it is now.

    Args:
        ramp: share of the training over which the radius grows from zero, without which a large radius is slow to start
            (MNIST at Linf 0.3); left out, none for images up to 16 pixels wide and 0.2 for larger ones.
        from_: written `from=FILE`: a checkpoint to fine-tune instead of starting from fresh weights.
        generated: images that take the place of a share of every batch: FILE.safetensors of a conditional generator, or a
            dataset such as (generated:FILE;count=5000;judge=(checkpoint:FILE)). There are as many steps as without, and
            what is held out is real. Generator and judge must have learned from training images alone.
        share: of every batch that is generated.
    """

    ramp: float | None = None
    from_: str | None = None
    generated: str | None = None
    share: float = _SHARE

    def __post_init__(self) -> None:
        super().__post_init__()
        share_of(self, "share")
        if self.generated is None and self.share != _SHARE:
            raise UserError(f"{self.name}: share={self.share:g} of what? give generated=FILE as well")
        if self.ramp is not None and not 0 <= self.ramp <= 1:
            raise UserError(f"{self.name}: ramp={self.ramp:g}; accepted: a share from 0 to 1")

    def defend(self, system: System, workshop: Workshop) -> System:
        """Train `system.model` in place.

        Raises:
            UserError: no threat with a radius, an inner attack that does not know the norm, a file that does not fit.
        """
        threat = self.checked(self.trained_against(workshop), system.num_classes)
        if self.from_ is not None:
            training.start_from(system.model, Path(self.from_))
        seen = system.without_detector()  # what is rejected is learned from as well
        recipe = self.recipe_for(workshop, system, **self.recipe_defaults(workshop, system))
        mix = self._mixture(workshop)
        play = self.play(seen, threat, self._ramp(workshop), recipe)
        watch = training.validation(seen, threat, self.inner()[0], seed=workshop.seed) if self.early_stopping else None
        fitted = training.fit(
            system.model,
            workshop.train,
            play.loss,
            recipe=recipe,
            seed=workshop.seed,
            device=workshop.device,
            progress=workshop.progress,
            validate=watch,
            scratch=workshop.scratch,
            around=play.around,
            carry=play.carry,
            mix=mix,
        )
        told: dict[str, Any] = {"threat": str(threat), "attack": "+".join(map(str, self.inner()))}
        if mix is not None:
            told["generated"] = {**_told(mix), "name": mix.data.name, **mix.data.provenance}
        if self.early_stopping:
            told |= label_leaking(seen, threat, workshop, recipe)
        return system.with_notes(fitted.notes(**told))

    def play(self, system: System, threat: Threat, ramp: float, recipe: Recipe) -> "Play":
        """What the training loop calls."""
        raise NotImplementedError

    def recipe_defaults(self, workshop: Workshop, system: System) -> dict[str, Any]:
        """Where this defense's recipe differs from everybody's, unless the user says otherwise."""
        return {}

    def recipe(self, workshop: Workshop) -> dict[str, Any]:
        """What decides the weights besides data, architecture and seed, with everything resolved."""
        start = None if self.from_ is None else training.file_digest(Path(self.from_))
        mix = self._mixture(workshop)
        made = {} if mix is None else {"generated": _told(mix)}
        return {**super().recipe(workshop), "ramp": self._ramp(workshop), "from": start, **made}

    def _mixture(self, workshop: Workshop) -> Mixture | None:
        """The generated images; of a generator's file alone as many as there are real ones.

        Raises:
            UserError: there is no such file or dataset.
        """
        if self.generated is None:
            return None
        bare = Path(self.generated).suffix in (".safetensors", ".json") and not self.generated.startswith("generated:")
        text = f"generated:{self.generated};count={len(workshop.train)}" if bare else self.generated
        return Mixture(data=datasets.load(text, "train"), share=self.share)

    def _ramp(self, workshop: Workshop) -> float:
        if self.ramp is not None:
            return self.ramp
        return 0.0 if max(workshop.train.shape[1:]) <= _SMALL else 0.2


@dataclass(frozen=True, kw_only=True)
class CraftedTraining(RobustTraining):
    """Craft, then descend a loss of the batch and its adversarial examples; the weights, too, may be at their worst.

    Examples are crafted in eval mode, so that batch statistics see the images that are learned from and no others, and
    no gradient flows through the crafting.

    Args:
        awp: adversarial weight perturbation (Wu et al. 2020, arXiv 2004.05884): the length of the perturbation as a
            share of each layer's weights, 0.01 or 0.005; none: without.
    """

    #: share of the training before the weights are perturbed
    awp_after: ClassVar[float] = 0.0
    awp: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.awp is not None and not 0 < self.awp < float("inf"):
            raise UserError(f"{self.name}: awp={self.awp:g}; accepted: more than 0, such as 0.01, or none")

    def crafted(self, system: System, batch: Batch, threat: Threat) -> Tensor:
        """Adversarial examples of the batch, (n, c, h, w) in [0, 1], detached."""
        return craft(self.inner()[0], system, batch.x, Goal(y=batch.y), threat, batch.draws)

    def descended(self, system: System, batch: Batch, adv: Tensor, threat: Threat) -> Tensor:
        """The scalar to descend."""
        raise NotImplementedError

    def play(self, system: System, threat: Threat, ramp: float, recipe: Recipe) -> "Play":
        """Crafting inside the loss; with `awp` before it, since the weights are moved in between."""
        kind = Crafting if self.awp is None else Perturbing
        return kind(defense=self, system=system, threat=threat, ramp=ramp, recipe=recipe)


@dataclass(kw_only=True, eq=False)
class Play:
    """One training under way: the loss, what is around a step, and what is kept from batch to batch.

    Args:
        left: points of the batch at hand that no part of it has used yet; the loss is given part after part.
    """

    system: System
    threat: Threat
    ramp: float
    recipe: Recipe
    carry: dict[str, Tensor] = field(default_factory=dict)
    left: Tensor | None = None

    def loss(self, model: nn.Module, part: Batch, moment: Moment) -> Tensor:
        """The scalar to descend."""
        raise NotImplementedError

    def around(self, model: nn.Module, batch: Batch, moment: Moment) -> AbstractContextManager[None]:
        """Nothing."""
        return nullcontext()

    def at(self, moment: Moment) -> Threat:
        """The threat with the radius that it has by now."""
        return self.threat.at(self.threat.radius * min(1.0, moment.done / self.ramp)) if self.ramp else self.threat

    def taken(self, part: Batch) -> Tensor:
        """The points of this part."""
        assert self.left is not None
        points, self.left = self.left[: len(part)], self.left[len(part) :]
        return points


@dataclass(kw_only=True, eq=False)
class Crafting(Play):
    """Craft and descend."""

    defense: CraftedTraining

    def loss(self, model: nn.Module, part: Batch, moment: Moment) -> Tensor:
        """The defense's own."""
        threat = self.at(moment)
        adv = self.defense.crafted(self.system, part, threat) if self.left is None else self.taken(part)
        return self.defense.descended(self.system, part, adv, threat)


@dataclass(kw_only=True, eq=False)
class Perturbing(Crafting):
    """Craft, move the weights, descend from there, move them back."""

    @contextmanager
    def around(self, model: nn.Module, batch: Batch, moment: Moment) -> Iterator[None]:
        """Examples of the weights as they are; then the weights where the loss on these examples is worse."""
        defense, threat = self.defense, self.at(moment)
        if moment.done < defense.awp_after:
            yield
            return
        reduced = self.recipe.precision == "bfloat16"
        with torch.autocast(batch.x.device.type, torch.bfloat16, enabled=reduced, cache_enabled=False):
            adv = defense.crafted(self.system, batch, threat)
            uphill = awp.worst_direction(model, lambda: defense.descended(self.system, batch, adv, threat))
        self.left = adv
        with awp.moved(model, {name: (defense.awp or 0.0) * move for name, move in uphill.items()}):
            yield
        self.left = None


def with_radius(own: Threat | None, workshop: Workshop, refusal: str, *, rendering: Sequence[Attack] = ()) -> Threat:
    """A defense's own threat, or the first of the evaluation that has a radius; always untargeted.

    Args:
        rendering: attacks that may turn, shift or paste, so that threats which do count where all of these know them.

    Raises:
        UserError: there is none; `refusal` says what it is needed for, and how one is given.
    """
    for threat in workshop.threats if own is None else (own,):
        knows = bool(rendering) and all(threat.norm in attack.norms for attack in rendering)
        if threat.eps is not None and (knows or not threat.rendered):
            return replace(threat, goal="untargeted", target=None)
    raise UserError(f"{refusal}, or evaluate under one")


def usual_attack() -> Attack:
    """What trainings craft with unless they are told otherwise: PGD with 7 steps of eps / 4."""
    return resolve_attack("pgd:steps=7,step_size=1/4,restarts=1")


def cross_entropy(system: System, x: Tensor, batch: Batch) -> Tensor:
    """The mean cross-entropy of the system at x, with the batch's labels."""
    return F.cross_entropy(scores(system, x, batch), batch.y)


def scores(system: System, x: Tensor, batch: Batch) -> Tensor:
    """The logits at x, (n, k), with a gradient through all of the system."""
    return system(x, batch.draws, adaptive=True).scores


def label_leaking(system: System, threat: Threat, workshop: Workshop, recipe: Recipe) -> dict[str, Any]:
    """For a card: that FGSM examples are *better* classified than clean images, held-out ones all; else nothing.

    Then the network reads the label from how a single step moves the pixels (label leaking: Kurakin et al. 2017, arXiv
    1611.01236, sec. 4.3), and robustness against a single step means nothing.
    """
    fgsm = resolve_attack("fgsm")
    if threat.norm not in fgsm.norms or not threat.radius:
        return {}
    held = split(workshop.train.labels, recipe.validation, workshop.seed)[1]
    right = np.zeros(2, dtype=np.int64)
    for chosen in np.array_split(held, -(-len(held) // _BATCH)):
        x, y = workshop.train.batch(chosen), workshop.train.labels_at(chosen)
        draws = Draws.for_images(workshop.seed, x, y).to(system.device)
        x, y = x.to(system.device), y.to(system.device)
        adv = craft(fgsm, system, x, Goal(y=y), threat, draws)
        with torch.no_grad():
            right += [int((system(points, draws).prediction() == y).sum()) for points in (x, adv)]
    clean, single = (right / len(held)).tolist()
    if single <= clean:
        return {}
    warnings.warn(
        f"label leaking: {single:.1%} right on FGSM examples and {clean:.1%} on clean images; a single step tells nothing",
        stacklevel=3,
    )
    return {"label_leaking": {"clean": clean, "fgsm": single}}


def _told(mix: Mixture) -> dict[str, Any]:
    return {"digest": mix.data.digest(), "images": len(mix.data), "share": mix.share}


def _options(attack: Attack) -> dict[str, str]:
    return {item.name: str(getattr(attack, item.name)) for item in fields(attack)}
