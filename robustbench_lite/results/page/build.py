"""The page itself: sections in the order in which a reader asks, put into one template.

Everything is in the file: style, script, charts, images. Text of the run comes in through the template's escaping, and
the page forbids itself any script or style but its own, and any request (Content-Security-Policy by digest).
"""

from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined

from robustbench_lite import __version__
from robustbench_lite.escaping import printable_lines
from robustbench_lite.hashing import integrity
from robustbench_lite.results.claims import NOTES
from robustbench_lite.results.grid import INTERVALS
from robustbench_lite.results.loading import loading_rows
from robustbench_lite.results.metrics import WORST_CASE
from robustbench_lite.results.page import panels, tables
from robustbench_lite.results.page.checks import checked, explanations
from robustbench_lite.results.page.frames import frames
from robustbench_lite.results.page.pictures import strips, uri
from robustbench_lite.results.run_data import RunData
from robustbench_lite.specs import system_name

PAGE, STYLE, SCRIPT = "page.html.j2", "page.css", "page.js"
#: what pictures that are taken over show
_PICTURES = {
    "examples.png": "Clean images, the perturbations enlarged, and the adversarial images, with labels and answers: of each"
    " attack and defense the first kept example, a broken one where there is one.",
    "reconstruction.png": "Source images, adversarial images and what comes back of them, beside the targets.",
}


def page(run: RunData) -> str:
    """The whole page as HTML. The same run gives the same text.

    Args:
        run: finished or not; what it lacks, the page says or leaves out.
    """
    style, script = _resource(STYLE), _resource(SCRIPT)
    every = panels.claimed_and_actual, panels.security_curves, panels.over_queries, panels.over_time, panels.detectors
    charts = {chart.__name__: chart(run) for chart in every}
    shown, left_out = strips(run)
    html = _template().render(
        title=_title(run),
        facts=list(_facts(run)),
        open_cells=_open_cells(run),
        main=tables.compared(run),
        details=tables.by_attack(run),
        frames=frames(run),
        charts=charts,
        most=panels.MOST,
        claimed_only=any(map(run.claimed.only, run.summary.to_dict("records"))),
        notes={"intervals": INTERVALS, "claims": NOTES},
        datasets=list(run.summary["dataset"].unique()),
        threats=list(run.summary["threat"].unique()),
        explanations=explanations(),
        checked=checked(run.diagnostics),
        pictures=[(uri(png), _PICTURES[name]) for name, png in run.pictures.items()],
        strips=shown,
        strips_left_out=left_out,
        plan=run.plan,
        loaded=loading_rows(run.environment),
        environment=list(_flat(run.environment)),
        version=__version__,
        style=style,
        script=script,
        policy=f"default-src 'none'; img-src data:; style-src '{integrity(style)}'; script-src '{integrity(script)}'",
    )
    return printable_lines(html)


@cache
def _resource(name: str) -> str:
    """A file of this package."""
    return (files(__package__) / name).read_text(encoding="utf-8")


def _template() -> Any:
    loader = DictLoader({PAGE: _resource(PAGE)})
    options: dict[str, Any] = {"trim_blocks": True, "lstrip_blocks": True, "undefined": StrictUndefined}
    return Environment(loader=loader, autoescape=True, **options).get_template(PAGE)


def _title(run: RunData) -> str:
    count = len(run.summary[["dataset", "model", "defense"]].drop_duplicates())
    on = ", ".join(map(str, run.summary["dataset"].unique()))
    return f"Robustness of {count} system{'s' if count > 1 else ''} on {on}"


def _facts(run: RunData) -> Iterator[tuple[str, str]]:
    """What the head says of the run."""
    summary, told = run.summary, run.environment
    worst = summary.loc[summary["attack"] == WORST_CASE, "n"]
    low, high = int(worst.min()), int(worst.max())
    yield "test images", f"{low}" if low == high else f"{low} to {high}"
    attacks = summary.loc[summary["attack"] != WORST_CASE, "attack"]
    for name, values in (("models", summary["model"]), ("defenses", summary["defense"])):
        yield name, _list(values.unique())
    yield "attacks", _list(attacks.unique())
    yield "threats", _list(summary["threat"].unique())
    for name, key in (("started", "started"), ("device", "device"), ("robustbench-lite", "robustbench-lite")):
        if told.get(key):
            yield name, str(told[key])


def _list(names: Any) -> str:
    """A few names as they are, of many the first ones."""
    few = [str(name) for name in names[:6]]
    return ", ".join(few) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _open_cells(run: RunData) -> list[str]:
    """Attacks on a system that have no verdict for some sample, and why as far as it is known."""
    summary = run.summary[(run.summary["failed"] > 0) & (run.summary["attack"] != WORST_CASE)]
    open_ = {line.removeprefix("unfinished: ").rpartition(": ")[0] for line in run.unfinished}
    told = []
    for row in summary.to_dict("records"):
        cell = f"{row['attack']} on {system_name(row['model'], row['defense'])}, {row['threat']}"
        if cell not in open_:
            why = f": {row['failure']}" if row["failure"] else ""
            told.append(f"{cell}: {row['failed']} of {row['n']} images without a verdict{why}")
    return [*told, *run.unfinished]


def _flat(told: Mapping[str, Any], head: str = "") -> Iterator[tuple[str, str]]:
    """Nested facts as lines: `packages / torch`."""
    for name, value in told.items():
        path = f"{head} / {name}" if head else str(name)
        if isinstance(value, Mapping):
            yield from _flat(value, path)
        else:
            yield path, "-" if value is None else str(value)
