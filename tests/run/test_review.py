"""What a stranger found who had to trust the numbers: each test was red once, or guards a corner that no other visits."""

import importlib
import os
import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from contracts.skeletons.substitute import Substitute
from torch import Tensor, nn
from toys import Climb, Scripted, affine, samples, two_layers

import robustbench_lite as rbl
from robustbench_lite.attack import Asker, Attack, State
from robustbench_lite.data import outside
from robustbench_lite.data.tensors import from_tensors
from robustbench_lite.errors import UserError
from robustbench_lite.fingerprint import fingerprint, source_digest
from robustbench_lite.objectives import margin
from robustbench_lite.oracle import Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.results import plots
from robustbench_lite.run import output, probes
from robustbench_lite.run.reporter import Silent
from robustbench_lite.system import Detector, System
from robustbench_lite.threat import Threat

QUIET: dict[str, Any] = {"diagnostics": False}
LINF = "Linf:0.02"


def module_and_images(count: int = 60) -> tuple[nn.Module, Tensor, Tensor]:
    system = two_layers()
    x, y, _ = samples(system, count)
    return system.model, x, y


class Around(nn.Module):
    """A network that does something to its images or scores."""

    def __init__(self, network: nn.Module, before: Any = None, after: Any = None) -> None:
        super().__init__()
        self.network, self.before, self.after = network, before, after

    def forward(self, x: Tensor) -> Any:
        scores = self.network(x if self.before is None else self.before(x))
        return scores if self.after is None else self.after(scores)


# -- content addresses -------------------------------------------------------------------------------------------------


class Tempered(nn.Module):
    """A temperature that no `state_dict` knows."""

    def __init__(self, network: nn.Module, temperature: float) -> None:
        super().__init__()
        self.network, self.temperature = network, temperature

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.network(x)
        return scores / self.temperature


def shifted(by: float) -> Any:
    return lambda x: (x + by).clamp(0, 1)


def systems() -> dict[str, System]:
    plain = two_layers()
    weak = two_layers(seed=1).model
    scored = Detector(score=lambda x: x.flatten(1).mean(1), threshold=0.5)
    return {
        "plain": plain,
        "tempered 1": plain.with_model(Tempered(plain.model, 1.0)),
        "tempered 9": plain.with_model(Tempered(plain.model, 9.0)),
        "bypass": replace(plain, differentiable_as=weak),
        "purifier 1": plain.with_purifier(shifted(0.1), name="shift"),
        "purifier 2": plain.with_purifier(shifted(0.2), name="shift"),
        "relu": plain.with_model(Around(plain.model, after=torch.relu)),
        "tanh": plain.with_model(Around(plain.model, after=torch.tanh)),
        "detector": plain.with_detector(scored),
        "other threshold": plain.with_detector(replace(scored, threshold=0.6)),
        "other score": plain.with_detector(replace(scored, score=lambda x: x.flatten(1).amax(1))),
        "random": replace(plain, model_is_random=True),
    }


def test_systems_that_could_answer_differently_have_different_digests() -> None:
    digests = {name: system.digest for name, system in systems().items()}
    assert len(set(digests.values())) == len(digests), digests
    assert digests == {name: system.digest for name, system in systems().items()}


def test_an_attribute_of_a_network_is_not_mistaken_for_another_run(tmp_path: Path) -> None:
    model, x, y = module_and_images()
    attack = Climb(restarts=1)
    runs = [
        rbl.evaluate(Tempered(model, t), x, y, attacks=attack, threat=LINF, out=tmp_path, **QUIET).records["margin"]
        for t in (1.0, 50.0)
    ]
    assert not np.allclose(runs[0], runs[1])


@dataclass(frozen=True, kw_only=True)
class Wrapping(Climb):
    """Climb with an attack, a network and a tensor among its options."""

    name: ClassVar[str] = "wrapping"
    inner: Attack = field(default_factory=Climb)
    network: nn.Module = field(default_factory=nn.Identity)
    patch: Tensor = field(default_factory=lambda: torch.zeros(3))


