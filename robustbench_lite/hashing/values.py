"""What a value is, for content addresses: by its content, its options, its weights, and the code that works on them.

Networks are told by their weights, buffers, attributes and classes (a temperature is in no `state_dict`); functions and classes
by their syntax trees and by the values that they read: defaults, closures, globals of their module, and what they call, as far
as it is the user's or a plugin's own. Code of Python and of installed packages is told by its name, and the packages are
told beside the digest, so that a key can hold their versions.

The harness's own code is told by its name as well: what could change a number there raises a version that stands in the key
(`run.cell.NUMBERS`, `training.VERSION`). A module that plugins are made of, such as the objectives, says
`__hashed_by_code__ = True`, and is followed like a plugin; in a package it holds for all modules.
"""

import dataclasses
import functools
import importlib.metadata
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from enum import Enum
from pathlib import PurePath
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_lite.hashing import new
from robustbench_lite.hashing.source import Descriptions, describe, is_installed

if TYPE_CHECKING:
    import pyarrow as pa

_HARNESS = __name__.partition(".")[0]
_BY_CODE = "__hashed_by_code__"
_PLAIN = (type(None), bool, int, float, complex, str, bytes, PurePath, torch.dtype, torch.device, np.generic)
#: modules of Python whose objects are values
_VALUES = frozenset({"argparse", "array", "collections", "datetime", "decimal", "fractions", "re", "types", "uuid"})
#: packages whose objects are at work, rather than values
_RUNS = frozenset({"builtins", "torch", "numpy", *sys.stdlib_module_names})
#: what every module has, and nothing of its own; hooks change answers
_MODULE = set(vars(nn.Module())) - {"_forward_hooks", "_forward_pre_hooks"}
#: what every class has, and what annotations leave
_CLASS = frozenset(
    {
        *("__module__", "__doc__", "__dict__", "__weakref__", "__annotations__", "__annotate__", "__qualname__"),
        *("__firstlineno__", "__static_attributes__", "__dataclass_fields__", "__dataclass_params__", "__match_args__"),
        *("__abstractmethods__", "_abc_impl", "__parameters__", "__orig_bases__", "__slots__", "__annotate_func__"),
        *("__annotations_cache__", "__repr__", "__not_hashed__"),
    }
)


def hash_value(*values: object) -> str:
    """16 bytes (hex) that stand for the values."""
    return digest_and_packages(*values)[0]


def digest_and_packages(*values: object) -> tuple[str, tuple[str, ...]]:
    """The same, and the installed packages whose code works on them, sorted."""
    walk = _Walk()
    walk.feed(values)
    walk.finish()
    return walk.state.hexdigest(), tuple(sorted(walk.packages))


def versions_of(packages: tuple[str, ...]) -> dict[str, str]:
    """The versions of packages, by the names that they are imported by; without those that nobody installed."""
    found = {package: _version(package) for package in packages}
    return {package: version for package, version in found.items() if version is not None}


@functools.lru_cache(maxsize=256)
def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # installed under another name, such as that of PIL
        names = _distributions().get(package, ())
        return importlib.metadata.version(names[0]) if names else None


@functools.lru_cache(maxsize=1)
def _distributions() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """16 bytes (hex) over names, types, shapes and bits, in the order of the names."""
    state = new()
    for name, tensor in sorted(tensors.items()):
        state.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        state.update(_bits(tensor))
    return state.hexdigest()


def hash_table(table: "pa.Table") -> str:
    """16 bytes (hex) over a table's columns: names, types, and values, however these lie in memory."""
    import pyarrow as pa

    state = new()
    for name in table.column_names:
        column = table[name].combine_chunks()
        state.update(f"{name} {column.type} {len(column)}\0".encode())
        state.update(column.is_valid().to_numpy(zero_copy_only=False).tobytes())
        values = column.drop_null()
        if not pa.types.is_primitive(column.type):
            state.update(
                "".join(f"{len(text)} {text}" for text in map(str, values.to_pylist())).encode(errors="surrogatepass")
            )
        else:
            state.update(values.to_numpy(zero_copy_only=False).tobytes())
    return state.hexdigest()


def _bits(tensor: Tensor) -> bytes:
    """The bits of an ordinary tensor in the order of its indices."""
    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
    if plain.is_complex():
        plain = torch.view_as_real(plain).reshape(-1)
    return plain.view(torch.uint8).numpy().tobytes()


