"""Models that an evaluation cannot trust, or must read with care: found in review, each red once."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from reviewing import LINF, QUIET, Around, module_and_images
from torch import Tensor, nn
from toys import Climb, affine, samples, two_layers

import robustbench_lite as rbl
from robustbench_lite.attack import State
from robustbench_lite.errors import UserError
from robustbench_lite.oracle import Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.system import Detector, System


class Normed(nn.Module):
    """A network with a batch normalisation of some kind in front."""

    def __init__(self, network: nn.Module, **options: Any) -> None:
        super().__init__()
        self.network, self.norm = network, nn.BatchNorm2d(1, affine=False, **options)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.network(self.norm(x))
        return answer


class Relearning(Normed):
    """Batch normalisation that learns even in eval mode."""

    def forward(self, x: Tensor) -> Tensor:
        self.norm.train()
        return super().forward(x)


@pytest.mark.parametrize(
    "wrap, message",
    [
        (Relearning, "changes its own buffers"),
        (lambda model: Around(model, after=lambda scores: {"a": scores}), "answers two images with a dict"),
    ],
    ids=["training mode", "no logits"],
)
def test_a_model_that_an_evaluation_cannot_trust_is_refused(wrap: Any, message: str) -> None:
    model, x, y = module_and_images()
    with pytest.raises(UserError, match=message):
        rbl.evaluate(wrap(model), x, y, attacks="noise:draws=3", threat=LINF, **QUIET)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: Around(model, before=lambda x: x.sub_(0.5).add_(0.5)),
        lambda model: Around(model, after=lambda scores: (scores, scores)),
        lambda model: Around(model, before=lambda x: x.reshape(1, 1, 8, 8)),
    ],
    ids=["in place", "extra outputs", "one image only"],
)
def test_a_model_that_is_asked_in_its_own_way_breaks_as_the_plain_one(wrap: Any) -> None:
    model, x, y = module_and_images()
    plain, found = (
        rbl.evaluate(one, x, y, attacks=Climb(restarts=1), threat=LINF, **QUIET) for one in (model, wrap(model))
    )
    assert found.table.iloc[0]["robust_acc"] == pytest.approx(plain.table.iloc[0]["robust_acc"], abs=0.02)


def test_a_model_that_answers_by_company_has_no_number_of_its_own_and_is_flagged() -> None:
    model, x, y = module_and_images()
    normed = Normed(model, track_running_stats=False)
    result = rbl.evaluate(normed, x, y, attacks="noise:draws=3", threat=LINF)
    told = result.diagnostics.set_index("diagnostic").loc["order-dependent"]
    assert told["status"] == "fired"
    assert "answers differ" in told["detail"]
    assert "order-dependent" in result.table["flags"].iloc[0].split(";")


@pytest.mark.parametrize("kind", [torch.float64, torch.float16, torch.bfloat16])
def test_scores_of_any_precision_are_read(kind: torch.dtype) -> None:
    model, x, y = module_and_images()
    rough = Around(model, after=lambda scores: scores.to(kind))
    result = rbl.evaluate(rough, x, y, attacks=Climb(restarts=1), threat=LINF)
    assert not result.failed
    assert 0 < result.table.iloc[0]["robust_acc"] < 1


def test_a_model_outside_torch_can_be_asked_for_labels() -> None:
    model, x, y = module_and_images()
    foreign = Around(model, before=lambda images: torch.from_numpy(images.numpy().copy()))
    result = rbl.evaluate(foreign, x, y, attacks=["noise:draws=10", "fgsm"], threat="Linf:0.1")
    assert list(result.failed) == ["fgsm on Around, Linf:0.1"]
    status = result.diagnostics.set_index("diagnostic")["status"]
    assert {status[name] for name in ("zero-gradients", "survives-unbounded-eps")} == {"unchecked"}
    assert result.table.iloc[0]["robust_acc"] < 1


def test_a_model_that_draws_without_saying_so_is_judged_by_the_majority() -> None:
    model, x, y = module_and_images()
    result = rbl.evaluate(
        Around(model, after=lambda scores: nn.functional.dropout(scores, 0.1)),
        x,
        y,
        attacks="fgsm",
        threat=LINF,
        **QUIET,
    )
    assert (result.records["draws"] > 1).all()


def shaky(share: float) -> System:
    """An affine system that sees the negative of an image now and then."""

    def apply(x: Tensor, draws: Draws | None, index: Tensor | int) -> Tensor:
        assert draws is not None
        flip = draws.uniform((), "coin", index).view(-1, 1, 1, 1) < share
        return torch.where(flip, 1 - x, x)

    return affine(classes=5).with_random_purifier(apply, name="coin")


def test_eps_0_breaks_nothing_however_often_a_randomised_system_is_asked() -> None:
    x, _, _ = samples(affine(classes=5), 150)
    y = affine(classes=5)(x).prediction()
    result = rbl.evaluate(shaky(0.45), x, y, attacks=[Climb(restarts=6, steps=2)], threat="Linf:0", **QUIET)
    row = result.table.iloc[0]
    assert 0 < row["clean_acc"] < 1
    assert row["robust_acc"] == row["clean_acc"]
    assert (result.records["draws"] > 1).all()


def test_a_detector_end_to_end() -> None:
    system = two_layers()
    x, y, _ = samples(system, 60)
    level = float(x.flatten(1).mean(1).quantile(0.8))
    guarded = system.with_detector(Detector(score=lambda image: image.flatten(1).mean(1), threshold=level))
    result = rbl.evaluate(guarded, x, y, attacks=Climb(restarts=1), threat="Linf:0.05", **QUIET)
    assert result.table.iloc[0]["clean_acc"] == pytest.approx(0.8, abs=0.02)
    broken = result.records[result.records["broken"] & (result.records["reason"] == "")]
    assert len(broken)
    assert not broken["rejected"].any()


@pytest.mark.parametrize("code", ["import sys\nsys.exit(0)", "def net():\n    raise SystemExit(0)"])
def test_a_model_file_that_exits_does_not_end_the_run_in_peace(tmp_path: Path, code: str) -> None:
    (tmp_path / "net.py").write_text(code, encoding="utf-8")
    with pytest.raises(UserError, match="SystemExit"):
        rbl.evaluate(f"{tmp_path / 'net.py'}:net", dataset="digits", samples=8, attacks="fgsm", threat="Linf:0.1")


class Viewing(nn.Module):
    """A network that takes contiguous images only."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.network(x.view(len(x), -1).view(len(x), 1, 8, 8))
        return answer