def test_what_an_attack_holds_is_in_its_key() -> None:
    long, other = torch.zeros(5000), torch.zeros(5000)
    other[2500] = 1  # between the dots of the printed tensor
    attacks = [
        Wrapping(),
        Wrapping(inner=Climb(steps=3)),
        Wrapping(network=two_layers().model),
        Wrapping(network=two_layers(seed=1).model),
        Wrapping(patch=long),
        Wrapping(patch=other),
    ]
    assert len({fingerprint(attack) for attack in attacks}) == len(attacks)
    assert fingerprint(Wrapping(patch=long)) == fingerprint(Wrapping(patch=long.clone()))
    assert source_digest(Wrapping) != source_digest(Climb)  # the file of the base class counts too


def test_no_sample_of_a_random_system_is_robust_because_its_search_stopped_at_a_lucky_break() -> None:
    def noisy(x: Tensor, draws: Any, index: Any) -> Tensor:
        return (x + 0.15 * draws.normal(x.shape[1:], "noisy", index)).clamp(0, 1)

    system = two_layers().with_random_purifier(noisy, name="noisy")
    x, y, _ = samples(two_layers(), 60)
    records = rbl.evaluate(
        system, x, y, attacks="pgd:steps=8,restarts=2", threat="Linf:0.03", adaptive="no", **QUIET
    ).records
    attacked = records[records["reason"] == ""]
    assert 0 < attacked["broken"].mean() < 1
    assert set(attacked.loc[~attacked["broken"], "forwards"]) == {16}


class Coin(nn.Module):
    """Class 1 of what shines; the more it shines, the surer."""

    def forward(self, x: Tensor) -> Tensor:
        shines = x[:, 0, 0, 0] - 0.5
        return torch.stack((-shines, shines), 1)


def tossed(x: Tensor, draws: Any, index: Any) -> Tensor:
    """Shines where the first pixel is lit; where the second one is, brighter, in three draws of five alone."""
    lucky = draws.uniform((1, 1, 1), "tossed", index) < 0.6
    first, second = (x[:, :, :1, place : place + 1] > 0.6 for place in (0, 1))
    return (0.8 * first).maximum(1.0 * (second & lucky)).expand_as(x)


def lit(pixel: int | None) -> Any:
    """The clean image with this pixel lit; with none, the clean image."""

    def point(clean: Tensor) -> Tensor:
        point = clean.clone()
        if pixel is not None:
            point[:, :, 0, pixel] = 0.9
        return point

    return point


@dataclass(frozen=True, kw_only=True)
class Relay(Scripted):
    """First a point that is a break in doubt, then one that is a whole one."""

    name: ClassVar[str] = "relay"
    points: Any = None

    def stages(self) -> Any:
        return [Scripted(points=lambda clean, k, pixel=pixel: lit(pixel)(clean), steps=1) for pixel in (1, 0)]


def half_broken(attack: Attack) -> pd.DataFrame:
    """What the attack does to forty images that nothing but a lit pixel breaks."""
    system = System(model=Coin(), num_classes=2, input_shape=(1, 4, 4)).with_random_purifier(tossed, name="coin")
    x = torch.rand((40, 1, 4, 4), generator=torch.Generator().manual_seed(0)) / 2
    y = torch.zeros(40, dtype=torch.int64)
    return rbl.evaluate(system, x, y, attacks=attack, threat="Linf:1", adaptive="no", **QUIET).records


def test_a_cascade_goes_on_where_a_break_of_a_random_system_is_in_doubt() -> None:
    records = half_broken(Relay())
    assert records["broken"].all()
    both = records["forwards"] == 2  # at 60 % a few are in no doubt after the first stage
    assert both.mean() > 0.8
    assert (records.loc[both, "break_rate"] == 1).all()


def test_what_earlier_stages_broke_is_not_lost_where_later_ones_find_less() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Backwards(Relay):
        name: ClassVar[str] = "backwards"

        def stages(self) -> Any:
            script = partial(Scripted, steps=1)
            return [script(points=lambda clean, k: lit(1)(clean)), script(points=lambda clean, k: lit(None)(clean))]

    records = half_broken(Backwards())
    assert 0.3 < records["broken"].mean() < 0.85  # by draws that decided nothing before
    told = records[records["broken"]]
    assert (told["forwards"] == 2).mean() > 0.8
    assert (told["break_forward"] == 1).all()


