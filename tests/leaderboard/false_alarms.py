"""How often the gate cries when nothing has changed but the seed of the attacks, and how often it sees a loss; measured.

    python tests/leaderboard/false_alarms.py --folder rbl-runs/false-alarms

Two checkpoints for digits are trained, evaluated with seed 0, and again with each seed from 1 on: same weights, same images.
Every run goes through `judge` against the first one. Then the same with 1,000 digits (test images, and training images to
fill up), where 30 of the images that are left in a re-run count as broken: a loss of three points under real noise of seeds.
A run that is there is not computed again.
"""

import argparse
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from robustbench_lite import data
from robustbench_lite.leaderboard.board import Board
from robustbench_lite.leaderboard.build import board_of
from robustbench_lite.leaderboard.columns import WORST
from robustbench_lite.leaderboard.comparison import Comparison, Limits
from robustbench_lite.leaderboard.gate import judge
from robustbench_lite.leaderboard.samples import packed, unpacked
from robustbench_lite.run.evaluate import run
from robustbench_lite.run.plan import Plan

RECIPES = {"plain": ["none"], "trained": ["adversarial-training", "--threat", "Linf:0.1"]}
THREAT = 'defenses = ["none"]\nthreats = ["Linf:0.1"]\n'
LOST = 30


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--folder", type=Path, default=Path("rbl-runs/false-alarms"))
    options.add_argument("--runs", type=int, default=100)
    given = options.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    weights = {name: checkpoint(name, given.folder) for name in RECIPES}
    unchanged(given.folder / "unchanged", [str(path) for path in weights.values()], given.runs)
    planted(given.folder, str(weights["trained"]), given.runs)


def checkpoint(name: str, folder: Path) -> Path:
    path = folder / f"{name}.safetensors"
    if not path.exists():
        command = [sys.executable, "-m", "robustbench_lite", "train", "--model", "small-cnn", "--dataset", "digits"]
        subprocess.run([*command, "--defense", *RECIPES[name], "--out", str(path), "--quiet"], check=True)
    return path


def boards(plan: Plan, folder: Path, runs: int) -> Iterator[Board]:
    """Of seed 0, and of so many other seeds."""
    for seed in range(runs + 1):
        place = folder / f"seed-{seed}"
        run(replace(plan, seed=seed), out=place)
        yield board_of(place)


def unchanged(folder: Path, weights: list[str], runs: int) -> None:
    models = ", ".join(f'"checkpoint:{path}"' for path in weights)
    attacks = 'attacks = ["noise", "pgd:steps=10,restarts=1", "square:queries=300"]\n'
    plan = Plan.from_toml(f'dataset = "digits"\nmodels = [{models}]\n{THREAT}{attacks}samples = "all"\n', "the plan")
    base, *others = boards(plan, folder, runs)
    for limits in (Limits(), Limits(flags="any")):
        found = [judge(base, board, limits) for board in others]
        cried = sum(bool(one.alarms) for one in found)
        kinds = Counter(kind_of(alarm) for one in found for alarm in one.alarms)
        print(
            f"unchanged, n = 450, --flags {limits.flags}: {cried} of {runs} cry over {found[0].tests} tests: {dict(kinds)}"
        )
        notes = Counter(
            note.split("the check ")[1].split(",")[0] for one in found for note in one.notes if "the check" in note
        )
        print("  fired anew, and may be chance:", dict(notes))
    worst = [board.rows["worst_case"].to_numpy() for board in (base, *others)]
    print("  worst case over the seeds, least and most:", np.min(worst, axis=0), np.max(worst, axis=0))


def planted(folder: Path, weights: str, runs: int) -> None:
    file = folder / "digits-1000.npz"
    if not file.exists():
        parts = [(data.load("digits", split), count) for split, count in (("test", 450), ("train", 550))]
        x = np.concatenate([part.batch(range(count)).numpy() for part, count in parts])
        y = np.concatenate([part.labels_at(range(count)).numpy() for part, count in parts])
        np.savez(file, x=x, y=y)
    head = f'dataset = "npz:{file}"\nmodels = ["checkpoint:{weights}"]\n'
    attacks = 'attacks = ["noise", "pgd:steps=10,restarts=1"]\n'
    plan = Plan.from_toml(f'{head}{THREAT}{attacks}samples = "all"\n', "the plan")
    base, *others = boards(plan, folder / "planted", runs)
    caught = cried = 0
    for number, board in enumerate(others):
        cried += bool(judge(base, board, Limits()).alarms)
        alarms = judge(base, without(board, np.random.default_rng(number)), Limits()).alarms
        caught += "less robust" in [alarm.kind for alarm in alarms]
    print(f"n = 1,000: {cried} of {runs} cry as they are; with {LOST} images lost {caught} of {runs} are caught")


def without(board: Board, generator: np.random.Generator) -> Board:
    """The board with so many of the images that its worst case left, broken."""
    (row,), samples = board.rows.to_dict("records"), board.samples.copy()
    own = samples["attack"] == WORST
    left = unpacked(str(samples.loc[own, "left"].iloc[0]), int(row["n"]))
    left[generator.choice(np.flatnonzero(left), LOST, replace=False)] = False
    samples.loc[own, "left"] = packed(left)
    return replace(board, rows=board.rows.assign(worst_case=left.mean()), samples=samples)


def kind_of(alarm: Comparison) -> str:
    return alarm.kind if alarm.kind != "flag" else f"flag {alarm.what if alarm.what != 'flag' else alarm.how}"


if __name__ == "__main__":
    main()
