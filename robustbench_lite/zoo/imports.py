"""The user's own Python code: a file, or a module of a package, imported as it is now."""

import ast
import builtins
import contextlib
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from robustbench_lite.errors import UserError, cause_of, cut, nearest, unknown
from robustbench_lite.hashing import hash_file, hash_text
from robustbench_lite.zoo.base import is_file, missing

#: modules of the user's that were imported here, with the digests of their files
_imported: dict[str, str] = {}


def load_file(path: Path) -> ModuleType:
    """A Python file as a module, its folder and the working directory importable as for a script.

    A file that imports from its own package (`from .blocks import …`) is imported as a member of that package.

    Raises:
        UserError: there is no such file, or it raises.
    """
    if not is_file(path):
        raise missing(path)
    package = _package_of(path)
    if package is not None:
        root, name = package
        return _by_name(name, str(path), path.parent, root)
    name = f"rbl_user_{path.stem}_{hash_text(str(path.resolve()), 6)}"
    loader = _Loader(name, str(path), _places(path.parent))
    made = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert made is not None
    module = importlib.util.module_from_spec(made)
    sys.modules[name] = module  # so that classes defined there, and their source, can be found by name
    try:
        with importable(path.parent):
            loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        del sys.modules[name]
        raise _raised(str(path), error) from error
    return module


def load_module(name: str) -> ModuleType:
    """The module of that dotted name, from the working directory or installed.

    Raises:
        UserError: there is none, or it raises.
    """
    return _by_name(name, name)


def can_be_found(name: str) -> bool:
    """Whether there is a module or package of that name (without a dot), in the working directory or installed."""
    with contextlib.suppress(ImportError, ValueError), importable():
        return name.isidentifier() and importlib.util.find_spec(name) is not None
    return False


def member(module: ModuleType, name: str, what: str) -> Any:
    """What a module calls by that name, such as `Net` or `Zoo.small`.

    Raises:
        UserError: it has nothing of that name that could be a model, or make one.
    """
    value: Any = module
    for part in name.split("."):
        value = getattr(value, part, None)
    if callable(value):
        return value
    own = [key for key, one in vars(module).items() if callable(one) and not key.startswith("_")]
    defined = [key for key in own if getattr(getattr(module, key), "__module__", "") == module.__name__]
    raise unknown(f"function in {what}", name, defined or own)


@contextmanager
def importable(*folders: Path) -> Iterator[None]:
    """Inside, modules of these folders and of the working directory can be imported, the first folder first.

    A module of the user's that was imported before is imported anew where its file was changed since, or where another
    folder's module has its name. No bytecode is written: Python takes an edit within a second for none.
    """
    places = _places(*folders)
    finder = _Finder(places)
    _forget(places)
    before, bytecode = set(sys.modules), sys.dont_write_bytecode
    sys.path[:0] = places
    sys.meta_path.insert(0, finder)
    sys.dont_write_bytecode = True
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.dont_write_bytecode = bytecode
        sys.meta_path.remove(finder)
        for place in places:
            with contextlib.suppress(ValueError):
                sys.path.remove(place)
        _remember(set(sys.modules) - before, places)


class _Import:
    """The import statement of a module of the user's: what it could import while it was loaded it can import when it is called.

    Args:
        places: folders that were importable then.
    """

    def __init__(self, places: Sequence[str]) -> None:
        self.places = places

    def __call__(self, name: str, *more: Any, **options: Any) -> Any:
        bring = builtins.__import__
        level = options.get("level", more[3] if len(more) > 3 else 0)
        if level or not self.has(name) or _place(self._found(name)) == _place(_spec_of(name.partition(".")[0])):
            return bring(name, *more, **options)
        with importable(*map(Path, self.places)):
            return bring(name, *more, **options)

    def has(self, name: str) -> bool:
        """Whether the module lies in one of the folders."""
        return self._found(name) is not None

    def _found(self, name: str) -> ModuleSpec | None:
        return PathFinder.find_spec(name.partition(".")[0], self.places)