def test_a_lucky_draw_does_not_hide_the_better_point_that_a_lane_found_before() -> None:
    def points(clean: Tensor, k: int) -> Tensor:
        return lit(0 if k == 3 else 1 if k in range(16, 28) else None)(clean)

    records = half_broken(Scripted(points=points, steps=30))
    assert records["broken"].all()
    assert (records["break_rate"] == 1).all()


def test_what_a_family_shares_is_in_the_keys_of_its_attacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "family_of_two"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "planes.py").write_text("def nearest():\n    return 1\n")
    (folder / "walk.py").write_text("from family_of_two.planes import nearest\n\n\nclass Walk:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    walk = importlib.import_module("family_of_two.walk").Walk
    before = source_digest(walk)
    assert before == source_digest(walk)
    (folder / "planes.py").write_text("def nearest():\n    return 2\n")
    assert source_digest(walk) != before


def keys(result: Any) -> list[str]:
    return list(result.timings["key"])


def test_targets_are_in_the_key_where_they_are_used_and_the_slice_never_is() -> None:
    model, x, y = module_and_images()
    one, two = (y + 1) % 5, (y + 2) % 5
    run = partial(rbl.evaluate, model, x, y, threat=LINF, **QUIET)
    plain, column = Climb(restarts=1), "targeted:target=column,steps=2"
    assert keys(run(attacks=plain, targets=one)) == keys(run(attacks=plain))
    assert keys(run(attacks=column, targets=one)) != keys(run(attacks=column, targets=two))
    assert keys(run(attacks=column, targets=one, samples="first:9")) == keys(run(attacks=column, targets=one))


def test_two_attacks_of_one_name_are_refused() -> None:
    model, x, y = module_and_images(4)

    @dataclass(frozen=True, kw_only=True, eq=False)
    class Nameless(Climb):
        def __str__(self) -> str:
            return "nameless"

    with pytest.raises(UserError, match="two attacks are both called nameless"):
        rbl.evaluate(model, x, y, attacks=[Nameless(steps=1), Nameless(steps=2)], threat=LINF, **QUIET)


# -- trouble -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Odd(Climb):
    """Climb that does something else at its third step."""

    name: ClassVar[str] = "odd"
    what: Any = None

    def step(self, state: State, oracle: Oracle) -> State:
        state = super().step(state, oracle)
        return self.what(state) if int(state.k.max()) == 2 else state


def leave(state: State) -> State:
    raise SystemExit(0)


@pytest.mark.parametrize(
    "what, reason",
    [
        (leave, "SystemExit: 0"),
        (lambda state: replace(state, adv=state.adv.double()), "PluginError: odd made points"),
        (lambda state: replace(state, adv=state.adv[:, :, :1]), "PluginError: odd made points"),
    ],
    ids=["exit", "double", "shape"],
)
def test_a_plugin_that_misbehaves_fails_alone(what: Any, reason: str) -> None:
    model, x, y = module_and_images()
    result = rbl.evaluate(model, x, y, attacks=[Odd(what=what), Climb(restarts=1)], threat=LINF, **QUIET)
    assert [why[: len(reason)] for why in result.failed.values()] == [reason]
    assert result.table.set_index("attack").loc["climb:restarts=1", "robust_acc"] > 0


def test_points_that_are_not_numbers_are_invalid_and_nothing_breaks() -> None:
    model, x, y = module_and_images()
    attack = Odd(restarts=1, steps=3, what=lambda state: replace(state, adv=state.adv * torch.nan))
    result = rbl.evaluate(model, x, y, attacks=attack, threat="Linf:0.0001", **QUIET)
    assert result.table.iloc[0]["invalid"] == len(x)
    assert result.table.iloc[0]["robust_acc"] == 1


class Bar(Silent):
    """Counts as a bar does."""

    def __init__(self) -> None:
        self.done = 0

    def begin(self, text: str, total: int) -> None:
        self.done = 0

    def advance(self, done: int, broken: int) -> None:
        self.done += done


@dataclass(frozen=True, kw_only=True)
class Hungry(Climb):
    """Climb that runs out of memory once some samples have ended."""

    name: ClassVar[str] = "hungry"
    eaten: list[int] = field(default_factory=list, compare=False)

    def step(self, state: State, oracle: Oracle) -> State:
        self.eaten.append(len(state))
        if len(self.eaten) == 15:
            raise torch.OutOfMemoryError("enough")
        return super().step(state, oracle)


def test_after_out_of_memory_the_bar_begins_again() -> None:
    model, x, y = module_and_images(200)
    bar = Bar()
    rbl.evaluate(model, x, y, attacks=Hungry(restarts=1), threat=LINF, batch_size=64, reporter=bar, **QUIET)
    assert bar.done == len(x)


def test_a_model_that_has_memory_for_few_images_is_measured_in_small_batches() -> None:
    model, x, y = module_and_images(100)

    def few(images: Tensor) -> Tensor:
        if len(images) > 16:
            raise torch.OutOfMemoryError("no more than 16")
        return images

    result = rbl.evaluate(Around(model, before=few), x, y, attacks="fgsm", threat=LINF, batch_size=64)
    assert not result.failed
    assert result.timings["batch_size"].tolist() == [16]


def test_a_check_that_fails_is_no_clean_bill(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, y = module_and_images()

    def broken(attack: str) -> Attack:
        return Odd(what=leave, restarts=1)

    monkeypatch.setattr(probes, "resolve_attack", broken)
    result = rbl.evaluate(model, x, y, attacks="pgd:steps=5,restarts=1", threat=LINF)
    status = result.diagnostics.set_index("diagnostic")["status"]
    assert status["survives-unbounded-eps"] == "unchecked"


# -- models ------------------------------------------------------------------------------------------------------------


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
        (lambda model: Around(model, before=lambda x: x.sub_(0.5).add_(0.4)), "changes the images"),
        (lambda model: Normed(model, track_running_stats=False), "other images of the batch"),
        (Relearning, "changes its own buffers"),
        (lambda model: Around(model, after=lambda scores: (scores, scores)), "answers one image with tuple"),
        (lambda model: Around(model, before=lambda x: x.reshape(1, 1, 8, 8)), "cannot answer"),
    ],
    ids=["in place", "neighbours", "training mode", "extra outputs", "one image only"],
)
def test_a_model_that_an_evaluation_cannot_trust_is_refused(wrap: Any, message: str) -> None:
    model, x, y = module_and_images()
    with pytest.raises(UserError, match=message):
        rbl.evaluate(wrap(model), x, y, attacks="noise:draws=3", threat=LINF, **QUIET)


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
    assert list(result.failed) == ["fgsm on Around, none, Linf:0.1"]
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


