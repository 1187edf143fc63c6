"""Who knows the defense and who does not: attacked twice, claimed and actual, part by part."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import robustbench_lite as rbl
from robustbench_lite import plugins
from robustbench_lite.defense import Adaptivity, Defense, Workshop
from robustbench_lite.results.claims import claims, known
from robustbench_lite.run.evaluate import Result
from robustbench_lite.run.plan import Plan
from robustbench_lite.system import Detector, System

LINF = "Linf:0.1"


@pytest.fixture
def line() -> System:
    """Two classes, by whether the mean of the pixels is above a half."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    model.load_state_dict(
        {"1.weight": torch.stack((-torch.ones(16), torch.ones(16))), "1.bias": torch.tensor([8.0, -8.0])}
    )
    return System(model=model, num_classes=2, input_shape=(1, 4, 4))


@pytest.fixture
def images() -> tuple[Tensor, Tensor]:
    """32 images whose mean is 0.05 from the boundary: every attack with a gradient breaks all of them at 0.1."""
    y = torch.arange(32) % 2
    noise = torch.rand((32, 1, 4, 4), generator=torch.Generator().manual_seed(0)) - 0.5
    noise = (noise - noise.mean((1, 2, 3), keepdim=True)) * 0.2
    return (0.5 + 0.05 * (2 * y.view(-1, 1, 1, 1) - 1) + noise).clamp(0, 1), y


def shares(result: Result) -> dict[bool, float]:
    """By whether the attack knew the defense: what it left unbroken."""
    return dict(1 - result.records.groupby("adaptive")["broken"].mean())


def test_what_has_no_gradient_is_attacked_plainly_and_through_its_stand_in(
    line: System, images: tuple[Tensor, Tensor]
) -> None:
    system = line.with_purifier(lambda x: (x * 255).round() / 255, surrogate=lambda x: x, name="rounding")
    result = rbl.evaluate(system, *images, attacks=["fgsm"], threat=LINF)
    assert shares(result) == {False: 1.0, True: 0.0}
    (row,) = result.claims.to_dict("records")
    assert (row["claimed"], row["claimed_by"], row["actual"], row["gap"]) == (1.0, "fgsm", 0.0, 1.0)
    assert (row["widest_by"], row["widest_plain"], row["widest_adaptive"]) == ("fgsm", 1.0, 0.0)
    assert 0.7 < row["gap_at_least"] < 1
    assert row["p"] < 1e-6
    fired = result.diagnostics[result.diagnostics["status"] == "fired"]["diagnostic"].tolist()
    assert "plain-gradients-vanish" in fired
    assert "zero-gradients" not in fired


def test_a_plain_adversary_does_not_see_the_detector_and_hands_in_one_point(
    line: System, images: tuple[Tensor, Tensor]
) -> None:
    """One step of 0.12 goes 0.07 beyond the boundary, where the alarm sounds: what the classifier believes is rejected."""
    far = Detector(score=lambda x: (x.mean((1, 2, 3)) - 0.5).abs(), threshold=0.06, name="far")
    attacked = {"attacks": ["fgsm"], "threat": "Linf:0.12", "adaptive": "no", "diagnostics": False}
    alone = rbl.evaluate(line, *images, **attacked).records
    guarded = rbl.evaluate(line.with_detector(far), *images, **attacked).records
    assert alone["broken"].all()
    assert not guarded["broken"].any()
    assert guarded["rejected"].all()
    assert (guarded["prediction"] != guarded["label"]).all()
    assert (guarded["forwards"] == alone["forwards"]).all()


def test_nothing_hidden_is_attacked_once(line: System, images: tuple[Tensor, Tensor]) -> None:
    result = rbl.evaluate(line, *images, attacks=["fgsm"], threat=LINF, diagnostics=False)
    assert len(result.records) == len(images[0])
    assert result.claims.empty


