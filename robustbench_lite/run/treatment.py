"""What an adversary who knows a defense does about each part of it: told beside the numbers."""

from collections.abc import Iterator

from robustbench_lite.system import Purifier, System

_AS_IT_IS = "differentiates it"


def treatment(system: System) -> dict[str, str]:
    """Part -> what an adaptive attack does about it; empty for a bare network."""
    return dict(_parts(system))


def hides(system: System) -> bool:
    """Whether attacks differ that do not know of its parts; what is differentiated as it comes hides nothing."""
    return any(way != _AS_IT_IS for way in treatment(system).values())


def _backwards(part: Purifier) -> str:
    if part.derived is not None:
        return "goes backwards by a derivative that it is not deployed with"
    return "goes backwards through a stand-in (BPDA)" if part.surrogate is not None else _AS_IT_IS


def _parts(system: System) -> Iterator[tuple[str, str]]:
    for part in system.purifiers:
        ways = ["averages over its draws (EOT)"] if part.random else []
        ways.append(_backwards(part))
        yield part.name, ", ".join(ways)
    if system.model_is_random:
        yield "the network's own randomness", "averages over its draws (EOT)"
    if system.differentiable_as is not None:
        yield "the answer", "climbs scores that do not saturate"
    if system.detector is not None:
        ways = ["averages over its draws (EOT)"] if system.detector.random else []
        yield system.detector.name, ", ".join([*ways, "evades it with the same gradient (joint objective)"])
