"""What was applied when a model was loaded, in one sentence; the facts themselves are in environment.json.

The facts are plain JSON values under these names, each only where it applies: `mean`, `std`, `resize`, `interpolation`,
`grey`; `made` (what the model was given as), `input`, `precision`, `output`, `classes`, `batch` (how it must be asked);
`weights` (the file), `part`, `stripped`, `left_out` (`count`, and `keys`, the first of them).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from robustbench_lite.errors import cut


def loading_text(told: Mapping[str, Any]) -> str:
    """The sentence; empty where nothing was applied."""
    return "; ".join(_clauses(told))


def loading_rows(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A row a system that something was applied to: what it is called, and the sentence.

    Args:
        environment: of a run, as environment.json holds it.
    """
    systems = environment.get("systems")
    found = []
    for name, told in systems.items() if isinstance(systems, Mapping) else ():
        loading = told.get("loading") if isinstance(told, Mapping) else None
        if isinstance(loading, Mapping) and (text := loading_text(loading)):
            found.append((str(name), text))
    return found


def _clauses(told: Mapping[str, Any]) -> Iterator[str]:
    if "made" in told:
        yield f"given as {told['made']}"
    if "resize" in told:
        yield f"images resized to {'x'.join(map(str, _list(told['resize'])))} ({told.get('interpolation', 'bilinear')})"
    if "grey" in told:
        yield "grey images shown in three channels"
    if "mean" in told and "std" in told:
        yield f"normalised by mean {_numbers(told['mean'])}, std {_numbers(told['std'])}"
    if "input" in told:
        yield f"images given as {told['input']}"
    if "precision" in told:
        yield f"computed in {told['precision']}"
    if "output" in told:
        yield f"logits taken from output{told['output']}"
    if "classes" in told:
        yield f"{told['classes']}"
    if "batch" in told:
        yield f"asked with {told['batch']}"
    if "weights" in told:
        yield _weights(told)


def _weights(told: Mapping[str, Any]) -> str:
    said = f"weights from {cut(told['weights'])}"
    if "part" in told:
        said += f", part {cut(told['part'])}"
    if "stripped" in told:
        said += f", names without {', '.join(repr(cut(one)) for one in _list(told['stripped']))}"
    left = told.get("left_out")
    if isinstance(left, Mapping):
        keys = _list(left.get("keys"))
        more = ", …" if int(left.get("count", 0)) > len(keys) else ""
        said += f", {left.get('count')} left out ({cut(', '.join(map(str, keys)))}{more})"
    return said


def _numbers(values: Any) -> str:
    return (
        "("
        + ", ".join(f"{value:g}" if isinstance(value, (int, float)) else str(value) for value in _list(values))
        + ")"
    )


def _list(values: Any) -> Sequence[Any]:
    return values if isinstance(values, (list, tuple)) else [values]
