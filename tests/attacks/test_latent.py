"""Unrestricted examples: the optimum of linear maps, limits, a judge who is never asked, and what is told of it all."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from generating import LinearPainter, judge, untrained
from torch import nn
from toys import Affine

from robustbench_lite.attacks.latent import Latent
from robustbench_lite.errors import UserError
from robustbench_lite.generators.base import Trained
from robustbench_lite.randomness import Draws
from robustbench_lite.run.latent import Judges, Unrestricted, latent, measure
from robustbench_lite.system import System

SHAPE, CLASSES, LATENT = (1, 4, 4), 2, 5


def system_of(model: nn.Module, classes: int = CLASSES) -> System:
    return System(model=model, num_classes=classes, input_shape=SHAPE)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def painter(scale: float = 0.02) -> LinearPainter:
    """So small that no pixel leaves the box."""
    return LinearPainter(scale * random(CLASSES, 16, LATENT), SHAPE).eval().requires_grad_(False)


def victim(shift: float = 0.0) -> System:
    """Its margin towards class 1 is 2 w (x - 1/2) + 2 shift."""
    w = random(16, seed=1)
    bias = torch.stack((0.5 * w.sum() - shift, -0.5 * w.sum() + shift))
    return system_of(Affine(torch.stack((-w, w)), bias))


def reading(label: int) -> System:
    """A judge who reads the same in everything."""
    return system_of(Affine(torch.zeros(CLASSES, 16), torch.eye(CLASSES)[label]))


def draws(count: int) -> Draws:
    return Draws.of(3, [bytes([row]) for row in range(count)])


def trained(network: LinearPainter | None = None) -> Trained:
    card = {"architecture": "gan", "data": {"name": "nothing"}}
    return Trained(network=network or painter(), card=card, name="painter", digest="0")


def found(**options: object) -> Unrestricted:
    judges = options.pop("judges", Judges(judge=victim(-3.0)))
    settings = Latent(**{"steps": 30, "reach": 1.0, "guidance": 0.0, **options.pop("settings", {})})
    given = {"attempts": 8, "seed": 1, **options}
    return measure(given.pop("system", victim(-0.1)), given.pop("trained", trained()), judges, settings, **given)


@pytest.mark.parametrize("langevin", [False, True])
@pytest.mark.parametrize("label", [0, 1])
def test_the_search_reaches_the_corner_of_its_box_that_is_best_for_linear_maps(label, langevin):
    network, y = painter(), torch.full((6,), label)
    system = victim(-9.0 if label == 0 else 9.0)  # so sure that nothing breaks, and the search goes on to its end
    settings = Latent(steps=60, reach=0.3, langevin=langevin)
    witness, forwards, backwards = settings.search(network, system, y, draws(6), None)
    w = random(16, seed=1) * (1 if label == 0 else -1)
    best = witness.start + 0.3 * (network.weight[label].T @ w).sign()
    torch.testing.assert_close(witness.z, best, rtol=0, atol=1e-6)
    assert (forwards.tolist(), backwards.tolist()) == ([61] * 6, [61] * 6)


def test_without_reach_and_noise_nothing_moves():
    settings = Latent(steps=5, reach=0.0)
    witness, _, _ = settings.search(painter(), victim(-9.0), torch.zeros(4, dtype=torch.int64), draws(4), None)
    assert torch.equal(witness.z, witness.start)
    assert not witness.noise.any()


def test_the_starts_are_the_prior_of_the_attempts():
    witness, _, _ = Latent(steps=1).search(painter(), victim(), torch.zeros(4, dtype=torch.int64), draws(4), None)
    assert torch.equal(witness.start, painter().prior(draws(4)))


@pytest.mark.parametrize("noise", [0.0, 0.05, 1.0])
def test_witnesses_keep_the_limits_and_images_the_box(noise):
    settings = Latent(steps=40, reach=0.2, noise=noise)
    witness, _, _ = settings.search(painter(0.3), victim(-9.0), torch.zeros(5, dtype=torch.int64), draws(5), None)
    assert settings.allowed(witness).all()
    assert float(witness.noise.abs().max()) == pytest.approx(noise, rel=0.05)
    image = settings.render(painter(0.3), witness)
    assert 0 <= float(image.min()) <= float(image.max()) <= 1
    for wrong in (
        replace(witness, z=witness.z + 0.5), replace(witness, noise=torch.full_like(witness.noise, noise + 0.1)),
        replace(witness, z=witness.z * torch.nan),
    ):  # fmt: skip
        assert not settings.allowed(wrong).any()


def test_a_row_is_searched_alone_as_in_a_batch():
    settings, y = Latent(steps=20, reach=0.5, noise=0.1), torch.tensor([0, 1, 0, 1, 0, 1])
    together, paid, _ = settings.search(painter(), victim(-0.2), y, draws(6), None)
    for row in (0, 5):
        at = torch.tensor([row])
        alone, own, _ = settings.search(painter(), victim(-0.2), y[at], draws(6)[at], None)
        torch.testing.assert_close(alone.z[0], together.z[row], rtol=0, atol=1e-5)
        torch.testing.assert_close(alone.noise[0], together.noise[row], rtol=0, atol=1e-5)
        assert int(own) == int(paid[row])


def test_a_row_that_has_found_something_pays_no_more():
    y = torch.zeros(40, dtype=torch.int64)
    _, forwards, backwards = Latent(steps=30, reach=0.5).search(painter(), victim(-0.1), y, draws(40), None)
    assert 1 == int(forwards.min()) < int(forwards.max()) <= 31
    assert torch.equal(forwards, backwards)


def test_the_guide_must_read_the_class_before_the_search_ends():
    y = torch.zeros(8, dtype=torch.int64)
    for label, ends in ((0, True), (1, False)):
        guide = reading(label)
        _, forwards, _ = Latent(steps=10).search(
            painter(), victim(9.0), y, draws(8), lambda x, guide=guide: guide(x).scores
        )
        assert (int(forwards.max()) == 1) is ends


def test_a_success_fools_the_system_and_convinces_the_judge():
    table = found().table
    assert (table["success"] == (table["fooled"] & (table["judge"] == table["class"]))).all()
    assert (table["proxy_legitimate"] == (table["judge"] == table["class"])).all()
    assert (table["fooled"] == (table["prediction"] != table["class"])).all()
    assert 0 < table["success"].mean() < 1


@pytest.mark.parametrize("label", [0, 1])
def test_a_judge_who_reads_but_one_class_leaves_no_success_in_another(label):
    table = found(judges=Judges(judge=reading(label))).table
    assert not table.loc[table["class"] != label, "success"].any()
    assert table.loc[table["class"] != label, "fooled"].any()


def test_the_search_never_asks_the_judge():
    class Asked(nn.Module):
        calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            Asked.calls += 1
            return x.flatten(1)[:, :CLASSES]

    found(judges=Judges(judge=system_of(Asked()), guide=victim(-3.0)), settings={"guidance": 1.0}, attempts=3)
    assert Asked.calls == 2  # before the search and after it, for the one block


def test_a_target_is_what_counts_and_is_no_class_to_begin_with():
    table = found(target=1).table
    assert set(table["class"]) == {0}
    assert (table["fooled"] == (table["prediction"] == 1)).all()
    assert (table["target"] == 1).all()


def test_more_attempts_change_no_earlier_one():
    few, many = found(attempts=3).table, found(attempts=30).table
    pd.testing.assert_frame_equal(few, many.iloc[: len(few)], check_exact=True)


def test_what_is_told_counts_every_attempt():
    result = found(attempts=12)
    every = result.summary.set_index("class").loc["all"]
    assert every["attempts"] == 24 == len(result.table)
    assert every["successes"] == result.table["success"].sum()
    assert every["low"] < every["success_rate"] < every["high"]
    assert every["attempts_each"] == pytest.approx(24 / every["successes"])
    table = result.table
    wrong, shown = table["start_prediction"] != table["class"], table["start_judge"] == table["class"]
    assert every["start_rate"] == pytest.approx((wrong & shown).mean())
    assert every["success_rate"] > every["start_rate"]


def test_files_hold_what_the_images_are_rendered_from(tmp_path):
    result = found(settings={"noise": 0.05})
    result.write(tmp_path)
    kept = np.load(tmp_path / "latent.npz")
    image = (
        painter().decode(torch.from_numpy(kept["z"]), torch.from_numpy(kept["y"])) + torch.from_numpy(kept["noise"])
    ).clamp(0, 1)
    np.testing.assert_allclose(image.numpy(), kept["x"], atol=1e-6)
    assert len(pd.read_csv(tmp_path / "latent.csv")) == len(kept["x"])
    assert pd.read_csv(tmp_path / "latent_summary.csv")["class"].tolist() == ["all", "0", "1"]


def test_global_generators_stay_where_they_are():
    before = torch.get_rng_state().tolist(), repr(np.random.get_state())
    found()
    assert before == (torch.get_rng_state().tolist(), repr(np.random.get_state()))


def test_by_name_everything_is_loaded_and_written(tmp_path):
    generator = untrained(tmp_path / "painter.safetensors", classes=10)
    readers = [judge(tmp_path / f"{seed}.safetensors", random(10, 64, seed=seed), torch.zeros(10)) for seed in (1, 2)]
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    names = [f"checkpoint:{path}" for path in readers]
    given = {"generator": generator, "attempts": 2, "steps": 3, "out": tmp_path / "run", "device": "cpu"}
    result = latent(model, judge=names[0], guide=names[1], **given)
    assert len(result.table) == 20
    assert result.told["judge"] == names[0]
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"latent.csv", "latent_summary.csv", "latent.npz"}
    with pytest.raises(UserError, match="is the judge as well"):
        latent(model, judge=names[0], guide=names[0], **given)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"steps": 0}, "latent: steps=0; accepted: 1 and more"),
        ({"reach": -1}, "reach=-1"),
        ({"noise": 2}, "noise=2; accepted: 0 to 1"),
        ({"learning_rate": 0}, "learning_rate=0"),
        ({"objective": "mragin"}, "did you mean margin"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        Latent(**options)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"attempts": 0}, "attempts=0"),
        ({"target": 2}, "target=2; accepted: a class from 0 to 1"),
        ({"trained": trained(LinearPainter(random(1, 16, LATENT), SHAPE))}, "accepted: a conditional generator"),
        ({"trained": trained(LinearPainter(random(3, 16, LATENT), SHAPE))}, "of 3 classes"),
        ({"trained": trained(LinearPainter(random(2, 20, LATENT), (1, 4, 5)))}, r"makes images \(1, 4, 5\)"),
    ],
)
def test_what_does_not_fit_together_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        found(**options)
