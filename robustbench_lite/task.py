"""What a system is for, and so what an evaluation of it is made of when nobody says. No torch here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from robustbench_lite.errors import UserError, nearest


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task by name.

    `classify`: the answer is a class, and broken is a wrong one. `reconstruction`: a system encodes an image and decodes it
    again; the answer is what a judge, a classifier of its own, reads in the reconstruction, and broken is a reconstruction
    that is read as something else (targeted: as the target).

    Args:
        defaults: fields of a `Plan` that differ from its own defaults.
    """

    name: str
    defaults: Mapping[str, Any] = field(default_factory=dict)

    @property
    def reconstructs(self) -> bool:
        """Whether codes and reconstructions are there to be attacked."""
        return self.name == "reconstruction"


CLASSIFY = Task(name="classify")
RECONSTRUCTION = Task(
    name="reconstruction",
    defaults={
        "defenses": ("none",),
        "attacks": ("noise", "latent-classifier", "vae-loss", "latent-match"),
        "threats": ("L2:1.5,goal=targeted,target=random",),
    },
)
TASKS = {task.name: task for task in (CLASSIFY, RECONSTRUCTION)}


def task_of(name: str) -> Task:
    """The task of that name.

    Raises:
        UserError: there is none.
    """
    if name not in TASKS:
        guess = nearest(name, TASKS)
        also = f"; did you mean {guess!r}?" if guess else ""
        raise UserError(f"task={name}; accepted: {', '.join(TASKS)}{also}")
    return TASKS[name]
