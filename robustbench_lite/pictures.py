"""Images that others are to be taken for, and what is seen of them: the targets of attacks on what reconstructs images."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from robustbench_lite.errors import UserError
from robustbench_lite.objectives import Context
from robustbench_lite.randomness import Draws
from robustbench_lite.rows import Rows
from robustbench_lite.system import Outputs

#: the most pictures that are kept of a class
MOST = 16


@dataclass(frozen=True, kw_only=True)
class Seen(Context):
    """n images to compare with, and what the system says of them; fields as of `Outputs`.

    Args:
        x: (n, c, h, w), the images. code: (n, latent). image: (n, c, h, w), their reconstructions.
        log_variance: (n, latent); None where the code is a point.
    """

    x: Tensor
    code: Tensor
    image: Tensor
    log_variance: Tensor | None = None

    @classmethod
    def of(cls, x: Tensor, said: Outputs | None, who: str) -> "Seen":
        """What was said of the images x.

        Raises:
            UserError: by `who`: the system only classifies.
        """
        if said is None or said.code is None or said.image is None:
            raise UserError(
                f"{who} compares codes and reconstructions, and this system has none;"
                " accepted: vae:FILE or autoencoder:FILE with task=reconstruction"
            )
        return cls(x=x, code=said.code, image=said.image, log_variance=said.log_variance)


@dataclass(frozen=True, kw_only=True)
class Pictures(Rows):
    """Some images of every class.

    Args:
        y: (m,) int64, their labels, in ascending order. seen: the images, and what the system says of them.
    """

    y: Tensor
    seen: Seen

    @classmethod
    def of(cls, x: Tensor, y: Tensor, said: Outputs | None, num_classes: int, who: str) -> Self:
        """The first `MOST` images of every class that are read as what they are when they are reconstructed.

        Of a class without any such image the first others are taken.

        Args:
            x: (n, c, h, w), y: (n,), of all classes. said: what the system says of them.

        Raises:
            UserError: by `who`: there is no image of some class, or the system only classifies.
        """
        seen = Seen.of(x, said, who)
        assert said is not None
        right = said.prediction() == y
        chosen = []
        for label in range(num_classes):
            own = y == label
            good = own & right if bool((own & right).any()) else own
            chosen.append(good.nonzero().squeeze(1)[:MOST])
            if not len(chosen[-1]):
                raise UserError(
                    f"{who} aims at images that are not evaluated, and there is none of class {label}; evaluate fewer"
                )
        rows = torch.cat(chosen)
        return cls(y=y[rows], seen=seen[rows])

    def aimed(self, target: Tensor, draws: Draws) -> Tensor:
        """Which picture each row is to be taken for, (n,): one of its target's, drawn by the sample, another in each lane."""
        first = torch.searchsorted(self.y, target)
        count = (torch.searchsorted(self.y, target, right=True) - first).clamp(min=1)
        drawn = draws.in_lane(0).words(1, "picture").view(-1)
        place: Tensor = first + (drawn + draws.lane) % count
        return place.clamp(max=len(self) - 1)  # a row without a target is asked for nothing

    def tensors(self) -> dict[str, Tensor]:
        """The parts by name, as `Learned` keeps them."""
        seen = self.seen
        kept = {"y": self.y, "x": seen.x, "code": seen.code, "image": seen.image}
        return kept if seen.log_variance is None else kept | {"log_variance": seen.log_variance}

    @classmethod
    def from_tensors(cls, tensors: "dict[str, Tensor]") -> Self:
        """What `tensors` told."""
        parts = dict(tensors)
        return cls(y=parts.pop("y"), seen=Seen(**parts))
