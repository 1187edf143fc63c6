"""From a spec string to a split of a dataset."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from robustbench_lite import plugins, specs
from robustbench_lite.calls import call
from robustbench_lite.data.base import Dataset, Split
from robustbench_lite.errors import UserError, unknown

_FILES = ("npz", "folder", "generated", "versus")


def load(spec_text: str, split: Split = "test", *, root: Path | None = None, download: bool = False) -> Dataset:
    """The split of a dataset: `digits`, `cifar10`, `npz:FILE;train=FILE`, `folder:DIR;size=224`,
    `generated:FILE;count=1000`, `versus:FILE;dataset=digits`.

    A plugin is a function `(*, split, root, download, …options) -> Dataset`, offered as an entry point of the group
    `robustbench_lite.datasets`.

    Args:
        split: `train` or `test`.
        root: where torchvision's sets lie; else `$RBL_DATA_ROOT`, else the cache folder.
        download: fetch what is missing.

    Raises:
        UserError: an unknown name or option, missing or unreadable files, images or labels out of range.
    """
    if split not in ("train", "test"):
        raise unknown("split", split, ("train", "test"))
    spec = specs.parse_source(spec_text)
    kind, colon, place = spec.name.partition(":")
    if colon and kind.lower() in _FILES:
        places = {"root": root, "download": download} if kind.lower() == "versus" else {}
        return _from_files(kind.lower(), place, spec, split, **places)
    if colon and kind.lower() not in plugins.names("dataset"):
        raise unknown("dataset", kind, [*plugins.names("dataset"), *_FILES], "rbl list datasets")
    named = specs.parse(spec.name)
    options = {**named.options, **spec.options}
    reader = plugins.load("dataset", named.name)
    return cast(Dataset, call(reader, options, name=named.name, split=split, root=root, download=download))


def _from_files(kind: str, place: str, spec: specs.Spec, split: Split, **more: Any) -> Dataset:
    from robustbench_lite.data import folders, generated, npz, versus

    if not place:
        raise UserError(f"{kind}: names no file; write {kind}:PATH")
    readers: dict[str, Callable[..., Dataset]] = {
        "npz": npz.load,
        "folder": folders.load,
        "generated": generated.load,
        "versus": versus.load,
    }
    name = str(specs.Spec(f"{kind}:{place}", spec.options, ";"))
    given = {"split": split, "path": Path(place), "spec": name, **more}
    return cast(Dataset, call(readers[kind], spec.options, name=f"{kind}:{place}", **given))
