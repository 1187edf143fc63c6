"""`rbl evaluate`: run a plan and print its table."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustbench_lite.cli.options import DataRoot, Log, Quiet, Verbose, option
from robustbench_lite.cli.printing import (
    FORMATS,
    complain,
    one_of,
    show_checks,
    show_claims,
    show_detection,
    show_physical,
    show_place,
    show_reconstruction,
    show_results,
)
from robustbench_lite.cli.progress import Bars
from robustbench_lite.cli.stopping import stoppable
from robustbench_lite.errors import UserError
from robustbench_lite.run.plan import Plan

if TYPE_CHECKING:
    from robustbench_lite.run.evaluate import Result

EXAMPLES = """\b
Examples:
  rbl evaluate
  rbl evaluate --model small-cnn --defense none --attack pgd:steps=40 --threat Linf:0.1
  rbl evaluate --config rbl-runs/my-run/plan.toml --samples first:50 --format csv > table.csv

\b
--model, --defense, --attack and --threat may be given several times.
Names: rbl list attacks (defenses, models, datasets); their options: rbl show attack pgd.
Exit codes: 0 done, 2 a mistake in what was given, 3 some cell failed, 130 Ctrl-C.
"""
CELL_FAILED, STOPPED = 3, 130
_PLAN = Plan()


def evaluate(
    config: Annotated[
        Path | None, option("FILE", "A plan (TOML), such as the plan.toml of a run; options given besides override it.")
    ] = None,
    task: Annotated[
        str | None,
        option(
            "classify|reconstruction", "What is attacked: a class, or what comes back of an image.", default=_PLAN.task
        ),
    ] = None,
    dataset: Annotated[str | None, option("NAME", "What is classified.", default=_PLAN.dataset)] = None,
    model: Annotated[list[str] | None, option("NAME", "The classifiers.", default=_PLAN.models)] = None,
    defense: Annotated[
        list[str] | None, option("NAME", "What defends them; + chains defenses.", default=_PLAN.defenses)
    ] = None,
    attack: Annotated[list[str] | None, option("NAME", "What attacks them.", default=_PLAN.attacks)] = None,
    threat: Annotated[
        list[str] | None,
        option(
            "NORM:EPS",
            "How far an attack may go: Linf:8/255, L2:0.5, L1:12, L0:10; without EPS the smallest norm is sought;"
            " towards a class Linf:0.1,goal=targeted,target=3 (or random, next, second, least-likely, all).",
            default=_PLAN.threats,
        ),
    ] = None,
    samples: Annotated[
        str | None,
        option(
            "N|first:N|all",
            "Which test images: a class-balanced random subset, the first ones, or all."
            " [default: 300 of digits, all of npz and folder, 1000 of the others]",
        ),
    ] = None,
    slice_seed: Annotated[int | None, option("N", "Draws the random subset.", default=_PLAN.slice_seed)] = None,
    seed: Annotated[int | None, option("N", "Of attacks and trainings.", default=_PLAN.seed)] = None,
    device: Annotated[str | None, option("auto|cpu|cuda[:I]", "Where to compute.", default=_PLAN.device)] = None,
    batch_size: Annotated[str | None, option("auto|N", "Images in one pass of the model.", default="auto")] = None,
    precision: Annotated[
        str | None,
        option(
            "float32|bfloat16|auto", "Of the search; what it finds is confirmed in float32.", default=_PLAN.precision
        ),
    ] = None,
    data_root: DataRoot = None,
    download: Annotated[
        bool | None, option(None, "Fetch a dataset that is not there.", "--download/--no-download", default="no")
    ] = None,
    allow_pickle: Annotated[
        bool | None,
        option(
            None,
            "Load weights from pickles, without running code.",
            "--allow-pickle/--no-allow-pickle",
            default="no",
        ),
    ] = None,
    allow_code: Annotated[
        bool | None,
        option(
            None,
            "Load files that run code of their own: pickled networks, exported programs.",
            "--allow-code/--no-allow-code",
            default="no",
        ),
    ] = None,
    early_exit: Annotated[
        bool | None,
        option(None, "Leave an image alone once it is broken.", "--early-exit/--no-early-exit", default="yes"),
    ] = None,
    diagnostics: Annotated[
        bool | None,
        option(None, "Check the numbers with cheap probes.", "--diagnostics/--no-diagnostics", default="yes"),
    ] = None,
    examples: Annotated[
        str | None, option("N|all", "Adversarial images to keep, for each cell.", default=_PLAN.examples)
    ] = None,
    physical: Annotated[
        str | None,
        option("SPEC", "A camera before the system: print-photo, rotation=±30,scale=0.7..1.3, FILE.toml."),
    ] = None,
    eot: Annotated[
        int | None,
        option(
            "N",
            "Draws of a random system that a query averages over. [default: 10 with --physical or a random defense]",
        ),
    ] = None,
    verdict_draws: Annotated[
        int | None,
        option("N", "How often a random system is judged. [default: 100 with --physical, else 20]"),
    ] = None,
    adaptive: Annotated[
        str | None,
        option(
            "both|yes|no",
            "Who attacks a defense that hides something: who knows it, who does not.",
            default=_PLAN.adaptive,
        ),
    ] = None,
    ablate: Annotated[
        bool | None, option(None, "Also chains of defenses without each part.", "--ablate/--no-ablate", default="no")
    ] = None,
    jobs: Annotated[
        str,
        option(
            "auto|N",
            "Processes that share the cells. [default: one a core for tiny images on a CPU and a long plan, else 1]",
        ),
    ] = "auto",
    out: Annotated[Path | None, option("DIR", "Where results go.", default="rbl-runs/<digest of the plan>")] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Compute everything again, also what is in DIR already.")
    ] = False,
    format: Annotated[str, option("table|csv|json|markdown", "Of the table on stdout.", default="table")] = "table",
    quiet: Quiet = False,
    log: Log = None,
    verbose: Verbose = False,
) -> None:
    """Attack defended models and print how robust each of them is.

    Every model is combined with every defense, and every attack runs on it under every threat. What is computed is kept
    as it comes: a run that was stopped goes on where it was when it is started again.
    """
    form = one_of("format", format, FORMATS)
    plan = Plan.of_task(task or _PLAN.task) if config is None else Plan.load(config)
    plan = plan.with_options(
        {
            "task": task,
            "dataset": dataset,
            "models": tuple(model or ()),
            "defenses": tuple(defense or ()),
            "attacks": tuple(attack or ()),
            "threats": tuple(threat or ()),
            "samples": samples,
            "slice_seed": slice_seed,
            "seed": seed,
            "device": device,
            "precision": precision,
            "data_root": None if data_root is None else str(data_root),
            "download": download,
            "allow_pickle": allow_pickle,
            "allow_code": allow_code,
            "early_exit": early_exit,
            "diagnostics": diagnostics,
            "examples": examples,
            "physical": physical,
            "eot": eot,
            "verdict_draws": verdict_draws,
            "adaptive": adaptive,
            "ablate": ablate,
        }
    )
    if batch_size is not None:
        plan = replace(plan, batch_size=_count("batch_size", batch_size))
    many = _count("jobs", jobs)
    bars = Bars(cells=_cells(plan), quiet=quiet, log=log, verbose=verbose)
    result = _run(plan, out or Path("rbl-runs") / plan.digest, bars, fresh=fresh, jobs=many)
    if not quiet:
        _show(result, form)
    if result.failed:
        _complain_about(result)
        raise typer.Exit(CELL_FAILED)


def _count(name: str, text: str) -> int | None:
    """A number from 1, or None for `auto`."""
    if text.lower() == "auto":
        return None
    if not text.isdecimal() or not int(text):
        raise UserError(f"{name}={text}; accepted: auto, or 1 and more")
    return int(text)


def _cells(plan: Plan) -> int:
    twice = 2 if plan.physical is not None and plan.eot != 0 else 1  # an attack by labels runs once, and counts less
    return len(plan.models) * len(plan.chains) * len(plan.threats) * len(plan.attacks) * twice


def _run(plan: Plan, out: Path, bars: Bars, *, fresh: bool, jobs: int | None) -> "Result":
    again = "the same command without --fresh" if fresh else "the same command"
    with stoppable(f"what was computed is kept in {out}, and {again} goes on from there"), bars:
        from robustbench_lite.run.evaluate import run

        return run(plan, out=out, reporter=bars, fresh=fresh, jobs=jobs)


def _show(result: "Result", form: str) -> None:
    aside = form != "table"  # then stdout is for the table alone
    show_results(result.table, result.comparisons, form, stages=result.stages)
    show_claims(result.claims, result.environment, stderr=aside)
    show_detection(result.records, stderr=aside)
    show_physical(result.physical, stderr=aside)
    show_reconstruction(result.reconstruction, stderr=aside)
    show_checks(result.diagnostics, stderr=aside)
    assert result.out is not None
    show_place(result.out, stderr=aside)


def _complain_about(result: "Result") -> None:
    cells = "1 cell" if len(result.failed) == 1 else f"{len(result.failed)} cells"
    complain(f"{cells} of {len(result.timings)} failed; what they found before is kept:")
    for cell, why in result.failed.items():
        complain(f"  {cell}: {why}")
