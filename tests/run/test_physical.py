"""A run behind a camera: two adversaries, a verdict over draws that nobody has seen, and what is measured of the examples."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from toys import Climb, affine, samples, two_layers

import robustbench_lite as rbl
from robustbench_lite.attack import Goal, Needs
from robustbench_lite.errors import UserError
from robustbench_lite.objectives import cross_entropy
from robustbench_lite.oracle import EOT, Oracle
from robustbench_lite.physical import Camera
from robustbench_lite.randomness import Draws
from robustbench_lite.results.physical import DISTANCES, YAWS, destruction
from robustbench_lite.results.statistics import clopper_pearson
from robustbench_lite.run.evaluate import Result
from robustbench_lite.run.output import read_physical, read_run
from robustbench_lite.run.plan import Plan
from robustbench_lite.system import System
from robustbench_lite.threat import Threat

QUIET: dict[str, Any] = {"diagnostics": False, "verdict_draws": 20}
SHAKY = "rotation=±25,scale=0.8..1.2,noise=0.05"


def evaluated(system: System, count: int = 40, **options: Any) -> Result:
    x, y, _ = samples(system, count)
    given: dict[str, Any] = {"attacks": "pgd:steps=6,restarts=1", "threat": "Linf:0.05", **QUIET, **options}
    return rbl.evaluate(system, x, y, **given)


@pytest.fixture(scope="module")
def shaky() -> Result:
    return evaluated(two_layers(), physical=SHAKY, eot=4)


def test_every_attack_runs_blind_and_by_eot_and_the_rows_are_told_apart(shaky: Result) -> None:
    plain, eot = "pgd:steps=6,restarts=1", "pgd:steps=6,restarts=1,eot=4"
    assert shaky.table["attack"].tolist() == [plain, eot, "worst-case"]
    assert shaky.table["adaptive"].tolist() == [False, True, True]
    assert set(shaky.table["threat"]) == {f"Linf:0.05 @ {SHAKY}"}
    assert shaky.records.groupby("attack")["key"].nunique().tolist() == [1, 1]
    assert shaky.records["key"].nunique() == 2
    attacked = shaky.records[shaky.records["reason"] == ""]
    cost = attacked.groupby("attack")["forwards"].max()
    assert (cost[plain], cost[eot]) == (6, 24)
    assert set(attacked["draws"]) == {20}
    assert ((attacked["break_rate"] * 20 - (attacked["break_rate"] * 20).round()).abs() < 1e-9).all()
    assert (attacked["broken"] == (attacked["break_rate"] > 0.5)).all()
    assert (attacked["linf"] <= 0.05 * (1 + 1e-6) + 1e-7).all()  # the threat is about the image before the camera


def test_eot_breaks_more_draws_than_an_attack_that_does_not_know_the_camera() -> None:
    """On real digits: the same steps, the same images, fresh draws."""
    result = rbl.evaluate(
        "linear", dataset="digits", defense="none", samples="first:60", attacks="pgd:steps=15,restarts=1",
        threat="Linf:0.15", physical="rotation=±35,translation=±0.15,scale=0.8..1.2", eot=8, **QUIET,
    )  # fmt: skip
    shown = result.physical.set_index("attack")
    blind, eot = shown.iloc[1], shown.iloc[2]
    assert shown.index[0] == "clean"
    assert eot["adversariality"] > blind["adversariality"] + 0.03
    assert eot["accuracy"] == pytest.approx(1 - eot["adversariality"])
    assert eot["destruction"] < blind["destruction"]
    assert blind["right_without_camera"] <= eot["right_without_camera"]  # what each of them was made for


def test_a_camera_that_changes_nothing_destroys_nothing() -> None:
    result = evaluated(two_layers(), physical="none", eot=0)
    clean, pgd = (row for _, row in result.physical.iterrows())
    assert (clean["accuracy"], clean["right_without_camera"], clean["destroyable"]) == (1, 1, 0)
    assert np.isnan(clean["destruction"])
    assert pgd["destruction"] == 0
    assert pgd["destroyable"] > 5
    assert (pgd["destruction_low"], pgd["destruction_high"]) == pytest.approx(clopper_pearson(0, pgd["destroyable"]))
    assert pgd["adversariality"] == pytest.approx(1 - pgd["right_without_camera"])
    bare = evaluated(two_layers(), early_exit=False)
    assert result.records["broken"].tolist() == bare.records["broken"].tolist()


def test_one_draw_of_a_camera_that_changes_nothing_is_the_plain_attack() -> None:
    """EOT with k = 1 and t = identity, step by step."""
    x, y, draws = samples(two_layers(), 12)
    system, threat, goal = two_layers(), Threat(norm="Linf", eps=0.05), Goal(y=y)
    still = system.with_random_purifier(Camera().photograph, name="camera")
    one = Oracle(system, Needs.GRADIENTS, x, goal, threat, draws).query(x, cross_entropy)
    other = Oracle(still, Needs.GRADIENTS, x, goal, threat, draws, eot=EOT(draws=1)).query(x, cross_entropy)
    assert one.grads is not None
    assert other.grads is not None
    assert torch.equal(one.grads, other.grads)
    assert torch.equal(one.values, other.values)


def test_an_expectation_is_that_of_the_objective_and_most_draws_decide_what_is_broken() -> None:
    """The mean of ln p, not ln p of the mean logits; and every query has its own draws."""
    system = two_layers()
    x, y, draws = samples(system, 12)
    threat, goal = Threat(norm="Linf", eps=0.05), Goal(y=y)
    camera = Camera(rotation=(-60, 60), noise=(0.1, 0.3))
    behind = system.with_random_purifier(camera.photograph, name="camera")
    oracle = Oracle(behind, Needs.GRADIENTS, x, goal, threat, draws, eot=EOT(draws=5), watch=False)
    first, second = oracle.query(x, cross_entropy), oracle.query(x, cross_entropy)
    looks = [system(camera.photograph(x, draws, number)) for number in range(10)]
    values = torch.stack([cross_entropy(look, goal) for look in looks])
    torch.testing.assert_close(first.values[0], values[:5].mean(0))
    torch.testing.assert_close(second.values[0], values[5:].mean(0))
    wrong = torch.stack([look.prediction() != y for look in looks[:5]])
    assert torch.equal(first.adversarial, wrong.sum(0) > 2)
    assert not bool(oracle.ledger.found.any())


def test_what_destroys_every_example_has_rate_one_and_nothing_to_destroy_has_none() -> None:
    assert destruction(np.array([True] * 4 + [False]), np.array([1.0, 1, 1, 1, 0]))[0] == 1
    rate, low, high, count = destruction(np.zeros(3, dtype=bool), np.ones(3))
    assert np.isnan([rate, low, high]).all()
    assert count == 0
    rate, low, high, count = destruction(np.array([True, True, True, False]), np.array([0.5, 0.25, 0, 1]))
    assert (rate, count) == (0.25, 3)
    assert low == pytest.approx(clopper_pearson(0, 3)[0])
    assert high == pytest.approx(clopper_pearson(1, 3)[1])


def test_a_camera_that_shows_the_clean_image_instead_destroys_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """T(x') = x: grey out the perturbation by rounding it away."""

    def rounded(self: Camera, x: Tensor, draws: Draws | None, index: Tensor | int = 0) -> Tensor:
        return (x * 2).round() / 2

    monkeypatch.setattr(Camera, "photograph", rounded)
    system = two_layers()
    x, _, _ = samples(system, 40)
    x = (x * 2).round() / 2  # 0, 0.5 and 1, from which less than 0.25 leads back
    y = system(x).prediction()
    result = rbl.evaluate(system, x, y, attacks="pgd:steps=6,restarts=1", threat="Linf:0.1", physical="none", **QUIET)
    blind = result.physical.iloc[1]
    assert blind["destroyable"] > 5
    assert (blind["destruction"], blind["accuracy"]) == (1, 1)
    assert not result.records[result.records["reason"] == ""]["broken"].any()


def test_every_image_that_is_right_without_a_camera_is_measured_also_where_the_camera_ruins_it() -> None:
    """Kurakin's rate is over C(x) without a camera: leaving out what the camera itself breaks would raise it."""
    system = two_layers()
    result = evaluated(system, physical="rotation=90..180,noise=0.2", eot=2)
    settled = (result.records.query("attack == 'pgd:steps=6,restarts=1'")["reason"] == "clean-wrong").sum()
    assert settled > 5
    assert result.physical["n"].tolist() == [40, 40, 40]
    assert all(len(kept) == 40 for kept in result.examples.values())
    assert (result.table["clean_acc"] == (40 - settled) / 40).all()


def test_files_are_written_read_back_and_the_same_again(tmp_path: Path) -> None:
    options: dict[str, Any] = {"physical": SHAKY, "eot": 2, "out": tmp_path / "one"}
    first = evaluated(two_layers(), 16, **options)
    names = ("physical.csv", "sweep.csv", "survival.csv", "summary.csv")
    texts = {name: (tmp_path / "one" / name).read_text(encoding="utf-8") for name in names}
    when = {path: path.stat().st_mtime_ns for path in (tmp_path / "one/physical").iterdir()}
    assert len(when) == 3  # clean, blind, EOT
    assert (tmp_path / "one/sweep.png").stat().st_size > 1000
    again = evaluated(two_layers(), 16, **options)
    pd.testing.assert_frame_equal(first.records, again.records)
    assert all(path.stat().st_mtime_ns == time for path, time in when.items())  # looked up
    for path in when:
        path.unlink()
    evaluated(two_layers(), 16, **options)  # made again from the kept examples
    fresh = evaluated(two_layers(), 16, **{**options, "out": tmp_path / "two"})
    for folder in ("one", "two"):
        for name in names[:3]:
            assert (tmp_path / folder / name).read_text(encoding="utf-8") == texts[name], (folder, name)
    pd.testing.assert_frame_equal(first.sweep, fresh.sweep)
    assert read_physical(tmp_path / "one")["attack"].tolist() == first.physical["attack"].tolist()
    assert len(read_run(tmp_path / "one")[0]) == len(first.records)
    plan = Plan.load(tmp_path / "one/plan.toml")
    assert (plan.physical, plan.eot, plan.verdict_draws) == (SHAKY, 2, 20)


def test_a_run_that_lost_its_examples_makes_them_again(tmp_path: Path) -> None:
    options: dict[str, Any] = {"physical": SHAKY, "eot": 2, "out": tmp_path}
    first = evaluated(two_layers(), 16, **options)
    (lost, *_) = sorted((tmp_path / "examples").glob("*.npz"))
    lost.unlink()
    again = evaluated(two_layers(), 16, **options)
    pd.testing.assert_frame_equal(first.records, again.records)
    pd.testing.assert_frame_equal(first.physical, again.physical)


def test_a_smaller_slice_is_a_view_of_the_larger_run(tmp_path: Path) -> None:
    options: dict[str, Any] = {"physical": SHAKY, "eot": 2, "out": tmp_path}
    whole = evaluated(two_layers(), 24, **options)
    part = evaluated(two_layers(), 24, samples="first:10", **options)
    same = whole.records[whole.records["index"] < 10].reset_index(drop=True)
    pd.testing.assert_frame_equal(part.records.reset_index(drop=True), same)
    assert part.physical["n"].max() == 10


def test_the_sweep_has_every_place_with_its_interval(shaky: Result) -> None:
    sweep = shaky.sweep
    assert len(sweep) == 3 * len(DISTANCES) * len(YAWS)
    row = sweep.iloc[10]
    assert (row["low"], row["high"]) == pytest.approx(clopper_pearson(row["right"], row["n"]))
    straight = sweep[(sweep["attack"] == "clean") & (sweep["distance"] == 0.5) & (sweep["yaw"] == 0)].iloc[0]
    assert straight["rate"] > 0.7


def shaken(x: Tensor, draws: Draws | None, index: Tensor | int) -> Tensor:
    assert draws is not None
    return (x + 0.1 * draws.normal(x.shape[1:], "shaken", index)).clamp(0, 1)


def test_survival_is_told_for_every_example_of_a_random_system(tmp_path: Path) -> None:
    plain = two_layers()
    x, y, _ = samples(plain, 40)
    system = plain.with_random_purifier(shaken, name="noise")
    given: dict[str, Any] = {"attacks": "pgd:steps=6,restarts=1", "threat": "Linf:0.05", "eot": 3, **QUIET}
    result = rbl.evaluate(system, x, y, out=tmp_path, **given)
    averaged = "pgd:steps=6,restarts=1,eot=3"  # by who knows that the system draws; the first does not
    assert result.table["attack"].tolist() == ["pgd:steps=6,restarts=1", averaged, "worst-case"]
    lives = pd.read_csv(tmp_path / "survival.csv")
    assert (lives["draws"] == 20).all()
    for row in lives.head(5).to_dict("records"):
        assert (row["low"], row["high"]) == pytest.approx(clopper_pearson(row["broken_draws"], 20))
    assert not (tmp_path / "physical.csv").exists()


def test_the_last_word_is_not_spoken_by_the_draws_that_the_search_was_told() -> None:
    """A coin for a system: with one set of draws for both, searching long would find images whose coins fell well."""

    class Coin(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            answer = (x[:, 0, 0, 0] > 0.5).long()
            return torch.nn.functional.one_hot(answer, 2).float()

    def toss(x: Tensor, draws: Draws | None, index: Tensor | int) -> Tensor:
        assert draws is not None
        # which way it falls follows from the pixels too, so that every point has coins of its own
        word = (x.double().flatten(1).sum(1) * 1e6).long() % 9973
        falls = draws.uniform((1,), "toss", index)[:, 0] + word / 9973
        return (falls % 1)[:, None, None, None].expand_as(x) * 0.96

    system = System(model=Coin(), num_classes=2, input_shape=(1, 4, 4)).with_random_purifier(toss, name="coin")
    x = torch.rand((150, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    y = torch.zeros(150, dtype=torch.int64)
    result = rbl.evaluate(system, x, y, attacks="noise:draws=40", threat="Linf:0.1", **QUIET)
    attacked = result.records[result.records["reason"] == ""]
    assert len(attacked) > 30
    assert abs(attacked["break_rate"].mean() - 0.48) < 0.06


def test_a_deterministic_system_has_nothing_to_average() -> None:
    with_eot, without = (evaluated(affine(), attacks=[Climb(restarts=1)], eot=count) for count in (5, 0))
    pd.testing.assert_frame_equal(with_eot.records, without.records)


def test_eot_may_be_an_option_of_one_attack() -> None:
    result = evaluated(two_layers(), 12, attacks=["pgd:steps=3,restarts=1,eot=3", "noise:draws=4"], physical=SHAKY)
    assert result.table["attack"].tolist() == ["pgd:steps=3,restarts=1,eot=3", "noise:draws=4", "worst-case"]


def test_an_attack_that_would_average_is_doubled_where_there_is_nothing_to_average() -> None:
    result = evaluated(two_layers(), 12, attacks="pgd:steps=2,restarts=1,eot=3", diagnostics=True)
    status = result.diagnostics.set_index("diagnostic")["status"]
    assert status["doubling-breaks-more"] != "unchecked"


def test_an_average_that_the_user_wrote_and_the_camera_wants_runs_once() -> None:
    attacks = ["pgd:steps=2,restarts=1", "pgd:steps=2,restarts=1,eot=10"]
    result = evaluated(two_layers(), 6, attacks=attacks, physical=SHAKY)
    assert result.table["attack"].tolist() == [*attacks, "worst-case"]


def test_an_attack_that_averages_by_itself_runs_once_and_is_called_by_its_own_draws() -> None:
    plain = two_layers()
    x, y, _ = samples(plain, 12)
    attack, given = "apgd:steps=2,eot_draws=3", {"threat": "Linf:0.05", **QUIET}
    system = plain.with_random_purifier(shaken, name="noise")
    records = rbl.evaluate(system, x, y, attacks=attack, **given).records
    assert set(zip(records["attack"], records["adaptive"], strict=True)) == {(attack, True)}
    behind = rbl.evaluate(plain, x, y, attacks=attack, physical=SHAKY, **given).records
    assert set(behind["attack"]) == {attack, f"{attack},eot=3"}


@pytest.mark.parametrize(
    "options, message",
    [
        ({"physical": "print-foto"}, "did you mean 'print-photo'"),
        ({"physical": "rotation=abc"}, "is no range"),
        ({"physical": "none", "eot": -1}, "eot=-1; accepted: 0"),
        ({"physical": "none", "verdict_draws": 5}, "verdict_draws=5; accepted: 10"),
        ({"physical": "none", "attacks": "noise:draws=3,eot=4"}, "cannot average"),
        ({"physical": "none", "attacks": "pgd:eot=0"}, "eot from 1"),
        ({"physical": "none", "attacks": "square:queries=9"}, "9 queries do not pay for one average over 10 draws"),
        ({"physical": "none", "attacks": "square:queries=9,eot=12"}, "9 queries do not pay for one average over 12"),
        ({"physical": "none", "attacks": "pgd,eot=5"}, "cannot read 'pgd,eot=5'"),
    ],
)
def test_mistakes_are_told_in_one_sentence(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        evaluated(two_layers(), 4, **options)
