"""One system, for what is no evaluation: a model and a defense by name, or the caller's own, on its device."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from robustbench_lite.data.base import Dataset
from robustbench_lite.devices import find_device
from robustbench_lite.run.dataset import load_data
from robustbench_lite.run.exact import steady_threads
from robustbench_lite.run.plan import Plan
from robustbench_lite.run.systems import Builder, borrowed
from robustbench_lite.system import System
from robustbench_lite.threat import Threat
from robustbench_lite.training import threads_for

Progress = Callable[[int, int, str], None]


def silent(done: int, total: int, text: str) -> None:
    """Who is told nothing."""


def deaf(text: str) -> None:
    """Who takes no notes."""


def data_of(plan: Plan) -> Dataset:
    """The test split of the plan's dataset.

    Raises:
        UserError: there is none of that name, or it cannot be read.
    """
    return load_data(plan)


@contextmanager
def one_system(
    plan: Plan, data: Dataset, model: object = None, training: Progress = silent, note: Callable[[str], None] = deaf
) -> Iterator[System]:
    """The first system of the plan, for a while; a borrowed module is given back as it was.

    Args:
        model: the caller's own instead of the plan's. training: told of a training, where there must be one.
        note: told what was applied when the model was loaded.

    Raises:
        UserError: a name that is not there, or a model that does not fit the data.
    """
    device = find_device(plan.device)
    threats = tuple(Threat.parse(text) for text in plan.threats)
    for threat in threats:
        threat.check_shape(data.shape)
    with steady_threads(threads_for(data, device)), borrowed(model, data, device) as given:
        builder = Builder(
            plan=plan, data=data, device=device, threats=threats, training=training, given=given, note=note
        )
        yield builder.build(*builder.pairs()[0]).system.to(device)
