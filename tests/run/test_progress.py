"""How far a cell is: told by the engine, never part of a number."""

import tempfile
from pathlib import Path

import pandas as pd
import pytest
import torch
from toys import Cascade, Climb, affine, run, samples, two_layers

from robustbench_lite.attack import Attack, Cost
from robustbench_lite.cli.progress import Bars
from robustbench_lite.run import engine, progress
from robustbench_lite.run.evaluate import evaluate
from robustbench_lite.run.evaluate import run as evaluate_plan
from robustbench_lite.run.plan import Plan
from robustbench_lite.run.progress import CellProgress, Standing
from robustbench_lite.run.reporter import CellEnd, Silent
from robustbench_lite.run.shapes import Shapes
from robustbench_lite.threat import Threat

Told = tuple[str, int, int, int, int, float]


class Listening(Silent):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[Told] = []
        self.ends: list[CellEnd] = []
        self.began: list[str] = []

    def begin(self, text: str, total: int) -> None:
        self.began.append(text)

    def progress(self, stage: str, step: int, steps: int, broken: int, left: int, share: float) -> None:
        self.told.append((stage, step, steps, broken, left, share))

    def end(self, cell: CellEnd) -> None:
        self.ends.append(cell)


@pytest.fixture
def every_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports are as many as there are turns, however fast they are."""
    monkeypatch.setattr(progress, "EVERY", 0.0)


@pytest.mark.usefixtures("every_turn")
def test_a_cascade_tells_stage_step_broken_left_and_the_share_that_is_done() -> None:
    system, heard = two_layers(), Listening()
    x, y, _ = samples(system, 64)
    result = evaluate(system, x, y, attacks=Cascade(), threat="Linf:0.03", reporter=heard, diagnostics=False)
    stages = list(dict.fromkeys(told[0] for told in heard.told))
    assert stages == [str(stage) for stage in Cascade().stages()]
    shares = [told[-1] for told in heard.told]
    assert shares[0] == 0.0
    assert shares == sorted(shares)
    assert 0.5 < shares[-1] <= 1.0
    assert {told[2] for told in heard.told} == {2, 4, 12}
    assert all(0 <= step <= steps for _, step, steps, *_ in heard.told)
    assert {told[4] for told in heard.told if told[0] == stages[0]} >= {64}
    broken = [told[3] for told in heard.told]
    assert broken == sorted(broken)
    assert broken[-1] <= int(result.records["broken"].sum())
    assert all(told[3] + told[4] <= 64 for told in heard.told)


@pytest.mark.usefixtures("every_turn")
def test_a_single_attack_has_no_stage_to_tell() -> None:
    system, heard = two_layers(), Listening()
    x, y, _ = samples(system, 20)
    evaluate(system, x, y, attacks=Climb(steps=5), threat="Linf:0.01", reporter=heard, diagnostics=False)
    assert {told[0] for told in heard.told} == {""}
    assert max(told[1] for told in heard.told) >= 4


@pytest.mark.usefixtures("every_turn")
def test_no_number_depends_on_who_listens() -> None:
    system = two_layers()
    x, y, _ = samples(system, 64)
    silent, heard = (
        evaluate(system, x, y, attacks=Cascade(), threat="Linf:0.03", reporter=who, diagnostics=False).records
        for who in (Silent(), Listening())
    )
    pd.testing.assert_frame_equal(silent, heard)


def test_it_tells_a_few_times_a_second_however_many_turns_there_are() -> None:
    now, told, asked = [0.0], list[Told](), [0]

    def standing() -> Standing:
        asked[0] += 1
        return Standing(step=1, steps=10, left=5, done=1, todo=9)

    one = CellProgress(lambda *values: told.append(values), clock=lambda: now[0])
    one.open([Climb(steps=10, restarts=1)], 10)
    for turn in range(1000):
        now[0] = turn / 1000
        one.turn(standing)
    assert len(told) == asked[0] == 4  # at 0, and every quarter of a second
    assert told[0] == ("", 1, 10, 0, 5, 0.1)


def test_the_share_weighs_stages_by_their_queries() -> None:
    told: list[Told] = []
    one = CellProgress(lambda *values: told.append(values), clock=lambda: 0.0)
    # of two samples the first stage costs at most 2 x (10 + 2 x 10) queries, the second 2 x 2 x (20 + 2 x 20)
    one.open([Climb(steps=10, restarts=1), Climb(steps=20, restarts=2)], 10)
    one.begin(0, waiting=0)
    one.turn(lambda: Standing(step=5, steps=10, left=2, done=10, todo=10))
    assert told[0][-1] == pytest.approx(30 / (60 + 240))


def test_an_attack_that_does_not_say_what_it_costs_is_measured_in_steps() -> None:
    class Free(Climb):
        def cost(self, num_classes: int) -> Cost:
            raise NotImplementedError

    told: list[Told] = []
    one = CellProgress(lambda *values: told.append(values), clock=lambda: 0.0)
    one.open([Free(steps=4, restarts=1)], 10)
    one.turn(lambda: Standing(step=1, steps=4, left=1, done=1, todo=3))
    assert told[0][-1] == 0.25


@pytest.mark.parametrize("side_by_side", [1, 2])
@pytest.mark.parametrize("stop_early", [True, False])
def test_rows_that_are_judged_at_once_end_as_those_that_wait(
    side_by_side: int, stop_early: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = affine()
    x, y, _ = samples(system, 50)
    attack, threat = Climb(restarts=3, side_by_side=side_by_side), Threat(norm="Linf", eps=0.08)
    shapes = Shapes(batch=64, floor=64)
    waiting = run(attack, system, x, y, threat, stop_early=stop_early, shapes=shapes)
    verdicts = 0
    judge = engine.judge

    def counted(*arguments: object, **options: object) -> object:
        nonlocal verdicts
        verdicts += 1
        return judge(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(engine, "judge", counted)
    run(attack, system, x, y, threat, stop_early=stop_early, shapes=shapes)
    usual, verdicts = verdicts, 0
    monkeypatch.setattr(engine, "LONGEST_WAIT", -1.0)
    monkeypatch.setattr(engine, "VERDICTS", -1)
    at_once = run(attack, system, x, y, threat, stop_early=stop_early, shapes=shapes)
    if stop_early:
        assert verdicts > usual
    for name in ("sample", "adv", "forwards", "backwards", "lane", "break_forward", "target"):
        assert torch.equal(getattr(waiting, name), getattr(at_once, name)), name
    assert torch.equal(waiting.verdict.broken, at_once.verdict.broken)
    assert torch.equal(waiting.verdict.norms, at_once.verdict.norms)


def test_the_end_of_a_cell_tells_its_accuracy_and_that_of_all_so_far() -> None:
    system, heard = two_layers(), Listening()
    x, y, _ = samples(system, 40)
    attacks: list[Attack] = [Climb(steps=1, restarts=1), Climb(steps=12, restarts=2)]
    result = evaluate(system, x, y, attacks=attacks, threat="Linf:0.03", reporter=heard, diagnostics=False)
    first, second = heard.ends
    accuracy = result.table.set_index("attack")["robust_acc"]
    assert (first.robust, second.robust) == pytest.approx([accuracy[str(attack)] for attack in attacks])
    assert first.worst is None
    assert second.worst == pytest.approx(accuracy["worst-case"])
    assert (first.total, first.ended, first.broken) == (40, 40, int((1 - accuracy[str(attacks[0])]) * 40 + 0.5))
    assert first.text == f"{attacks[0]} on two-layers, Linf:0.03" == heard.began[0]
    assert first.seconds is not None


def test_cells_of_other_processes_are_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = Plan(models=("linear",), defenses=("none",), attacks=("noise:draws=2", "fgsm"), samples="first:20")
    with Bars(cells=2, log=tmp_path / "log") as bars:
        result = evaluate_plan(plan, out=tmp_path / "run", jobs=2, reporter=bars)
    accuracy = result.table.set_index("attack")["robust_acc"]
    for said in (capsys.readouterr().err, (tmp_path / "log").read_text(encoding="utf-8")):
        for attack in plan.attacks:
            assert said.count(f"{attack} on linear, Linf:0.2: ") == 1
            assert f"{attack} on linear, Linf:0.2: robust accuracy {100 * accuracy[attack]:.1f} %" in said


def test_a_training_says_of_which_system_it_is() -> None:
    heard: list[str] = []

    class Trained(Silent):
        def training(self, done: int, total: int, text: str) -> None:
            heard.append(text)

    plan = Plan(
        models=("linear",), defenses=("none",), attacks=("noise:draws=2",), samples="first:5", diagnostics=False
    )
    with tempfile.TemporaryDirectory() as cache, pytest.MonkeyPatch.context() as patched:
        patched.setenv("RBL_CACHE", cache)
        evaluate_plan(plan, reporter=Trained())
    assert heard
    assert all(text.startswith("linear: epoch ") for text in heard)