class _Walk:
    """One pass over values and the code behind them. Each function and class is told once, where it is met first."""

    def __init__(self, descriptions: Descriptions | None = None) -> None:
        self.state = new()
        self._describe = describe if descriptions is None else descriptions.of
        self.packages: set[str] = set()
        #: by id, what was met and in which place; kept alive, so that no id is used again
        self._met: dict[int, int] = {}
        self._kept: list[object] = []
        self._waiting: deque[Any] = deque()
        #: the installed packages that are plugins themselves, and are followed
        self._followed: set[str] = set()

    def finish(self) -> None:
        """Tell the functions and classes that were met on the way, and those that these meet."""
        while self._waiting:
            code = self._waiting.popleft()
            self._word("code")
            for part in self._of_class(code) if isinstance(code, type) else self._of_function(code):
                self.feed(part)

    def feed(self, value: object, above: tuple[int, ...] = ()) -> None:
        """Hash the value; `above` holds what it is part of, so that what contains itself ends."""
        if isinstance(value, Enum):
            self._code(type(value))
            self._word(value.name)
        elif isinstance(value, _PLAIN):
            self._word(f"{_kind(value)} {value!r}")
        elif isinstance(value, Tensor):
            self._tensor(value)
        elif isinstance(value, (type, FunctionType)):
            self._code(value)
        elif id(value) not in above:
            self._word(f"<{_kind(value)}")
            for part in self._parts(value):
                self.feed(part, (*above, id(value)))
            self._word(">")

    def _word(self, text: str) -> None:
        self.state.update(text.encode(errors="surrogatepass") + b"\0")

    def _tensor(self, value: Tensor) -> None:
        self._word(f"tensor {value.dtype}{tuple(value.shape)}{'' if value.layout is torch.strided else value.layout}")
        if value.is_meta:
            return
        if value.layout is not torch.strided:
            dense = value.to_dense()
            self.state.update(_bits(dense))
        elif value.is_quantized:
            self.state.update(_bits(value.int_repr()))
            self._word(f"{value.qscheme()} {value.dequantize().double().sum().item()!r}")
        else:
            self.state.update(_bits(value))

    # -- values --------------------------------------------------------------------------------------------------------

    def _parts(self, value: Any) -> Iterator[object]:
        """What a value that is not plain is made of, in a fixed order."""
        if isinstance(value, np.ndarray):
            if value.dtype.names:  # between its fields may be anything
                yield [(name, value[name]) for name in value.dtype.names]
                return
            yield from (value.dtype.str, value.shape, value.tolist() if value.dtype.hasobject else value.tobytes())
        elif isinstance(value, Mapping):
            yield from _entries(value)
            yield from self._of_own_kind(value)
        elif isinstance(value, (list, tuple, deque)):
            yield from value
            yield from self._of_own_kind(value)
        elif isinstance(value, (set, frozenset)):
            yield from sorted(hash_value(one) for one in value)
        elif isinstance(value, nn.Module):
            yield from _of_module(value)
        elif isinstance(value, torch.jit.ScriptFunction):
            yield str(value.code)
        elif isinstance(value, functools.partial):
            yield from (value.func, value.args, value.keywords)
        elif isinstance(value, MethodType):
            owner = value.__self__
            whole = isinstance(owner, (nn.Module, type)) or _is_data(owner)
            yield from (value.__func__, owner if whole else type(owner))
        elif isinstance(value, ModuleType):
            yield from self._of_namespace(value)
        elif hasattr(type(value), "hashed_as"):
            yield from value.hashed_as()
        elif _is_data(value):
            yield from (type(value), getattr(value, "version", None))
            yield [(item.name, getattr(value, item.name, None)) for item in dataclasses.fields(value)]
        else:
            yield from self._of_object(value)

    def _of_own_kind(self, value: Any) -> Iterator[object]:
        """What a container of a class of the user's is besides what it holds."""
        if self._is_own(type(value)):
            yield (type(value), sorted(getattr(value, "__dict__", {}).items(), key=_first))

    def _of_object(self, value: Any) -> Iterator[object]:
        """An object of any other class: what it holds, where it is the user's; what it says of itself, of a package's."""
        wrapped = getattr(value, "__wrapped__", None)
        if wrapped is not None:
            yield wrapped
        elif isinstance(value, BuiltinFunctionType) or hasattr(value, "__qualname__"):
            yield f"{getattr(value, '__module__', '')}.{value.__qualname__}"
            self._uses(str(getattr(value, "__module__", "") or ""))
        elif self._is_own(type(value)):
            yield from (type(value), sorted(getattr(value, "__dict__", {}).items(), key=_first))
            yield [(name, getattr(value, name, None)) for name in _slots(type(value))]
        else:
            yield from (type(value), _content(value))

    def _of_namespace(self, module: ModuleType) -> Iterator[object]:
        """A module that is handed around as it is: all that it defines, if it is followed; else its name."""
        if not self._follows(module.__name__, getattr(module, "__file__", None)):
            yield module.__name__
            self._uses(module.__name__)
            return
        for name, one in sorted(vars(module).items()):
            defined = getattr(one, "__module__", module.__name__) == module.__name__
            if not name.startswith("__") and defined and not isinstance(one, ModuleType):
                yield from (name, one)

    # -- code ----------------------------------------------------------------------------------------------------------

    def _code(self, code: Any) -> None:
        """A function or class: its place among those that are told, or its name where it is not followed."""
        if id(code) in self._met:
            self._word(f"@{self._met[id(code)]}")
            return
        if not self._is_own(code):
            self._word(f"named {_name_of(code)}")
            self._uses(str(code.__module__ or ""))
            if isinstance(code, type) or not (code.__closure__ or hasattr(code, "__wrapped__")):
                return
        self._met[id(code)] = len(self._met)
        self._kept.append(code)
        self._waiting.append(code)
        self._word(f"@{self._met[id(code)]}")

    def _of_function(self, function: FunctionType) -> Iterator[object]:
        """What it does, and what it holds; of one that is told by its name what it holds alone."""
        if self._is_own(function):
            told = self._describe(function)
            yield from (told.text, told.meanings)
        yield from (function.__defaults__, function.__kwdefaults__)
        yield [_held(cell) for cell in function.__closure__ or ()]
        yield {name: one for name, one in vars(function).items() if name != "__wrapped__"}
        if "__wrapped__" in vars(function):
            yield vars(function)["__wrapped__"]

    def _of_class(self, kind: type) -> Iterator[object]:
        yield kind.__bases__
        if type(kind).__module__ not in ("builtins", "abc", "enum"):
            yield type(kind)
        prose = getattr(kind, "__not_hashed__", ())
        for name, member in sorted(vars(kind).items()):
            if name not in _CLASS and name not in prose and not _generated(member):
                yield from (name, *_unwrapped(member))
        for item in dataclasses.fields(kind) if "__dataclass_fields__" in vars(kind) else ():
            factory = None if item.default_factory is dataclasses.MISSING else item.default_factory
            yield from (item.name, item.init, factory)

    def _is_own(self, code: Any) -> bool:
        """Whether a function or class is told by its code."""
        module = sys.modules.get(str(code.__module__))
        file = getattr(module, "__file__", None)
        if isinstance(code, FunctionType) and module is None:
            file = code.__code__.co_filename
        return self._follows(str(code.__module__), file)

    def _follows(self, module: str, file: str | None) -> bool:
        top = module.partition(".")[0]
        if top == _HARNESS:
            return _marked(module)
        if top in self._followed:
            return True
        if top in sys.stdlib_module_names and top != "__main__":
            return False
        if file is None:  # typed in, or made by `exec`
            return top not in sys.modules or top == "__main__" or getattr(sys.modules[top], "__spec__", None) is None
        return not is_installed(file)

    def follow(self, kind: type) -> None:
        """Follow the package of this class wherever it is installed: it is a plugin."""
        self._followed.add(kind.__module__.partition(".")[0])

    def _uses(self, module: str) -> None:
        top = module.partition(".")[0]
        if top and top != _HARNESS and top not in sys.stdlib_module_names:
            self.packages.add(top)


