"""`robustbench:NAME`: the models of RobustBench (Croce et al. 2021, arXiv 2010.09670), through its own package."""

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from robustbench_lite import specs
from robustbench_lite.cache import cache_dir
from robustbench_lite.errors import UserError, cause_of, unknown
from robustbench_lite.zoo.base import ImageData, LoadedModel, audit, file_at, is_file, ready
from robustbench_lite.zoo.weights import Trust

HOW = "pip install 'robustbench-lite[robustbench]'"
#: what it imports, and what the same is called on the package index
_RENAMED = {"autoattack": "pyautoattack", "autoattack.state": "pyautoattack.state"}


@dataclass(frozen=True, kw_only=True)
class RobustBenchOptions:
    """What may follow `robustbench:NAME`.

    Args:
        dataset, threat_model: what the model was made for, as RobustBench calls it.
        dir: where checkpoints lie, as DIR/cifar10/Linf/NAME.pt; the folder `robustbench` of the cache if left out.
        download: fetch what is not there.
    """

    dataset: Literal["cifar10", "cifar100", "imagenet"] = "cifar10"
    threat_model: Literal["Linf", "L2", "corruptions", "corruptions_3d"] = "Linf"
    dir: str | None = None
    download: bool = False


def load_robustbench(name: str, spec: specs.Spec, data: ImageData, trust: Trust) -> LoadedModel:
    """The model of that name, as `robustbench.utils.load_model` gives it: normalisation inside, weights frozen.

    It has only these weights, so it cannot be trained anew. Its files are pickles that RobustBench reads by itself.

    Raises:
        UserError: the package or the file is not there, pickles are not allowed, or the model does not fit the data.
    """
    what = f"robustbench:{name}"
    options = specs.build(RobustBenchOptions, spec.options, name=what)
    if not name:
        raise UserError("robustbench: names no model; write robustbench:NAME, such as robustbench:Carmon2019Unlabeled")
    if not (trust.pickles or trust.code):
        raise UserError(
            f"{what}: RobustBench keeps its weights as pickles, which could run code; pass --allow-pickle to have them read"
        )
    package = _package("robustbench.utils")
    module = _loaded(package, name, options)
    classes = audit(
        module,
        name=what,
        num_classes=data.num_classes,
        input_shape=data.input_shape,
        class_names=data.class_names,
    )
    told = _clean_accuracy(package, name, options)
    return LoadedModel(
        name=str(spec),
        module=ready(module),
        trained=True,
        num_classes=classes,
        input_shape=data.input_shape,
        notes={} if told is None else {"told": told},
    )


def _clean_accuracy(package: Any, name: str, options: RobustBenchOptions) -> dict[str, Any] | None:
    """What RobustBench's leaderboard tells of the model, where its files lie beside the package or in `dir`."""
    from robustbench_lite.leaderboard.model_info import read_model_info

    place = Path("model_info", options.dataset, options.threat_model.removesuffix("_3d"), f"{name}.json")
    homes = [] if options.dir is None else [file_at(options.dir)]
    if isinstance(file := getattr(package, "__file__", None), str):
        homes += [Path(file).parent, Path(file).parent.parent]
    for path in (home / place for home in homes):
        with contextlib.suppress(UserError):  # an entry that cannot be read tells nothing
            if is_file(path) and (clean := read_model_info(path).clean) is not None:
                return {"clean_acc": clean, "dataset": options.dataset, "source": f"RobustBench {name}"}
    return None


def _package(name: str) -> Any:
    try:
        with _renamed():
            return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"robustbench:NAME needs the package robustbench: {HOW} ({cause_of(error)})") from error


@contextmanager
def _renamed() -> Iterator[None]:
    """Inside, `autoattack` is `pyautoattack` where only that is installed.

    On the package index robustbench 1.1.1 depends on the one and imports the other.
    """
    if importlib.util.find_spec("autoattack") is not None or importlib.util.find_spec("pyautoattack") is None:
        yield
        return
    lent = {alias: importlib.import_module(name) for alias, name in _RENAMED.items()}
    sys.modules.update(lent)
    try:
        yield
    finally:
        for alias in lent:
            del sys.modules[alias]


def _loaded(package: Any, name: str, options: RobustBenchOptions) -> nn.Module:
    known = _known(options)
    if known and name not in known:
        raise unknown("RobustBench model", name, known, f"of {options.dataset} under {options.threat_model}")
    home = cache_dir() / "robustbench" if options.dir is None else file_at(options.dir)
    # its folders know no corruptions_3d: those models are the same ones
    folder = home / options.dataset / options.threat_model.removesuffix("_3d")
    if not options.download and not any((folder / file).is_file() for file in (f"{name}.pt", f"{name}_m0.pt")):
        raise UserError(f"there is no {folder / name}.pt; put it there, or add ;download=true to fetch it")
    try:
        module = package.load_model(
            model_name=name, model_dir=str(home), dataset=options.dataset, threat_model=options.threat_model
        )
    except Exception as error:  # downloads, unpickling and old code fail in many ways
        raise _broken(name, error) from error
    if not isinstance(module, nn.Module):
        raise UserError(f"robustbench:{name} gave a {type(module).__name__}; accepted: a torch.nn.Module")
    return module.eval()


def _broken(name: str, error: Exception) -> UserError:
    return UserError(f"robustbench:{name} could not be loaded ({cause_of(error)})")


def _known(options: RobustBenchOptions) -> list[str]:
    """The names that its zoo has for that data and threat; its keys are enumerations, whose values are the words."""
    zoo = getattr(_package("robustbench.model_zoo"), "model_dicts", {})
    for dataset, threats in zoo.items():
        for threat, models in threats.items():
            given = getattr(dataset, "value", dataset), getattr(threat, "value", threat)
            if given == (options.dataset, options.threat_model.removesuffix("_3d")):
                return [str(name) for name in models]
    return []