@pytest.mark.parametrize("who, runs", [("yes", {True}), ("no", {False}), ("both", {True, False})])
def test_the_plan_says_who_attacks(line: System, images: tuple[Tensor, Tensor], who: str, runs: set[bool]) -> None:
    system = line.with_purifier(lambda x: (x * 255).round() / 255, surrogate=lambda x: x, name="rounding")
    result = rbl.evaluate(system, *images, attacks=["fgsm"], threat=LINF, adaptive=who, diagnostics=False)
    assert set(result.records["adaptive"]) == runs


@pytest.mark.parametrize("attack, runs", [("noise:draws=2", 1), ("square:queries=5", 1), ("fgsm", 2)])
def test_who_sees_no_gradient_of_a_defense_that_hides_nothing_else_attacks_once(
    line: System, images: tuple[Tensor, Tensor], attack: str, runs: int
) -> None:
    system = line.with_purifier(lambda x: (x * 255).round() / 255, surrogate=lambda x: x, name="rounding")
    records = rbl.evaluate(system, *images, attacks=[attack], threat=LINF, diagnostics=False).records
    assert len(records) == runs * len(images[0])


def test_scores_that_saturate_are_seen_twice(line: System, images: tuple[Tensor, Tensor]) -> None:
    system = replace(line, differentiable_as=line.model)
    records = rbl.evaluate(system, *images, attacks=["square:queries=5"], threat=LINF, diagnostics=False).records
    assert set(records["adaptive"]) == {True, False}


def test_who_attacks_must_be_one_of_three() -> None:
    with pytest.raises(rbl.UserError, match="adaptive=bot; accepted: both, yes, no; did you mean 'both'"):
        Plan(adaptive="bot")


def test_ablation_adds_each_chain_without_each_part() -> None:
    plan = Plan(defenses=("none", "adversarial-training+none+none:x=1"), ablate=True)
    assert plan.chains == (
        *plan.defenses, "none+none:x=1", "adversarial-training+none:x=1", "adversarial-training+none"
    )  # fmt: skip
    assert Plan(defenses=("none",), ablate=True).chains == ("none",)
    assert Plan.from_toml(plan.to_toml()) == plan


@dataclass(frozen=True, kw_only=True)
class Silent(Defense):
    """Adds nothing, and nobody has said what an adversary could do about it."""

    name: ClassVar[str] = "silent"
    adaptivity: ClassVar[Adaptivity] = "unaudited"

    def defend(self, system: System, workshop: Workshop) -> System:
        return system.with_purifier(lambda x: x.round(), surrogate=lambda x: x, name="silent")


def test_the_unaudited_are_attacked_plainly_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    found = plugins.load
    monkeypatch.setattr(plugins, "load", lambda kind, name: Silent if name == "silent" else found(kind, name))
    model = System(model=nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), num_classes=10, input_shape=(1, 8, 8))
    result = rbl.evaluate(
        model, dataset="digits", samples=20, attacks=["fgsm"], threat=LINF, defense="silent", diagnostics=False
    )
    assert set(result.records["adaptive"]) == {False}


def test_a_defense_cannot_be_built_from_test_images_alone(line: System, images: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(rbl.UserError, match="name a dataset"):
        rbl.evaluate(line, *images, attacks=["fgsm"], threat=LINF, defense="adversarial-training")


def test_claims_are_empty_without_a_hidden_part_and_leave_out_what_has_no_verdict() -> None:
    rows = pd.DataFrame({"dataset": [], "adaptive": []})
    assert known(rows).empty
    names = {"dataset": "d", "model": "m", "defense": "n", "threat": "Linf:1", "attack": "a"}
    record = {
        **names, "adaptive": True, "index": 0, "label": 0, "clean_prediction": 0, "broken": False, "valid": True,
        "reason": "", "linf": 0.0, "l2": 0.0, "l1": 0.0, "l0": 0.0, "forwards": 1, "backwards": 1, "norm": "Linf",
        "eps": 1.0, "target": -1, "target_hit": False, "clean_score": float("nan"), "broken_8bit": False, "seed": 0,
        "break_forward": -1, "key": "k",
    }  # fmt: skip
    assert claims(pd.DataFrame([record])).empty
    both = pd.DataFrame([record, record | {"adaptive": False, "reason": "failed"}])
    assert claims(both).empty