#: what the functions of plugins do, while a run is under way
_PLUGINS: ContextVar[Descriptions | None] = ContextVar("plugins", default=None)


@contextmanager
def same_plugins() -> Iterator[None]:
    """Inside, the code of plugins stays as it is, and each of their functions is described once."""
    token = _PLUGINS.set(Descriptions())
    try:
        yield
    finally:
        _PLUGINS.reset(token)


def hash_plugin(plugin: object) -> tuple[str, tuple[str, ...]]:
    """What a plugin does with its options, wherever it is installed; and the packages that it uses."""
    walk = _Walk(_PLUGINS.get())
    walk.follow(type(plugin))
    walk.feed(plugin)
    walk.finish()
    return walk.state.hexdigest(), tuple(sorted(walk.packages))


@functools.lru_cache(maxsize=1024)
def _marked(module: str) -> bool:
    """Whether a module of the harness, or a package that it is in, asks to be told by its code."""
    names = [module.rsplit(".", cut)[0] for cut in range(module.count(".") + 1)]
    return any(bool(getattr(sys.modules.get(name), _BY_CODE, False)) for name in names)


def _name_of(code: Any) -> str:
    """What a function or class is called that is not followed; of the harness without the module, which may move."""
    module = str(code.__module__ or "")
    return code.__qualname__ if module.partition(".")[0] == _HARNESS else f"{module}.{code.__qualname__}"


def _kind(value: object) -> str:
    """What sort of value it is; of the user's classes nothing, since they are told by their code."""
    for kind in (nn.Module, Mapping, list, tuple, set, frozenset, np.ndarray, ModuleType):
        if isinstance(value, kind):
            return kind.__name__
    return type(value).__name__ if type(value).__module__ in ("builtins", "torch", "numpy") else ""


