"""Networks and options shared by the tests of what a stranger found who had to trust the numbers."""

from typing import Any

from torch import Tensor, nn
from toys import samples, two_layers

QUIET: dict[str, Any] = {"diagnostics": False}
LINF = "Linf:0.02"


def module_and_images(count: int = 60) -> tuple[nn.Module, Tensor, Tensor]:
    system = two_layers()
    x, y, _ = samples(system, count)
    return system.model, x, y


class Around(nn.Module):
    """A network that does something to its images or scores."""

    def __init__(self, network: nn.Module, before: Any = None, after: Any = None) -> None:
        super().__init__()
        self.network, self.before, self.after = network, before, after

    def forward(self, x: Tensor) -> Any:
        scores = self.network(x if self.before is None else self.before(x))
        return scores if self.after is None else self.after(scores)


def keys(result: Any) -> list[str]:
    """The content addresses of its cells."""
    return list(result.timings["key"])
