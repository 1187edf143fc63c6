"""What comes back of adversarial images: asked anew of the system, with draws that no search and no verdict has used."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from robustbench_lite.data import outside
from robustbench_lite.hashing.values import hash_value
from robustbench_lite.norms import norm
from robustbench_lite.norms.rowwise import row_sum
from robustbench_lite.pictures import Pictures, Seen
from robustbench_lite.randomness import Draws
from robustbench_lite.results.reconstruction import Strip
from robustbench_lite.rows import Rows, concat
from robustbench_lite.run.cell import SETUP_SAMPLES, Cell
from robustbench_lite.run.exact import exact_math
from robustbench_lite.run.physical import Shown
from robustbench_lite.run.run_cell import Ran
from robustbench_lite.run.subject import Subject, load
from robustbench_lite.system import Observed, Outputs

#: draws of the code, and of the noise that attacks are compared with
DRAWS = 20
#: raised when what is measured changes
VERSION = 1
#: of the draws; and how many examples of an attack are drawn
_SALT, _STRIPS = 0xC0DE, 2


@dataclass(frozen=True, kw_only=True)
class _Scene(Rows):
    """n examples: the clean images x, the adversarial ones, what they are, what they should become, what that looks like.

    Args:
        target: (n,) int64, -1 without one; then `aim` is of no picture that means anything.
    """

    x: Tensor
    adv: Tensor
    y: Tensor
    target: Tensor
    aim: Seen
    draws: Draws


@dataclass(frozen=True, kw_only=True, eq=False)
class Mirror:
    """The examples of one attack, and the system that brings them back.

    Args:
        images: the examples by index. targets: classes by index, -1 without. lanes: by index, which picture of its target an
            example was made for; 0 where the attack aims at none.
    """

    subject: Subject
    images: Mapping[int, np.ndarray]
    targets: Mapping[int, int]
    lanes: Mapping[int, int]

    @classmethod
    def of(cls, cell: Cell, ran: Ran, shown: Shown) -> "Mirror":
        """What an attack has left."""
        lanes = ran.rows["lane"].astype(int) * int(cell.attack.aims_at_pictures)
        return cls(
            subject=cell.subject,
            images=shown.images,
            targets=shown.targets,
            lanes=dict(zip(ran.rows["index"].astype(int), lanes, strict=True)),
        )

    @property
    def digest(self) -> str:
        """What the measurement is called on disk; nothing that could change it is left out."""
        subject = self.subject
        held = [(index, self.images[index], self.targets[index], self.lanes[index]) for index in sorted(self.images)]
        facts = (VERSION, DRAWS, subject.system.digest, subject.data.digest(), subject.seed)
        return hash_value(facts, subject.indices, held)

    def measure(self) -> pd.DataFrame:
        """A row an image that was attacked; see `results.reconstruction.figures`."""
        places = self._places(sorted(self.images))
        cuts = self.subject.shapes.chunks(len(places)) if len(places) else [(0, 0)]
        with torch.no_grad(), exact_math():
            return pd.concat([self._measured(places[begin:end]) for begin, end in cuts], ignore_index=True)

    @torch.no_grad()
    def strips(self, measured: pd.DataFrame, who: tuple[str, ...]) -> list[Strip]:
        """A few examples to look at, those first that came back as their target."""
        if not len(measured) or self.subject.data.shape[0] not in (1, 3):
            return []
        order = measured.sort_values(["as_target", "left_source"], ascending=False, kind="stable")
        scene = self._scene(self._places(sorted(order["index"].head(_STRIPS))))
        none = torch.full_like(scene.x, torch.nan)
        aims = (scene.target >= 0).view(-1, 1, 1, 1)
        back = [self._said(images).image for images in (scene.x, scene.adv)]
        aim = [torch.where(aims, images, none) for images in (scene.aim.x, scene.aim.image)]
        parts = (scene.x, scene.adv, *back, *aim)
        whole = torch.stack([cast(Tensor, part) for part in parts], 1).cpu().numpy()
        return [Strip(images=images, who=who) for images in whole]

    @cached_property
    def _pictures(self) -> Pictures:
        """The pictures that attacks aim at, from the images that they learn from."""
        subject = self.subject
        lessons = outside(subject.data, subject.indices, SETUP_SAMPLES, subject.seed)
        x, y, _ = load(subject.data, lessons, torch.arange(len(lessons)), subject.seed, subject.device)
        said = concat([self._said(x[begin:end]) for begin, end in subject.shapes.chunks(len(x))])
        return Pictures.of(x, y, said, subject.system.num_classes, "task=reconstruction")

    def _places(self, indices: list[int]) -> Tensor:
        """The positions in the slice of those of these samples that are right when nobody touches them."""
        there = torch.from_numpy(np.isin(self.subject.indices, np.array(indices, dtype=np.int64)))
        return (there & ~self.subject.clean.wrong).nonzero().squeeze(1)

    def _scene(self, places: Tensor) -> _Scene:
        index = self.subject.indices[places.numpy()].tolist()
        x, y, draws = self.subject.load(places)
        adv = torch.from_numpy(np.stack([self.images[one] for one in index])).to(x.device) if index else x
        target, lane = (
            torch.tensor([told[one] for one in index], dtype=torch.int64, device=x.device)
            for told in (self.targets, self.lanes)
        )
        aimed = self._pictures.aimed(target.clamp(min=0), draws.in_lane(lane))
        return _Scene(x=x, adv=adv, y=y, target=target, aim=self._pictures.seen[aimed], draws=draws.fold(_SALT))

    def _said(self, x: Tensor) -> Outputs:
        """What the system says of the images, in a block of the size that searches use."""
        padding = self.subject.shapes.padding(len(x), x.device)
        return self.subject.system(x[padding].contiguous())[: len(x)]

    def _measured(self, places: Tensor) -> pd.DataFrame:
        scene = self._scene(places)
        said, clean = self._said(scene.adv), self._said(scene.x)
        assert said.image is not None
        assert clean.image is not None
        to_target, to_source = _apart(said.image, scene.aim.image), _apart(said.image, clean.image)
        found = {
            "target": scene.target,
            "as_target": _reads(said, scene.target),
            "left_source": ~_reads(said, scene.y),
            "nearer_target": to_target < to_source,
            "l2": _apart(scene.adv, scene.x),
            "to_target": to_target,
            "to_source": to_source,
            "apart": _apart(clean.image, scene.aim.image),
            "clean_error": _apart(clean.image, scene.x),
            "target_error": _apart(scene.aim.image, scene.aim.x),
            **self._drawn(scene),
            **self._noise(scene, clean),
        }
        columns = {name: values.cpu().numpy() for name, values in found.items()}
        return pd.DataFrame({"index": self.subject.indices[places.numpy()], "draws": DRAWS, **columns})

    def _drawn(self, scene: _Scene) -> dict[str, Tensor]:
        """How the example is read in most draws of its code; a code that is a point is drawn like any other."""
        model = self.subject.system.model
        padding = self.subject.shapes.padding(len(scene), scene.x.device)
        assert isinstance(model, Observed)
        target, left = torch.zeros_like(scene.y), torch.zeros_like(scene.y)
        for number in range(DRAWS):
            scores = model.drawn(scene.adv[padding], scene.draws[padding], number)[: len(scene)]
            said = Outputs(scores=scores)
            target, left = target + _reads(said, scene.target), left + ~_reads(said, scene.y)
        return {"as_target_drawn": 2 * target > DRAWS, "left_source_drawn": 2 * left > DRAWS}

    def _noise(self, scene: _Scene, clean: Outputs) -> dict[str, Tensor]:
        """Of noise as long as the change in L2, the share of draws that does what the attack does."""
        ball, length = norm("L2"), _apart(scene.adv, scene.x)
        names = ("as_target_noise", "left_source_noise", "nearer_target_noise")
        found = {name: torch.zeros(len(scene), dtype=torch.float64, device=scene.x.device) for name in names}
        assert clean.image is not None
        for number in range(DRAWS):
            way = scene.draws.normal(scene.x.shape[1:], "noise", number)
            said = self._said(ball.extreme(scene.x, way, length))
            assert said.image is not None
            nearer = _apart(said.image, scene.aim.image) < _apart(said.image, clean.image)
            done = (_reads(said, scene.target), ~_reads(said, scene.y), nearer)
            found = {name: found[name] + one.double() / DRAWS for name, one in zip(names, done, strict=True)}
        return found


def _reads(said: Outputs, label: Tensor) -> Tensor:
    """Whether the judge reads this class, (n,) bool."""
    return said.prediction() == label


def _apart(one: Tensor, other: Tensor) -> Tensor:
    """The L2 distance of every row, (n,) float64."""
    return row_sum((one.double() - other.double()).square()).sqrt()