class _Loader(SourceFileLoader):
    """Runs a file of the user's, with an import statement of its own."""

    def __init__(self, name: str, path: str, places: Sequence[str]) -> None:
        super().__init__(name, path)
        self.places = places

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__builtins__"] = {**vars(builtins), "__import__": _Import(self.places)}
        super().exec_module(module)


class _Finder:
    """Has files in these folders run by `_Loader`; others are found as ever."""

    def __init__(self, places: Sequence[str]) -> None:
        self.places = places

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        found = PathFinder.find_spec(name, path, target)
        file = None if found is None else found.origin
        if found is None or file is None or type(found.loader) is not SourceFileLoader or "site-packages" in file:
            return None
        if any(Path(file).is_relative_to(place) for place in self.places):
            found.loader = _Loader(name, file, self.places)
            return found
        return None


def _by_name(name: str, what: str, *folders: Path) -> ModuleType:
    try:
        with importable(*folders):
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise _no_module(name, what, error.name) from error
        raise _raised(what, error) from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise _raised(what, error) from error


def _raised(what: str, error: BaseException) -> UserError:
    return UserError(f"{cut(what)} cannot be imported: {cause_of(error)}")


def _no_module(name: str, what: str, absent: str) -> UserError:
    """The error for a module that is not there; `absent` is the first part of its name that is not."""
    parent, _, last = absent.rpartition(".")
    there = getattr(sys.modules.get(parent), "__path__", None) if parent else [str(one) for one in _working_directory()]
    guess = nearest(last, [one.name for one in pkgutil.iter_modules(there)] if there else [])
    also = f"; did you mean {'.'.join(filter(None, (parent, guess)))}{name[len(absent) :]}?" if guess else ""
    return UserError(f"there is no module {cut(what)!r} in the working directory, nor installed{also}")


def _package_of(path: Path) -> tuple[Path, str] | None:
    """The root folder and dotted name of a file that imports from its own package; None of any other."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError, OSError):
        return None
    level = max((node.level for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)), default=0)
    if level == 0:
        return None
    names, folder = [path.stem], path.resolve().parent
    while len(names) <= level or (folder / "__init__.py").is_file():
        names, folder = [folder.name, *names], folder.parent
        if folder == folder.parent:
            break
    return folder, ".".join(names)


def _forget(places: list[str]) -> None:
    """Drop modules of the user's that are not what an import would find now, with their packages."""
    stale = {name.partition(".")[0] for name, digest in _imported.items() if _is_stale(name, digest, places)}
    for name in [name for name in sys.modules if name.partition(".")[0] in stale]:
        sys.modules.pop(name, None)
        _imported.pop(name, None)


def _is_stale(name: str, digest: str, places: list[str]) -> bool:
    module, top = sys.modules.get(name), name.partition(".")[0]
    if module is None or digest != _digest(module):
        return True
    found = PathFinder.find_spec(top, places)
    return found is not None and _place(found) != _place(_spec_of(top))


def _remember(names: set[str], places: list[str]) -> None:
    for name in names:
        module = sys.modules.get(name)
        file = getattr(module, "__file__", None)
        if module is None or not isinstance(file, str) or "site-packages" in file:
            continue
        if any(Path(file).is_relative_to(place) for place in places):
            _imported[name] = _digest(module)


def _digest(module: ModuleType) -> str:
    try:
        return hash_file(Path(str(module.__file__)), 8)
    except OSError:
        return ""


def _spec_of(name: str) -> ModuleSpec | None:
    return getattr(sys.modules.get(name), "__spec__", None)


def _place(found: ModuleSpec | None) -> tuple[str, ...]:
    """Where a module or a package lies."""
    if found is None:
        return ()
    return (str(found.origin),) if found.origin else tuple(map(str, found.submodule_search_locations or ()))


def _places(*folders: Path) -> list[str]:
    """These folders and the working directory, each once."""
    return list(dict.fromkeys(str(folder) for folder in (*map(_absolute, folders), *_working_directory())))


def _absolute(folder: Path) -> Path:
    return folder.resolve()


def _working_directory() -> list[Path]:
    try:
        return [Path.cwd()]
    except OSError:  # it was deleted
        return []