# -- corners -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "attacks", ["noise:draws=3", "fgsm", "pgd:steps=3,objective=dlr", "targeted:target=all,steps=3"]
)
def test_two_classes(attacks: str) -> None:
    system = affine(classes=2)
    x, y, _ = samples(system, 40)
    y[0], y[1] = 0, 1
    result = rbl.evaluate(system, x, y, attacks=attacks, threat="Linf:0.1")
    assert not result.failed


def test_one_sample() -> None:
    model, x, y = module_and_images(5)
    result = rbl.evaluate(model, x, y, samples="first:1", attacks=["fgsm", "pgd:steps=3"], threat="Linf:0.5")
    assert result.table["n"].tolist() == [1, 1, 1]


def test_all_samples_wrong_on_their_clean_images() -> None:
    model, x, y = module_and_images(20)
    result = rbl.evaluate(model, x, (y + 1) % 5, attacks=["noise:draws=3", "pgd:steps=3"], threat=LINF)
    row = result.table.iloc[0]
    assert (row["clean_acc"], row["robust_acc"]) == (0, 0)
    assert result.records["forwards"].sum() == 0
    assert not result.failed


def test_every_cell_failing_leaves_a_table_without_robust_accuracy() -> None:
    model, x, y = module_and_images(20)
    result = rbl.evaluate(model, x, y, attacks=Odd(what=leave, restarts=1), threat="Linf:0.0001")
    assert result.table["robust_acc"].isna().all()


def test_a_targeted_threat_end_to_end() -> None:
    model, x, y = module_and_images(80)
    for rule in ("least-likely", "second", "random", "next", "2"):
        threat = f"Linf:0.15,goal=targeted,target={rule}"
        result = rbl.evaluate(model, x, y, attacks="pgd:steps=10,restarts=2", threat=threat)
        rows = result.records[result.records["reason"] == ""]
        assert (rows["broken"] == rows["target_hit"]).all()
        assert rows["broken"].any()
        assert (rows["target"] != rows["label"]).all()


