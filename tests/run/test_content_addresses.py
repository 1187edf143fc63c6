"""What could answer differently has another key, and a random system is not robust by luck: found in review, each red once."""

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from reviewing import LINF, QUIET, Around, keys, module_and_images
from torch import Tensor, nn
from toys import Climb, Scripted, samples, two_layers

import robustbench_lite as rbl
from robustbench_lite.attack import Attack
from robustbench_lite.errors import UserError
from robustbench_lite.hashing.values import hash_value
from robustbench_lite.run.reporter import Silent
from robustbench_lite.system import Detector, System


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
    assert len({hash_value(attack) for attack in attacks}) == len(attacks)
    assert hash_value(Wrapping(patch=long)) == hash_value(Wrapping(patch=long.clone()))
    assert hash_value(Wrapping) != hash_value(Climb)  # the file of the base class counts too


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


class ReadsAFile(nn.Module):
    """Answers by what stands in a file, which no key can see."""

    def __init__(self, network: nn.Module, file: Path) -> None:
        super().__init__()
        self.network, self.file = network, str(file)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.network(x)
        return scores.roll(int(Path(self.file).read_text()), 1)


def test_records_of_a_system_that_answers_otherwise_by_now_are_computed_anew(tmp_path: Path) -> None:
    model, x, y = module_and_images()
    file, told = tmp_path / "shift", list[str]()

    class Listening(Silent):
        def note(self, text: str) -> None:
            told.append(text)

    def again() -> pd.DataFrame:
        result = rbl.evaluate(
            ReadsAFile(model, file),
            x,
            y,
            attacks="fgsm",
            threat=LINF,
            out=tmp_path / "run",
            reporter=Listening(),
            **QUIET,
        )
        return result.records.drop(columns="key")

    file.write_text("0")
    first = again()
    assert again().equals(first)
    assert not told
    file.write_text("1")
    second = again()
    assert len(told) == 1
    assert "stale" in told[0]
    assert not second["clean_prediction"].equals(first["clean_prediction"])
    assert again().equals(second)
    assert len(told) == 1


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