def test_points_may_lie_in_memory_as_they_like() -> None:
    model, x, y = module_and_images()

    @dataclass(frozen=True, kw_only=True)
    class Turned(Climb):
        name: ClassVar[str] = "turned"

        def step(self, state: State, oracle: Oracle) -> State:
            state = super().step(state, oracle)
            return replace(state, adv=state.adv.transpose(2, 3).contiguous().transpose(2, 3))

    run = partial(rbl.evaluate, Viewing(model), x, y, threat=LINF, **QUIET)
    turned, plain = (run(attacks=attack) for attack in (Turned(restarts=1), Climb(restarts=1)))
    assert not turned.failed
    assert turned.records["margin"].tolist() == plain.records["margin"].tolist()


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_trace_is_evaluated_as_the_network_is() -> None:
    net, x = two_layers().model, torch.rand((6, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    y = net(x).argmax(1)
    plain, traced = (
        rbl.evaluate(model, x, y, attacks=["fgsm"], threat="Linf:0.1").table["robust_acc"].tolist()
        for model in (net, torch.jit.trace(net, x))  # type: ignore[no-untyped-call]
    )
    assert plain == traced


@pytest.mark.parametrize(
    "score, message",
    [
        (lambda x: x.mean((1, 2, 3)) > 0.5, "the score of second-opinion is torch.bool; accepted: a tensor"),
        (lambda x: x.mean((1, 2, 3)).tolist(), "the score of second-opinion is list; accepted: a tensor"),
        (lambda x: None, "the score of second-opinion is NoneType"),
        (lambda x: x.mean((1, 2, 3)) * float("nan"), "the detector of model answers .* images with NaN alone"),
        (lambda x: {}["score"], "the detector of model raised KeyError"),
    ],
)
def test_a_detector_that_fails_is_told_in_its_own_name(score: Any, message: str) -> None:
    system = two_layers()
    x, y, _ = samples(system, 20)
    guarded = replace(system, name="model").with_detector(Detector(score=score, threshold=0.5, name="second-opinion"))
    with pytest.raises(UserError, match=message):
        rbl.evaluate(guarded, x, y, attacks="noise:draws=2", threat=LINF, **QUIET)


@pytest.mark.parametrize("threshold", [float("nan"), float("inf"), None, "0.5", torch.zeros(2)])
def test_a_threshold_that_is_no_finite_number_is_refused(threshold: Any) -> None:
    with pytest.raises(UserError, match=r"the threshold of detector is .*; accepted: a finite number"):
        Detector(score=lambda x: x.mean((1, 2, 3)), threshold=threshold)


class Locked:
    """An answer that does not tell its logits."""

    @property
    def logits(self) -> Tensor:
        raise KeyError("locked")


def test_an_answer_that_raises_when_it_is_looked_at_is_the_models_fault() -> None:
    model, x, y = module_and_images()
    with pytest.raises(UserError, match="Around raised KeyError: 'locked'"):
        rbl.evaluate(Around(model, after=lambda scores: Locked()), x, y, attacks="fgsm", threat=LINF, **QUIET)