@pytest.mark.parametrize("rule", ["nonsense", "99", "all"])
def test_a_target_that_is_none_is_refused_before_anything_is_attacked(rule: str) -> None:
    model, x, y = module_and_images(8)
    with pytest.raises(UserError, match=f"target={rule}"):
        rbl.evaluate(model, x, y, attacks="pgd", threat=f"Linf:0.1,goal=targeted,target={rule}", **QUIET)


@dataclass(frozen=True, kw_only=True)
class Nearing(Climb):
    """Climb that walks off and comes back as soon as it is across: a small norm, not the smallest."""

    name: ClassVar[str] = "nearing"
    aims: ClassVar = ("fixed-eps", "minimum-norm")

    def start(self, x: Tensor, goal: Any, threat: Threat, draws: Draws, oracle: Oracle) -> State:
        state: State = State.begin(x, goal, threat, draws, x)
        return state

    def step(self, state: State, oracle: Oracle) -> State:
        answer = oracle.query(state.adv, margin)
        assert answer.grads is not None
        away = torch.where(answer.adversarial, -0.5, 1.0)[:, None, None, None]
        return replace(state, adv=(state.adv + 0.01 * away * state.threat.steepest(answer.grads[0])).clamp(0, 1))


@pytest.mark.parametrize("more", [{}, {"precision": "bfloat16"}, {"early_exit": False}])
def test_minimum_norms_end_to_end(tmp_path: Path, more: dict[str, Any]) -> None:
    model, x, y = module_and_images(60)
    run = partial(rbl.evaluate, model, x, y, attacks=Nearing(steps=40, restarts=1), threat="Linf", out=tmp_path, **more)
    part, whole = run(samples="first:20"), run()
    assert whole.table.iloc[0]["robust_acc"] < 0.2
    plain = rbl.evaluate(model, x, y, attacks=Nearing(steps=40, restarts=1), threat="Linf", **QUIET)
    assert whole.table.iloc[0]["median_norm"] == plain.table.iloc[0]["median_norm"]
    same = ["index", "linf", "broken", "forwards", "margin"]
    pd.testing.assert_frame_equal(part.records[same], whole.records[same][:20])


@dataclass(frozen=True, kw_only=True)
class Cascade(Climb):
    """A weak stage and a strong one."""

    name: ClassVar[str] = "cascade"
    aims: ClassVar = ("fixed-eps", "minimum-norm")

    def stages(self) -> tuple[Attack, ...]:
        return Climb(steps=1, restarts=1), Climb(steps=10, restarts=2, side_by_side=2)


def test_a_cascade_counts_what_its_stages_cost() -> None:
    model, x, y = module_and_images(100)
    result = rbl.evaluate(model, x, y, attacks=[Cascade(), Climb(steps=1, restarts=1)], threat=LINF, **QUIET)
    rows, first = (frame for _, frame in result.records.groupby("attack", sort=False))
    by_first = first["broken"].to_numpy()
    assert (rows["broken"].to_numpy() >= by_first).all()
    assert (rows["forwards"].to_numpy()[by_first] == 1).all()
    assert set(rows.loc[~rows["broken"], "forwards"]) == {21}


def test_a_cascade_is_refused_without_a_radius() -> None:
    model, x, y = module_and_images(4)
    with pytest.raises(UserError, match="cascade"):
        rbl.evaluate(model, x, y, attacks=Cascade(), threat="Linf", **QUIET)


# -- files -------------------------------------------------------------------------------------------------------------


def test_a_run_killed_before_its_parts_were_joined_ends_in_the_same_files(tmp_path: Path) -> None:
    model, x, y = module_and_images()
    run = partial(rbl.evaluate, model, x, y, attacks=Climb(restarts=1), threat=LINF, out=tmp_path, **QUIET)
    (whole,) = sorted((tmp_path / "records").rglob("*.parquet")) if run() else ()
    before = whole.read_bytes()
    whole.rename(whole.with_name("part-00000000-000060-00000000.parquet"))
    run()
    assert [path.read_bytes() for path in whole.parent.glob("*.parquet")] == [before]
    assert whole.exists()


