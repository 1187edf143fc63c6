"""EOT: climb the objective's mean over a camera's draws, so that what is found outlives being photographed."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from robustbench_lite.attack import EOT, Cost
from robustbench_lite.attacks.gradient import PGD
from robustbench_lite.attacks.options import at_least
from robustbench_lite.physical import resolve_camera


@dataclass(frozen=True, kw_only=True)
class ExpectationOverTransformation(PGD):
    """PGD that climbs the mean of the objective over fresh draws of a camera; the point it ends at is judged.

    Every query shows the system `draws` photographs of the point, each with settings of its own, and every one is
    counted. The verdict looks at the point itself, without a camera: this row says what an adversary finds who prepares
    for a print, and is weaker than `pgd` wherever there is no camera to prepare for. Whether the examples survive one is
    what `rbl evaluate --physical` measures, and there any attack averages over the camera in question.

    Args:
        camera: what is averaged over: print-photo, distance-sweep, (rotation=±30,scale=0.7..1.3), FILE.toml; see
            `rbl list physical`.
        draws: photographs a query.
        steps: queries per restart, each `draws` forwards and backwards.
        step_size: the length of every step, as a fraction of eps; none: as `pgd`.
        random_start: begin at a random point of the ball, not at the clean image.
        objective: ce, margin, dlr or log-odds (z_target - z_true; without a target, the margin).
        momentum: how much of the former direction a step keeps.
        restarts: how often to begin anew. restarts_in_flight: how many restarts of a sample run side by side.
    """

    name: ClassVar[str] = "eot"
    source: ClassVar[str] = (
        "Athalye et al. 2018, Synthesizing robust adversarial examples, arXiv 1707.07397, sec. 3; by PGD, not Adam"
    )
    submits_last: ClassVar[bool] = True
    camera: str = "print-photo"
    draws: int = 5
    steps: int = 20
    restarts: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, "draws", 1)
        # its settings, not its name: what is kept of a run must not outlive a change of the file
        object.__setattr__(self, "camera", str(resolve_camera(self.camera)))

    @cached_property
    def eot(self) -> EOT:
        """Over the camera's draws; asked for at every step, so the camera is read once."""
        return EOT(draws=self.draws, transform=resolve_camera(self.camera).photograph)

    def cost(self, num_classes: int) -> Cost:
        """So many draws a step and lane."""
        return super().cost(num_classes) * self.draws