def _entries(value: Mapping[Any, Any]) -> Iterator[object]:
    """A table in the order of its keys; keys that are numbers mean nothing where torch counts hooks by them."""
    if value and all(isinstance(key, int) for key in value) and _are_hooks(value):
        yield from value.values()
    else:
        yield from sorted(value.items(), key=_first)


def _are_hooks(value: Mapping[Any, Any]) -> bool:
    return all(callable(one) for one in value.values())


def _first(item: tuple[object, object]) -> str:
    return repr(item[0])


def _of_module(module: nn.Module) -> Iterator[object]:
    yield type(module)
    torchs = type(module).__module__.startswith("torch.")
    if torchs:
        yield module.extra_repr()
    if isinstance(module, (torch.jit.ScriptModule, torch.fx.GraphModule)):
        yield from _of_graph(module)
    else:
        own = {name: one for name, one in vars(module).items() if name not in _MODULE}
        yield {name: one for name, one in own.items() if not torchs or _simple(one) or _is_code(one)}
        if not _is_of_its_package(type(module).forward, type(module)):  # somebody has put another in its place
            yield type(module).forward
    for tensors in (module.named_parameters(recurse=False), module.named_buffers(recurse=False)):
        yield [(name, tensor) for name, tensor in sorted(tensors)]
    yield list(module.named_children())


def _of_graph(module: Any) -> Iterator[object]:
    try:
        yield str(module.code)
        if isinstance(module, torch.jit.ScriptModule):
            yield from sorted(module.code_with_constants[1].const_mapping.items())
    except (AttributeError, RuntimeError):  # a part of a script without a forward of its own
        yield ""
    if isinstance(module, torch.fx.GraphModule):
        yield [node.target for node in module.graph.nodes if node.op == "call_function"]


def _is_code(value: object) -> bool:
    """Whether it is a function that stands in for a method, or a table of hooks."""
    if isinstance(value, Mapping):
        return bool(value) and _are_hooks(value)
    return isinstance(value, (FunctionType, MethodType, functools.partial))


def _is_of_its_package(method: Any, kind: type) -> bool:
    """Whether the method of a class, or of one that it is made of, is as its package has it."""
    tops = {base.__module__.partition(".")[0] for base in kind.__mro__}
    return str(getattr(method, "__module__", "torch")).partition(".")[0] in tops


def _is_data(value: object) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _simple(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_simple, value))
    return isinstance(value, (*_PLAIN, Enum, Tensor, np.ndarray))


def _slots(kind: type) -> list[str]:
    return [name for part in kind.__mro__ for name in _listed(vars(part).get("__slots__", ())) if name[:2] != "__"]


def _listed(names: object) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)  # type: ignore[arg-type]  # __slots__ is one or several


def _held(cell: Any) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _generated(member: object) -> bool:
    """Whether it is a method that `dataclass` or its like has written, which the fields tell already."""
    return isinstance(member, FunctionType) and member.__code__.co_filename == "<string>"


def _unwrapped(member: Any) -> Iterator[object]:
    """The functions behind a method of any kind."""
    if isinstance(member, (staticmethod, classmethod)):
        yield from (type(member).__name__, member.__func__)
    elif isinstance(member, property):
        yield from ("property", member.fget, member.fset)
    elif isinstance(member, functools.cached_property):
        yield from ("property", member.func)
    elif type(member).__name__ in ("member_descriptor", "getset_descriptor"):
        yield "slot"
    else:
        yield member


def _content(value: Any) -> object:
    """What an object of Python or of an installed package holds: of values all, of others what is plain in them.

    What runs, such as a generator of random numbers, a lock or a log, is no value: its state is another in every run.
    """
    module = type(value).__module__.partition(".")[0]
    if module in _VALUES:
        return sorted(vars(value).items()) if hasattr(value, "__dict__") else repr(value)
    if module in sys.stdlib_module_names or isinstance(value, torch.Generator):
        return None
    own = sorted(getattr(value, "__dict__", {}).items())
    plain = [(name, one) for name, one in own if _simple(one)]
    if module == "numpy":
        return plain
    return [*plain, *((name, one) for name, one in own if _holds_values(one)), *_state(value)]


def _holds_values(value: object) -> bool:
    """Whether it is a part that may hold values in turn: a function, a container, or an object of an installed package."""
    if _simple(value) or isinstance(value, (type, ModuleType)):
        return False
    module = type(value).__module__.partition(".")[0]
    return _is_code(value) or isinstance(value, (Mapping, list, tuple, nn.Module)) or module not in _RUNS


def _state(value: Any) -> list[object]:
    """What an object that is made in another language says of itself by name; what has no names may be addresses."""
    if hasattr(value, "__dict__") or "__getstate__" not in vars(type(value)):
        return []
    try:
        state = value.__getstate__()
    except Exception:  # whatever it says to being asked
        return []
    return [state] if isinstance(state, dict) else []