def test_examples_that_are_asked_for_later_are_made_later(tmp_path: Path) -> None:
    model, x, y = module_and_images(20)
    run = partial(rbl.evaluate, model, x, y, attacks=Climb(restarts=1), threat=LINF, out=tmp_path, **QUIET)
    few, every = run(examples="3"), run(examples="all")
    pd.testing.assert_frame_equal(few.records, every.records)
    (kept,) = every.examples.values()
    assert sorted(kept) == list(range(20))
    fresh = rbl.evaluate(model, x, y, attacks=Climb(restarts=1), threat=LINF, examples="all", **QUIET)
    assert all(np.array_equal(kept[index], adv) for index, adv in next(iter(fresh.examples.values())).items())


def test_a_picture_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, y = module_and_images(20)
    run = partial(rbl.evaluate, model, x, y, attacks="fgsm", threat=LINF, out=tmp_path, **QUIET)
    run()
    before = (tmp_path / "bars.png").read_bytes()

    def half(summary: pd.DataFrame, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(plots, "plot_bars", half)
    with pytest.raises(UserError, match="No space left"):
        run()
    assert (tmp_path / "bars.png").read_bytes() == before


def test_what_another_run_is_writing_is_left_alone(tmp_path: Path) -> None:
    new, old = tmp_path / ".rows.parquet.1.tmp", tmp_path / ".rows.parquet.2.tmp"
    for path in (new, old):
        path.write_bytes(b"")
    os.utime(old, (time.time() - 2 * output._LEFT,) * 2)
    model, x, y = module_and_images(8)
    rbl.evaluate(model, x, y, attacks="fgsm", threat=LINF, out=tmp_path, **QUIET)
    assert new.exists()
    assert not old.exists()


# -- attacks that learn first ------------------------------------------------------------------------------------------


def test_an_attack_that_learns_first_is_given_what_is_not_evaluated(tmp_path: Path) -> None:
    system = affine(classes=3)
    x, y, _ = samples(system, 120)
    run = partial(rbl.evaluate, system, x, y, attacks=Substitute(rounds=2), threat="Linf:0.1", out=tmp_path, **QUIET)
    result = run(samples="first:40")
    row = result.table.iloc[0]
    assert not result.failed
    assert row["setup_queries"] == 80 * 2**2  # three labellings of 80, 80 and 160 images
    assert row["setup_seconds"] > 0
    assert row["forwards"] == 0
    assert row["success_rate"] > 0.3
    again = run(samples="first:40")  # nothing is computed, and nothing is forgotten
    assert again.table.iloc[0]["setup_queries"] == row["setup_queries"]
    pd.testing.assert_frame_equal(again.records, result.records)
    assert keys(run(samples="first:50")) != keys(result)  # it learns from other samples there


def test_without_a_sample_to_learn_from_it_is_refused() -> None:
    system = affine(classes=3)
    x, y, _ = samples(system, 20)
    with pytest.raises(UserError, match="none is left to learn from"):
        rbl.evaluate(system, x, y, attacks=Substitute(rounds=1), threat="Linf:0.1", **QUIET)


def test_samples_to_learn_from_are_balanced_and_not_evaluated() -> None:
    y = np.repeat(np.arange(4), 25)
    data = from_tensors(np.zeros((100, 1, 2, 2), dtype=np.float32), y)
    chosen = outside(data, np.arange(10), 40, seed=3)
    assert not np.isin(chosen, np.arange(10)).any()
    assert np.bincount(y[chosen]).tolist() == [10, 10, 10, 10]
    assert (np.diff(chosen) > 0).all()


def test_blocks_do_not_change_what_an_asker_says_or_counts() -> None:
    system = two_layers()
    x, y, _ = samples(system, 50)
    whole, cut = (Asker(Climb(), system, Threat(norm="Linf", eps=0.1), block=block) for block in (None, 16))
    one, other = whole(x, margin, y=y), cut(x, margin, y=y)
    assert (whole.forwards, whole.backwards) == (cut.forwards, cut.backwards) == (50, 50)
    assert one.grads is not None
    assert other.grads is not None
    torch.testing.assert_close(one.grads, other.grads)
    torch.testing.assert_close(one.values, other.values)
    assert torch.equal(one.adversarial, other.adversarial)


def test_scripted_points_have_a_key() -> None:
    attack = Scripted(points=lambda x, k: x)
    assert fingerprint(attack) == fingerprint(attack)
