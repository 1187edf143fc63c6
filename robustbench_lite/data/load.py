"""From a spec string to a split of a dataset."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from robustbench_lite import plugins, specs
from robustbench_lite.calls import call
from robustbench_lite.data.base import Dataset, Split
from robustbench_lite.data.expected import NOTHING, Expected
from robustbench_lite.errors import UserError, unknown

_FILES = ("npz", "folder", "generated", "versus")


def load(
    spec_text: str,
    split: Split = "test",
    *,
    root: Path | None = None,
    download: bool = False,
    expected: Expected = NOTHING,
) -> Dataset:
    """The split of a dataset: `digits`, `cifar10`, `npz:FILE;train=FILE`, `folder:DIR;size=224`,
    `generated:FILE;count=1000`, `versus:FILE;dataset=digits`.

    A plugin is a function `(*, split, root, download, …options) -> Dataset`, offered as an entry point of the group
    `robustbench_lite.datasets`.

    Args:
        split: `train` or `test`.
        root: where torchvision's sets lie; else `$RBL_DATA_ROOT`, else the cache folder.
        download: fetch what is missing.
        expected: what models expect of a folder's images; the name of the dataset says what came of it.

    Raises:
        UserError: an unknown name or option, missing or unreadable files, images or labels out of range.
    """
    if split not in ("train", "test"):
        raise unknown("split", split, ("train", "test"))
    spec = specs.parse_source(spec_text)
    kind, colon, place = spec.name.partition(":")
    if colon and kind.lower() in _FILES:
        more: dict[str, Any] = {"versus": {"root": root, "download": download}, "folder": {"expected": expected}}
        return _from_files(kind.lower(), place, spec, split, **more.get(kind.lower(), {}))
    if colon and kind.lower() not in plugins.names("dataset"):
        raise unknown("dataset", kind, [*plugins.names("dataset"), *_FILES], "rbl list datasets")
    named = specs.parse(spec.name)
    options = {**named.options, **spec.options}
    reader = plugins.load("dataset", named.name)
    return cast(Dataset, call(reader, options, name=named.name, split=split, root=root, download=download))


def _from_files(kind: str, place: str, spec: specs.Spec, split: Split, **more: Any) -> Dataset:
    if not place:
        raise UserError(f"{kind}: names no file; write {kind}:PATH")
    name = str(specs.Spec(f"{kind}:{place}", spec.options, ";"))
    given = {"split": split, "path": Path(place).expanduser(), "spec": name, **more}
    return cast(Dataset, call(source(kind), spec.options, name=f"{kind}:{place}", **given))


def source(kind: str) -> Callable[..., Dataset]:
    """What reads `npz:`, `folder:`, `generated:` or `versus:`; its keyword-only parameters are the options of a spec.

    Raises:
        UserError: there is none of that name.
    """
    from robustbench_lite.data import folders, generated, npz, versus

    readers: dict[str, Callable[..., Dataset]] = {
        "npz": npz.load,
        "folder": folders.load,
        "generated": generated.load,
        "versus": versus.load,
    }
    if kind not in readers:
        raise unknown("dataset", kind, _FILES)
    return readers[kind]
