"""What a function does, as a text that does not change with its comments, docstrings, annotations, layout or place.

The text is of the function's syntax tree. Names of the module that the function reads stand in it as numbered places, and
what they mean is told beside it, so that moving or renaming what is called changes nothing and editing it does. Where no source
is at hand (typed in, made by `exec`, edited on disk since it was loaded) the compiled code stands in.
"""

import ast
import builtins
import dis
import importlib
import importlib.util
import inspect
import linecache
import sys
import sysconfig
from collections.abc import Callable, Iterator, MutableMapping, MutableSequence, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

#: fields of syntax trees that say nothing of what is computed
_SILENT = frozenset({"ctx", "type_comment", "type_ignores", "type_params", "annotation", "returns", "kind"})
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_GLOBAL = frozenset({"LOAD_GLOBAL", "LOAD_NAME"})


@dataclass(frozen=True)
class Described:
    """A function as a text, and what its numbered places mean, in order."""

    text: str
    meanings: tuple[object, ...]


class Unbound:
    """A name that means nothing yet."""


def describe(function: FunctionType) -> Described:
    """The function as text; defaults and closure are not in it, since they are values."""
    code, scope = function.__code__, function.__globals__
    tree = _tree_of(code, scope)
    places = _Places(scope, read_globals(code))
    if tree is None:
        return Described(_compiled(code, places), tuple(places.meanings))
    return Described("".join(_written(tree, places, root=True)), tuple(places.meanings))


class Descriptions:
    """What functions do, each described once while it is at work: for as long as nobody changes the code."""

    def __init__(self) -> None:
        self._found: dict[int, tuple[FunctionType, Described]] = {}

    def of(self, function: FunctionType) -> Described:
        """As `describe`."""
        held = self._found.get(id(function))
        if held is None:
            held = self._found[id(function)] = (function, describe(function))  # kept alive, and so is its id
        return held[1]


def read_globals(code: CodeType) -> frozenset[str]:
    """The names that the code, and functions inside it, look up in their module."""
    found = {
        str(step.argval) for step in dis.get_instructions(code) if step.opname in _GLOBAL and step.argval is not None
    }
    inner = (read_globals(one) for one in code.co_consts if isinstance(one, CodeType))
    return frozenset(found.union(*inner))


# -- the tree of a function ---------------------------------------------------------------------------------------------


def _tree_of(code: CodeType, scope: dict[str, Any]) -> ast.AST | None:
    """The syntax tree that the code was compiled from; None where the source is not at hand, or is another by now."""
    linecache.checkcache(code.co_filename)
    source = "".join(linecache.getlines(code.co_filename, scope))
    if not source:
        return None
    file = _parsed(source, code.co_filename)
    if file is None:
        return None
    trees, codes = file
    alike = [one for one in codes.get(code.co_firstlineno, ()) if _same(one, code)]
    if not alike:
        return None
    found = [tree for tree in trees.get(code.co_firstlineno, ()) if _fits(tree, code)]
    return found[0] if len(found) == 1 else None


@lru_cache(maxsize=256)
def _parsed(source: str, name: str) -> tuple[dict[int, list[ast.AST]], dict[int, list[CodeType]]] | None:
    """The functions of a file by their first line: as trees and as compiled code."""
    try:
        tree = ast.parse(source)
        whole = compile(source, name, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError):
        return None
    trees: dict[int, list[ast.AST]] = {}
    for node in ast.walk(tree):
        if isinstance(node, _FUNCTIONS):
            decorators = getattr(node, "decorator_list", [])
            trees.setdefault(min([node.lineno, *(one.lineno for one in decorators)]), []).append(node)
    codes: dict[int, list[CodeType]] = {}
    for code in _nested(whole):
        codes.setdefault(code.co_firstlineno, []).append(code)
    return trees, codes


def _nested(code: CodeType) -> Iterator[CodeType]:
    for one in code.co_consts:
        if isinstance(one, CodeType):
            yield one
            yield from _nested(one)


def _same(one: CodeType, other: CodeType) -> bool:
    """Whether both were compiled from the same text at the same place."""
    return (
        one.co_name == other.co_name
        and one.co_code == other.co_code
        and one.co_names == other.co_names
        and list(one.co_positions()) == list(other.co_positions())
        and _constants(one) == _constants(other)
    )


def _constants(code: CodeType) -> list[object]:
    return [one.co_code if isinstance(one, CodeType) else (type(one), repr(one)) for one in code.co_consts]


