"""How the laws look at what an attack does: fingerprints, counters, spies and bounds."""

from dataclasses import dataclass, field

from torch import Tensor, nn

from robustbench_lite.randomness import Draws
from robustbench_lite.rows import Rows
from robustbench_lite.system import Observed, Outputs
from robustbench_lite.testing.report import LawError
from robustbench_lite.threat import Threat


def fingerprint(model: nn.Module) -> tuple[bytes, ...]:
    """Everything about a network that an attack must not touch."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    values = [tensor.detach().cpu().numpy().tobytes() for _, tensor in tensors]
    flags = [(name, tensor.requires_grad, tensor.grad is None) for name, tensor in tensors]
    return (*values, repr(flags).encode(), repr([part.training for part in model.modules()]).encode())


class Counter(Observed):
    """A network that counts how often it is asked."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.calls = model, 0

    def observe(self, x: Tensor) -> Outputs:
        """What the network says."""
        self.calls += 1
        return self.model.observe(x) if isinstance(self.model, Observed) else Outputs(scores=self.model(x))


@dataclass(frozen=True, kw_only=True)
class Spy(Draws):
    """Random streams that remember that they were drawn from."""

    drawn: list[str] = field(default_factory=list)

    @classmethod
    def on(cls, draws: Draws) -> "Spy":
        """The same streams, watched."""
        return cls(key=draws.key, lane=draws.lane)

    def words(self, count: int, stream: str, index: int | Tensor = 0, draw: int | Tensor = 0) -> Tensor:
        """As `Draws.words`."""
        self.drawn.append(stream)
        return super().words(count, stream, index, draw)


def hold_rows(rows: Rows, count: int, after: str) -> None:
    """Refuse tensors without the sample axis, and tensors that hold a graph."""
    for name, value in rows._sliceable().items():
        if isinstance(value, Rows):
            hold_rows(value, count, after)
        elif value.dim() == 0 or len(value) != count:
            raise LawError(f"{name} has shape {tuple(value.shape)} {after}; the sample axis, {count}, comes first")
        elif value.requires_grad:
            raise LawError(f"{name} holds a graph {after}; detach it")


def stay_inside(adv: Tensor, x: Tensor, threat: Threat, when: str, witness: Tensor | None = None) -> None:
    """Refuse points that are not finite, or outside the box or the threat."""
    if not bool(adv.isfinite().all()):
        raise LawError(f"a point is not finite, {when}")
    if not bool(((adv >= 0) & (adv <= 1)).all()):
        raise LawError(f"a point is outside [0, 1] by {float((adv - adv.clamp(0, 1)).abs().max()):.2g}, {when}")
    if threat.rendered:
        if not bool(threat.contains(adv, x, witness).all()):
            raise LawError(f"a witness is outside the limits of {threat}, {when}")
    elif not bool(threat.contains(adv, x).all()):
        raise LawError(f"a point is {float(threat.distance(adv, x).max()):.6g} away under {threat}, {when}")
