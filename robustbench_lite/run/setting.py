"""What a plan means: its data, threats, attacks and device, read and checked before anything runs."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from robustbench_lite import data as datasets
from robustbench_lite.attack import Attack, prepares, resolve_attack
from robustbench_lite.data.base import Dataset
from robustbench_lite.defense import resolve_defense
from robustbench_lite.devices import find_device
from robustbench_lite.errors import UserError
from robustbench_lite.networks import bound
from robustbench_lite.physical import Camera, resolve_camera
from robustbench_lite.run.dataset import load_data, tell
from robustbench_lite.run.exact import steady_threads
from robustbench_lite.run.plan import Plan
from robustbench_lite.run.reporter import Reporter
from robustbench_lite.run.shelf import Shelf
from robustbench_lite.run.subject import Subject, behind, prepare
from robustbench_lite.run.systems import Builder, Built, borrowed
from robustbench_lite.run.tries import check as check_tries
from robustbench_lite.run.tries import sitting_of, without_eot
from robustbench_lite.task import task_of
from robustbench_lite.threat import Threat
from robustbench_lite.training import threads_for

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class Setting:
    """A plan, resolved.

    Args:
        threats, attacks: by what the plan calls them. camera: before every system, or None.
        data: the test split. indices: the slice of it that is evaluated. targets: the user's own, or None.
        threads: of what is trained or fitted; attacks have their own number, see `run.threads`.
    """

    plan: Plan
    threats: Mapping[str, Threat]
    attacks: Mapping[str, Attack]
    camera: Camera | None
    device: torch.device
    data: Dataset
    indices: np.ndarray
    threads: int
    targets: Tensor | None = None

    @classmethod
    def of(
        cls,
        plan: Plan,
        *,
        data: Dataset | None = None,
        attacks: Mapping[str, Attack] | None = None,
        targets: Tensor | None = None,
    ) -> "Setting":
        """Read the plan.

        Args:
            data: the caller's own instead of the plan's. attacks: the caller's own objects, by what the plan calls them.

        Raises:
            UserError: something in it is not there, or does not fit the rest.
        """
        threats = {text: Threat.parse(text) for text in plan.threats}
        camera = None if plan.physical is None else resolve_camera(plan.physical)
        chosen = {text: (attacks or {}).get(text) or resolve_attack(without_eot(text)) for text in plan.attacks}
        for text in plan.defenses:
            resolve_defense(text)
        device = find_device(plan.device)
        if data is None:
            data = load_data(plan)
        indices = datasets.choose(data, plan.samples, plan.slice_seed)
        _check(chosen, threats, data, targets)
        check_tries(plan, chosen, threats)
        _check_camera(camera, threats)
        _check_task(plan, chosen)
        if task_of(plan.task).reconstructs:
            datasets.outside(data, indices, 1)  # there must be something to aim at
        if any(prepares(attack, threat) for attack in chosen.values() for threat in threats.values()):
            datasets.outside(data, indices, 1)  # there must be something to learn from
        return cls(
            plan=plan,
            threats=threats,
            attacks=chosen,
            camera=camera,
            device=device,
            data=data,
            indices=indices,
            threads=threads_for(data, device),
            targets=targets,
        )

    @contextmanager
    def opened(self, model: object, reporter: Reporter) -> Iterator["Open"]:
        """The setting while systems are built and attacked, with the threads that keep numbers the same."""
        own = None if isinstance(model, str) else model
        _LOGGER.info("%d thread%s on %s", self.threads, "" if self.threads == 1 else "s", self.device)
        tell(self.data, reporter)
        with steady_threads(self.threads), borrowed(own, self.data, self.device) as given:
            builder = Builder(
                plan=self.plan,
                data=self.data,
                device=self.device,
                threats=tuple(self.threats.values()),
                training=reporter.training,
                given=given,
                note=reporter.note,
            )
            yield Open(setting=self, builder=builder)


@dataclass(frozen=True, kw_only=True, eq=False)
class Open:
    """A setting whose systems are at hand."""

    setting: Setting
    builder: Builder

    def build(self, model: str, defense: str) -> Built:
        """The system, with the threads that trainings always have, whatever is attacked beside them."""
        with steady_threads(self.setting.threads):
            return self.builder.build(model, defense)

    @cached_property
    def shelf(self) -> Shelf:
        """The networks that attacks name; a mistake in what they name is told before anything runs."""
        shelf = self.builder.shelf()
        given, data = self.builder.given, self.setting.data
        for attack in self.setting.attacks.values():
            bound(attack, shelf.of(data.num_classes if given is None else given.num_classes))
        return shelf

    def subject(self, built: Built) -> Subject:
        """The system on its device, measured on the clean images, behind the plan's camera if it has one."""
        setting, plan = self.setting, self.setting.plan
        subject = prepare(
            model=built.model,
            defense=built.defense,
            system=built.system,
            data=setting.data,
            indices=setting.indices,
            seed=plan.seed,
            device=setting.device,
            adaptive=built.adaptive,
            hides=built.hides,
            batch=plan.batch_size,
            precision=plan.precision,
            sitting=sitting_of(plan),
        )
        return subject if setting.camera is None else behind(setting.camera, subject, sitting_of(plan))

    def attacks(self, subject: Subject) -> dict[str, Attack]:
        """The attacks with the networks that they name, by what the plan calls them."""
        shelf = self.shelf.of(subject.system.num_classes)
        return {text: bound(attack, shelf) for text, attack in self.setting.attacks.items()}


