"""Checkpoints that are pickles, read without running code: torch's `weights_only`, and stand-ins for what lies beside weights.

A training program keeps its options, dates and scores in the same file as the weights. Of such a type an inert object is
made here in its place: nothing of numpy, pathlib or OmegaConf is imported or called. Any other type is refused by its name.
"""

import pickle
import pickletools
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from robustbench_lite.errors import UserError, cause_of, cut

#: types that are stood in for: single values and objects, by module
_THINGS: Mapping[str, tuple[str, ...]] = {
    "argparse": ("Namespace",),
    "builtins": (
        *("frozenset", "range", "slice", "object", "int", "float", "str", "bool", "tuple", "bytes"),
        *("type", "getattr", "Ellipsis"),
    ),
    "copyreg": ("_reconstructor",),
    "datetime": ("date", "datetime", "time", "timedelta", "timezone"),
    "decimal": ("Decimal",),
    "enum": ("Enum", "IntEnum"),
    "fractions": ("Fraction",),
    "functools": ("partial",),
    "numpy": ("bool_", "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint32"),
    "numpy.core.multiarray": ("scalar",),
    "numpy._core.multiarray": ("scalar",),
    "numpy.random.bit_generator": ("SeedSequence", "__pyx_unpickle_SeedSequence"),
    "numpy.random._pickle": ("__randomstate_ctor", "__generator_ctor", "__bit_generator_ctor"),
    "numpy.random._mt19937": ("MT19937",),
    "numpy.random._pcg64": ("PCG64",),
    "numpy.dtypes": tuple(
        f"{name}DType"
        for name in (
            *("Bool", "Bytes", "Str", "Object", "Float16", "Float32", "Float64", "Complex64", "Complex128"),
            *(f"{sign}Int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)),
        )
    ),
    "omegaconf.base": ("ContainerMetadata", "Metadata", "UnionNode"),
    "omegaconf.dictconfig": ("DictConfig",),
    "omegaconf.listconfig": ("ListConfig",),
    "omegaconf.nodes": tuple(
        f"{name}Node"
        for name in ("Any", "Boolean", "Bytes", "Enum", "Float", "Integer", "Path", "String", "Union", "Value")
    ),
    "pathlib": ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath"),
    "pathlib._local": ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath"),
    "torch.optim.lr_scheduler": (
        *(
            "LambdaLR",
            "StepLR",
            "MultiStepLR",
            "LinearLR",
            "ExponentialLR",
            "CosineAnnealingLR",
            "OneCycleLR",
            "CyclicLR",
        ),
        *(
            "CosineAnnealingWarmRestarts",
            "ReduceLROnPlateau",
            "SequentialLR",
            "ConstantLR",
            "PolynomialLR",
            "ChainedScheduler",
        ),
    ),
    "torch.optim.sgd": ("SGD",),
    "torch.optim.adam": ("Adam",),
    "torch.optim.adamw": ("AdamW",),
    "torch.optim.rmsprop": ("RMSprop",),
    "torch.torch_version": ("TorchVersion",),
    "types": ("SimpleNamespace",),
    "typing": ("Any", "Dict", "List", "Optional", "Tuple", "Union"),
    "operator": ("getitem",),
    "uuid": ("UUID",),
}
#: the same of what holds items by name
_MAPPINGS: Mapping[str, tuple[str, ...]] = {
    "addict.addict": ("Dict",),
    "builtins": ("dict",),
    "collections": ("defaultdict",),
    "easydict": ("EasyDict",),
    "lightning.fabric.utilities.data": ("AttributeDict",),
    "lightning_fabric.utilities.data": ("AttributeDict",),
    "pytorch_lightning.utilities.parsing": ("AttributeDict",),
    "ml_collections.config_dict.config_dict": ("ConfigDict", "FrozenConfigDict"),
    "munch": ("Munch",),
    "yacs.config": ("CfgNode",),
}
_NUMPY = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray")
#: the same of what holds items in a row
_LISTS: Mapping[str, tuple[str, ...]] = {"builtins": ("list",), "collections": ("deque",)}
#: how many pickles an old file of torch begins with, the last of which holds the objects; bytes of a larger one are not read
_OLD_PICKLES, _LARGEST = 4, 1 << 27
#: what torch says of a type that it was not told of
_REFUSED = re.compile(r"GLOBAL ([\w.]+)|got <class '([\w.]+)'>")


class Thing:
    """Stands for an object that is not made: it takes any arguments, items and state, and keeps none."""

    def __new__(cls, *args: Any, **options: Any) -> "Thing":
        return object.__new__(cls)

    def __init__(self, *args: Any, **options: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...

    def __call__(self, *args: Any, **options: Any) -> "Thing":
        return Thing()


class Items:
    """Stands for a dictionary of any make: what is made is a plain one, with the items."""

    def __new__(cls, *args: Any, **options: Any) -> Any:
        return OrderedDict()


class Row:
    """Stands for a list of any make: what is made is a plain one."""

    def __new__(cls, *args: Any, **options: Any) -> Any:
        return []


class DType(Thing):
    """Stands for a dtype of numpy, and remembers which."""

    code, order = "", "="

    def __init__(self, code: Any = "", *args: Any) -> None:
        self.code = code if isinstance(code, str) else ""

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "|", "="):
            self.order = state[1]


class Array(Thing):
    """Stands for an array of numpy; a numeric one can be read as a tensor."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def tensor(self) -> Tensor | None:
        """The numbers; None where it holds none."""
        try:
            _, shape, dtype, columns_first, content = self.state
            if not re.fullmatch(r"[fiub][1248]", dtype.code):
                return None
            flat = np.frombuffer(content, np.dtype(dtype.order + dtype.code))
            values = flat.reshape(shape, order="F" if columns_first else "C").astype(flat.dtype.newbyteorder("="))
            return torch.from_numpy(values.copy())
        except (TypeError, ValueError, AttributeError):
            return None


def read_pickle(path: Path) -> Any:
    """What torch reads from a file without running code: tensors, plain containers, and stand-ins.

    Raises:
        UserError: the file is damaged, or holds a type that is neither a tensor nor one of the known ones.
    """
    try:
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals(list(_stand_ins())):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refused(path, error) from error
    except Exception as error:  # zip, pickle and torch's reader fail in many ways on damaged bytes
        raise _unreadable(path, error) from error


def run_pickle(path: Path) -> Any:
    """What torch reads from a file with code and all: it may do whatever its maker wants.

    Classes are looked for in the working directory as well.

    Raises:
        UserError: the file is damaged, or its classes cannot be imported.
    """
    from robustbench_lite.zoo.imports import importable

    try:
        with warnings.catch_warnings(action="ignore"), importable():
            return torch.load(path, map_location="cpu", weights_only=False)
    except (AttributeError, ImportError) as error:
        raise UserError(
            f"{cut(path)!r} holds objects whose class is not here ({cause_of(error)}); start rbl where it can be imported,"
            " or save the state_dict and write FILE.py:CLASS;weights=FILE"
        ) from error
    except SystemExit as error:
        raise UserError(f"the code in {cut(path)!r} raised {cause_of(error)}") from error
    except Exception as error:
        raise _unreadable(path, error) from error


def holds_code(path: Path) -> UserError:
    """The error for a whole network in a file that may not be run."""
    return UserError(
        f"{cut(path)!r} holds a whole network, which takes its code to be read; save its state_dict, or pass"
        " --allow-code if you trust the file"
    )


def holds_network(path: Path) -> bool:
    """Whether a pickle of torch's names layers, and so holds a whole network; its instructions are read and not followed."""
    try:
        if not zipfile.is_zipfile(path):
            with path.open("rb") as file:
                return any(_names_layers(file) for _ in range(_OLD_PICKLES))
        with zipfile.ZipFile(path) as archive:
            inside = next((one for one in archive.infolist() if one.filename.endswith("/data.pkl")), None)
            if inside is None or inside.file_size > _LARGEST:
                return False
            with archive.open(inside) as file:
                return _names_layers(file)
    except Exception:  # zip and pickle fail in many ways on damaged bytes; whoever reads the file says why
        return False


def _names_layers(file: IO[bytes]) -> bool:
    """Whether the next pickle of the file makes layers of torch."""
    memo, texts, last = dict[Any, Any](), [""], None
    for instruction, argument, _ in pickletools.genops(file):
        name, value = instruction.name, argument
        if name in ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"):
            memo[len(memo) if value is None else value] = last
            continue
        last = memo.get(value) if name.endswith("GET") else value
        if isinstance(last, str) and name != "GLOBAL":
            texts.append(last)
        named = str(value).replace(" ", ".") if name == "GLOBAL" else ".".join(texts[-2:]) * (name == "STACK_GLOBAL")
        if _is_layer(named):
            return True
    return False


def _is_layer(kind: str) -> bool:
    return kind.startswith(("torch.nn.modules.", "torch.fx.")) and not kind.startswith("torch.nn.modules.loss")


@cache
def _stand_ins() -> tuple[Any, ...]:
    """A class for each name, called as the name that it stands for."""
    tables = ((Thing, _THINGS), (Items, _MAPPINGS), (Row, _LISTS))
    made = [_named(base, module, name) for base, table in tables for module, names in table.items() for name in names]
    made += [_named(DType, "numpy", "dtype"), _named(Thing, "numpy", "ndarray")]
    return (*made, *(_named(Array, module, "_reconstruct") for module in _NUMPY[1:]))


def _named(base: type, module: str, name: str) -> type:
    return type(name, (base,), {"__module__": module, "__qualname__": name})


def _refused(path: Path, error: Exception) -> UserError:
    found = _REFUSED.search(str(error))
    if found is None and "unrecognized function" in str(error):
        return UserError(
            f"{cut(path)!r} holds an object that is made by a function, which takes code to be read; save the"
            " state_dict alone, or pass --allow-code if you trust the file"
        )
    if found is None:
        return UserError(f"{cut(path)!r} is corrupt, or no checkpoint: {cause_of(error)}")
    kind = found[1] or found[2]
    if _is_layer(kind):
        return holds_code(path)
    return UserError(
        f"{cut(path)!r} holds an object of type {kind}, which takes code to be read, and was not loaded; save the"
        " state_dict alone, convert it to .safetensors, or pass --allow-code if you trust the file"
    )


def _unreadable(path: Path, error: BaseException) -> UserError:
    if "TorchScript" in str(error):
        return UserError(f"{cut(path)!r} is TorchScript; name it as torchscript:{cut(path)}")
    return UserError(f"{cut(path)!r} is corrupt or truncated: {cause_of(error)}")