def _fits(tree: ast.AST, code: CodeType) -> bool:
    """Whether the code is that of the tree: by its name; of lambdas, of which a line may have several, by their place."""
    if not isinstance(tree, ast.Lambda):
        return getattr(tree, "name", None) == code.co_name
    body = tree.body
    place = (body.lineno, body.end_lineno, body.col_offset, body.end_col_offset)
    return code.co_name == "<lambda>" and place in set(code.co_positions())


# -- what the names of a module mean --------------------------------------------------------------------------------------


class _Places:
    """The numbered places of a function's text.

    Args:
        scope: the names of its module. names: those that the function reads there.
    """

    def __init__(self, scope: dict[str, Any], names: frozenset[str]) -> None:
        self._scope, self._names = scope, names
        self._numbers: dict[object, int] = {}
        self.meanings: list[object] = []

    def of(self, name: str, attributes: Sequence[str] = ()) -> tuple[str, int]:
        """What is written for a name, and how many of the attributes behind it are in that already.

        A module itself means nothing: what is taken from it does.
        """
        if not self._known(name):
            return name, 0
        meaning, used = self._scope.get(name, Unbound), 0
        while isinstance(meaning, ModuleType) and used < len(attributes):
            owner, meaning, used = meaning.__name__, _member(meaning, attributes[used]), used + 1
            if _runs(owner, meaning):
                meaning = f"{owner}.{attributes[used - 1]}"
        return self._place((name, *attributes[:used]), meaning), used

    def imported(self, name: str, member: str | None, level: int) -> str:
        """What is written for an import inside the function."""
        return self._place((level, name, member), _imported(name, member, level, self._scope))

    def _known(self, name: str) -> bool:
        own = name in self._names and not (name.startswith("__") and name.endswith("__"))
        return own and (name in self._scope or not hasattr(builtins, name))

    def _place(self, written: object, meaning: object) -> str:
        if written not in self._numbers:
            self._numbers[written] = len(self.meanings)
            self.meanings.append(meaning)
        return f"@{self._numbers[written]}"


def _runs(owner: str, value: object) -> bool:
    """Whether this is a table or list of Python's own that changes from process to process, such as `sys.modules`."""
    return owner.partition(".")[0] in sys.stdlib_module_names and isinstance(value, (MutableMapping, MutableSequence))


def _member(module: ModuleType, name: str) -> object:
    try:
        return getattr(module, name)
    except AttributeError:
        return Unbound


def _imported(name: str, member: str | None, level: int, scope: dict[str, Any]) -> object:
    """The module or its member; a text where it is another project's and nobody has loaded it yet."""
    package, importer = str(scope.get("__package__") or ""), str(scope.get("__name__"))
    try:
        whole = importlib.util.resolve_name("." * level + name, package) if level else name
        _bring(whole, scope)
        module = _loaded(whole, importer)
        if module is None:
            return f"{whole}.{member}"
        found = module if member is None else _member(module, member)
        return _loaded(f"{whole}.{member}", importer) if found is Unbound else found
    except Exception:  # what the user's file cannot import it says when it is called
        return Unbound


def _bring(module: str, scope: dict[str, Any]) -> None:
    """Have a module that lies beside the user's file imported as the file itself would (see `zoo.imports`)."""
    own = scope.get("__builtins__")
    its_import: Any = own.get("__import__") if isinstance(own, dict) else None
    if hasattr(its_import, "has") and its_import.has(module):
        its_import(module, scope)


def _loaded(module: str, importer: str) -> ModuleType | None:
    """The module, imported now where it is the user's own; None where nobody has loaded it."""
    if module not in sys.modules and _ours(module, importer):
        importlib.import_module(module)
    return sys.modules.get(module)


def _ours(module: str, importer: str) -> bool:
    """Whether a module is the importer's own project's, which is hashed by its code, or the user's."""
    top = module.partition(".")[0]
    if top == importer.partition(".")[0]:
        return True
    found = importlib.util.find_spec(top)  # of the whole name it would import what is above it
    return found is not None and not is_installed(found.origin)


@lru_cache(maxsize=4096)
def is_installed(file: str | None) -> bool:
    """Whether a file belongs to Python or to an installed package, and is no file of the user's; true without a file."""
    if file is None or file in ("built-in", "frozen"):
        return True
    path = Path(file).resolve()
    if any(part in ("site-packages", "dist-packages") for part in path.parts):
        return True
    return path.is_relative_to(Path(sysconfig.get_path("stdlib")).resolve())