def _check(attacks: Mapping[str, Attack], threats: Mapping[str, Threat], data: Dataset, targets: Tensor | None) -> None:
    for attack in attacks.values():
        for threat in threats.values():
            threat.check_shape(data.shape)
            attack.check(threat, data.num_classes)
            if threat.eps is None and len(attack.stages()) > 1:
                raise UserError(f"{attack.name} is a cascade and ends at the first break; it needs {threat.norm}:EPS")
            rule = threat.target if threat.goal == "targeted" else attack.target_rule
            if rule == "column":
                _check_column(targets, data)


def _check_camera(camera: Camera | None, threats: Mapping[str, Threat]) -> None:
    """A camera photographs an image; a threat that renders its images would do so anew behind it."""
    for text, threat in threats.items():
        if camera is not None and threat.rendered:
            raise UserError(
                f"physical is for threats in a norm; {text} moves or pastes its images itself: give one of the two"
            )


def _check_task(plan: Plan, attacks: Mapping[str, Attack]) -> None:
    """Codes are there to be attacked where the task has them; what is around a classifier has no place there."""
    if not task_of(plan.task).reconstructs:
        for attack in attacks.values():
            if any(stage.needs_codes for stage in (attack, *attack.stages())):
                raise UserError(
                    f"{attack.name} compares codes and reconstructions, which a classifier has not;"
                    " it is for task=reconstruction and a model such as vae:FILE"
                )
        return
    if plan.defenses != ("none",):
        odd = next(text for text in plan.defenses if text != "none")
        raise UserError(f"task=reconstruction attacks a generator as it is; {odd} is for classifiers: leave it out")
    if plan.physical is not None or plan.precision == "bfloat16":
        what = "physical" if plan.physical is not None else "precision=bfloat16"
        raise UserError(f"{what} is for task=classify; leave it out with task=reconstruction")


def _check_column(targets: Tensor | None, data: Dataset) -> None:
    if targets is None:
        raise UserError("target=column needs the targets: evaluate(…, targets=…) with one class an image")
    if len(targets) != len(data.labels) or not 0 <= int(targets.min()) <= int(targets.max()) < data.num_classes:
        raise UserError(
            f"targets: {len(targets)} from {int(targets.min())} to {int(targets.max())};"
            f" accepted: {len(data.labels)} classes from 0 to {data.num_classes - 1}"
        )
