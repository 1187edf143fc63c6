"""How robust is an image classifier, against whom, compared with what, and how sure are we?

    import robustbench_lite as rbl

    result = rbl.evaluate(model, x, y, attacks=["pgd:steps=40"], threat="Linf:8/255")

The names below are imported when they are first used (PEP 562), so that neither `import robustbench_lite`
nor `rbl --help` waits for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from robustbench_lite import cores as _cores

if TYPE_CHECKING:
    from robustbench_lite.attack import Attack as Attack
    from robustbench_lite.attack import craft as craft
    from robustbench_lite.defense import Defense as Defense
    from robustbench_lite.errors import UserError as UserError
    from robustbench_lite.run.certify import certify as certify
    from robustbench_lite.run.evaluate import evaluate as evaluate
    from robustbench_lite.run.explain import explain as explain
    from robustbench_lite.run.rubbish import rubbish as rubbish
    from robustbench_lite.run.train import train as train
    from robustbench_lite.system import System as System
    from robustbench_lite.testing import check_attack as check_attack
    from robustbench_lite.testing import check_defense as check_defense
    from robustbench_lite.threat import Threat as Threat

__version__ = "0.1.0"
_cores.wait_passively()

_HOME = {
    "Attack": "attack",
    "Defense": "defense",
    "System": "system",
    "Threat": "threat",
    "UserError": "errors",
    "certify": "run.certify",
    "check_attack": "testing",
    "check_defense": "testing",
    "craft": "attack",
    "evaluate": "run.evaluate",
    "explain": "run.explain",
    "rubbish": "run.rubbish",
    "train": "run.train",
}
__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value  # the next look-up does not come here
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