# -- the text -------------------------------------------------------------------------------------------------------------


def _written(node: object, places: _Places, *, root: bool = False) -> Iterator[str]:
    """The tree as text: type by type and field by field."""
    if isinstance(node, list):
        yield "["
        for one in node:
            if not _is_silent(one):
                yield from _written(one, places)
        yield "]"
    elif isinstance(node, ast.AST):
        writer = _WRITERS.get(type(node))
        yield "("
        yield from (
            _function(node, places, root=root) if isinstance(node, _FUNCTIONS) else (writer or _any)(node, places)
        )
        yield ")"
    else:
        yield f"{type(node).__name__} {node!r} "


def _is_silent(node: object) -> bool:
    """Whether it does nothing: `pass`, a docstring or another text that stands by itself."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    return isinstance(node, ast.Pass)


def _any(node: ast.AST, places: _Places) -> Iterator[str]:
    yield f"{type(node).__name__} "
    for name, value in ast.iter_fields(node):
        if name not in _SILENT:
            yield f"{name}="
            yield from _written(value, places)


def _function(node: Any, places: _Places, *, root: bool) -> Iterator[str]:
    """Parameters without annotations, and the body; of the function itself neither its name nor its defaults."""
    arguments = node.args
    yield f"{type(node).__name__} " if root else f"{type(node).__name__} {getattr(node, 'name', '')} "
    for group in (arguments.posonlyargs, arguments.args, arguments.kwonlyargs):
        yield f"[{' '.join(one.arg for one in group)}]"
    yield from (f"*{one.arg} " for one in (arguments.vararg, arguments.kwarg) if one)
    if not root:
        yield from _written([arguments.defaults, arguments.kw_defaults], places)
    yield from _written(getattr(node, "decorator_list", []), places)
    yield from _written(node.body, places)


def _name(node: Any, places: _Places) -> Iterator[str]:
    yield f"Name {places.of(node.id)[0]}"


def _attribute(node: Any, places: _Places) -> Iterator[str]:
    names, below = [node.attr], node.value
    while isinstance(below, ast.Attribute):
        names, below = [below.attr, *names], below.value
    if not isinstance(below, ast.Name):
        yield from _any(node, places)
        return
    written, used = places.of(below.id, names)
    yield f"Name {written}"
    yield from (f".{name}" for name in names[used:])


def _annotated(node: Any, places: _Places) -> Iterator[str]:
    yield "Assign "
    yield from _written([node.target, node.value], places)


def _raised(node: Any, places: _Places) -> Iterator[str]:
    """What kind of error is raised; what it says is prose."""
    error = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
    yield "Raise "
    yield from _written(error, places)


def _asserted(node: Any, places: _Places) -> Iterator[str]:
    yield "Assert "
    yield from _written(node.test, places)


def _import(node: Any, places: _Places) -> Iterator[str]:
    for one in node.names:
        bound = one.asname or one.name.partition(".")[0]
        yield f"Import {bound} {places.imported(one.name, None, 0)} "


def _import_from(node: Any, places: _Places) -> Iterator[str]:
    for one in node.names:
        yield f"Import {one.asname or one.name} {places.imported(node.module or '', one.name, node.level)} "


_WRITERS: dict[type, Callable[[Any, _Places], Iterator[str]]] = {
    ast.Name: _name,
    ast.Attribute: _attribute,
    ast.AnnAssign: _annotated,
    ast.Raise: _raised,
    ast.Assert: _asserted,
    ast.Import: _import,
    ast.ImportFrom: _import_from,
}


def _compiled(code: CodeType, places: _Places) -> str:
    """The same of compiled code."""
    constants = [
        _compiled(one, places) if isinstance(one, CodeType) else _constant(one)
        for one in code.co_consts[int(_has_docstring(code)) :]
    ]
    names = [places.of(name)[0] for name in code.co_names]
    return f"{code.co_code.hex()} {constants} {names} {code.co_varnames} {code.co_freevars}"


def _has_docstring(code: CodeType) -> bool:
    if hasattr(inspect, "CO_HAS_DOCSTRING"):  # since Python 3.13
        return bool(code.co_flags & inspect.CO_HAS_DOCSTRING)
    return not code.co_name.startswith("<") and isinstance(next(iter(code.co_consts), None), str)


def _constant(value: object) -> str:
    if isinstance(value, frozenset):
        return f"frozenset {sorted(map(repr, value))}"
    return f"{type(value).__name__} {value!r}"
