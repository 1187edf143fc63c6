"""Transfer attacks: what each option does to the inner attack, and what the system under attack is asked: nothing."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from toys import affine, samples, two_layers

import robustbench_lite as rbl
from robustbench_lite.attack import Model, craft, resolve_attack
from robustbench_lite.attacks.gradient import MIFGSM
from robustbench_lite.attacks.transfer import Transfer, placed, smoothed
from robustbench_lite.cache import cache_dir
from robustbench_lite.data.tensors import from_tensors
from robustbench_lite.defense import Workshop
from robustbench_lite.errors import UserError
from robustbench_lite.hashing.values import hash_value
from robustbench_lite.networks import bound
from robustbench_lite.objectives import Goal, cross_entropy
from robustbench_lite.oracle import Needs, Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.results import tables
from robustbench_lite.run.shelf import Shelf
from robustbench_lite.system import System
from robustbench_lite.threat import Threat

LINF = Threat(norm="Linf", eps=0.1)
QUIET: dict[str, Any] = {"diagnostics": False}
WHITE = "mifgsm:steps=5"


def of(source: System, **options: Any) -> Transfer:
    inner = options.pop("attack", resolve_attack(WHITE))
    return Transfer(model=Model("source", system=source), attack=inner, **options)


def crafted(attack: Transfer, x: Tensor, y: Tensor, *, threat: Threat = LINF) -> Tensor:
    return craft(attack, affine(classes=5, side=8), x, Goal(y=y), threat, Draws.for_images(0, x, y))


def on_source(spec: str, source: System, x: Tensor, y: Tensor) -> Tensor:
    return craft(resolve_attack(spec), source, x, Goal(y=y), LINF, Draws.for_images(0, x, y), block=32)


def coloured(classes: int = 4, side: int = 10, channels: int = 3) -> System:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = nn.Sequential(
            nn.Conv2d(channels, 8, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(8 * side * side, classes)
        )
    return System(model=net, num_classes=classes, input_shape=(channels, side, side), name="coloured")


# -- with its options off it is the inner attack, on the source ---------------------------------------------------------


@pytest.mark.parametrize("spec", ["mifgsm:steps=5", "fgsm", "pgd:steps=4,restarts=2", "mifgsm:steps=4,lookahead=true"])
def test_without_options_it_is_the_inner_attack_on_the_source(spec: str) -> None:
    source = two_layers()
    x, y, _ = samples(source, 40)
    attack = of(source, attack=resolve_attack(spec), di=0.0, ti=1, si=1)
    assert torch.equal(crafted(attack, x, y), on_source(spec, source, x, y))


def test_without_momentum_it_is_the_basic_iterative_method() -> None:
    source = two_layers()
    x, y, _ = samples(source, 40)
    attack = of(source, attack=resolve_attack("mifgsm:steps=5,momentum=0"))
    assert torch.equal(crafted(attack, x, y), on_source("bim:steps=5,step_size=1/5", source, x, y))


def test_from_a_system_to_itself_it_is_as_strong_as_the_closed_form() -> None:
    system = affine(classes=2)
    x, y, _ = samples(system, 200)
    records = rbl.evaluate(system, x, y, attacks=of(system), threat="Linf:0.05", **QUIET).records
    weight = system.model.weight.float()  # type: ignore[union-attr]  # a parameter
    towards = (weight[1 - y] - weight[y]).view_as(x)
    worst = x + (0.05 * towards.sign()).clamp(-x, 1 - x)
    expected = system(worst).prediction() != y
    assert 20 < int(expected.sum()) < 180
    assert records["broken"].tolist() == expected.tolist()
    assert records["source_broken"].tolist() == expected.tolist()
    assert (records["forwards"] == 0).all()
    assert (records["backwards"] == 0).all()


def test_the_system_under_attack_is_never_asked() -> None:
    source, system = two_layers(seed=1), two_layers()
    x, y, draws = samples(system, 8)
    attack = of(source)
    oracle = Oracle(system, Needs.NOTHING, x, Goal(y=y), LINF, draws)
    state = attack.step(attack.start(x, Goal(y=y), LINF, draws, oracle), oracle)
    assert not bool(oracle.ledger.forwards.any())
    assert not torch.equal(state.adv, x)
    assert attack.submits_last


# -- input diversity ---------------------------------------------------------------------------------------------------


def test_an_image_is_shrunk_bilinearly_and_put_on_black() -> None:
    x = torch.rand((4, 3, 20, 20), generator=torch.Generator().manual_seed(0))
    size, top, left = torch.tensor([[0.0, 0.999, 0.5, 0.5], [0.0, 0.0, 0.999, 0.5], [0.0, 0.999, 0.4, 0.0]]).double()
    found = placed(x, size, top, left)
    for row, (small, down, right) in enumerate([(18, 0, 0), (19, 0, 1), (19, 1, 0), (19, 1, 0)]):
        shrunk = F.interpolate(x[row : row + 1], size=(small, small), mode="bilinear", align_corners=False)
        rest = 20 - small
        expected = F.pad(shrunk, (right, rest - right, down, rest - down))
        torch.testing.assert_close(found[row : row + 1], expected, rtol=0, atol=3e-6)


def test_diversity_has_its_chance_is_drawn_for_each_sample_and_anew_at_each_query() -> None:
    attack = of(two_layers(), di=0.5)
    x = torch.rand((600, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    draws = Draws.for_images(0, x, torch.zeros(600, dtype=torch.int64))
    first, second = attack._shrunk(x, draws, 0), attack._shrunk(x, draws, 1)
    changed = (first != x).flatten(1).any(1)
    assert 240 <= int(changed.sum()) <= 360
    assert not torch.equal(first, second)
    index = torch.arange(600) % 2
    mixed = attack._shrunk(x, draws, index)
    assert torch.equal(mixed, torch.where(index.bool()[:, None, None, None], second, first))
    assert torch.equal(attack._shrunk(x[7:8], draws[7:8], 0), first[7:8])
    assert torch.equal(of(two_layers(), di=1e-12)._shrunk(x, draws, 0), x)


# -- translation and scale invariance, look-ahead ----------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_the_gradient_is_smoothed_by_the_papers_kernel_in_each_channel(channels: int) -> None:
    source = coloured(channels=channels)
    x, y, draws = samples(source, 6)
    line = np.exp(-(np.linspace(-3, 3, 5) ** 2) / 2)
    kernel = torch.from_numpy(np.outer(line, line) / np.outer(line, line).sum()).float()
    plain, smooth = gradient(source, x, y, draws), gradient(of(source, ti=5).climbed(), x, y, draws)
    for channel in range(channels):
        expected = F.conv2d(plain[:, channel : channel + 1], kernel[None, None], padding=2)
        torch.testing.assert_close(smooth[:, channel : channel + 1], expected, rtol=1e-4, atol=1e-7)


def test_smoothing_changes_no_answer() -> None:
    source = coloured()
    x, _, _ = samples(source, 6)
    climbed = of(source, ti=5).climbed()
    assert torch.equal(climbed(x, adaptive=True).scores, source(x).scores)
    assert torch.allclose(smoothed(torch.ones((1, 2, 9, 9)), 3)[:, :, 1:-1, 1:-1], torch.ones(1))


def test_copies_average_the_gradients_not_the_scores() -> None:
    source = two_layers()
    x, y, draws = samples(source, 6)
    attack = of(source, si=3)
    oracle = Oracle(attack.climbed(), Needs.GRADIENTS, x, Goal(y=y), LINF, draws, eot=attack.averaged)
    for _ in range(2):  # whatever was asked before, a query begins with the image itself
        grads = oracle.query(x, cross_entropy).grads
        assert grads is not None
        leaf = x.clone().requires_grad_(True)
        loss = sum(F.cross_entropy(source(leaf / 2**copy).scores, y, reduction="sum") for copy in range(3))
        (expected,) = torch.autograd.grad(loss / 3, leaf)  # type: ignore[operator]  # a sum of tensors
        torch.testing.assert_close(grads[0], expected, rtol=1e-4, atol=1e-6)


def test_the_look_ahead_is_a_step_of_the_mean_absolute_gradient() -> None:
    """With gradients of L1 norm 1 it would be no look-ahead at all."""
    source = two_layers()
    x, y, draws = samples(source, 5)
    attack, alpha = resolve_attack("mifgsm:steps=4,lookahead=true"), LINF.radius / 4
    found = craft(attack, source, x, Goal(y=y), LINF, draws)
    adv, velocity = x, torch.zeros_like(x)
    for _ in range(4):
        slope = gradient(source, adv + alpha * velocity, y, draws)
        velocity = velocity + slope / slope.abs().mean((1, 2, 3), keepdim=True)
        adv = LINF.project(adv + alpha * velocity.sign(), x)
    torch.testing.assert_close(found, adv, rtol=0, atol=1e-6)
    assert not torch.equal(found, craft(resolve_attack("mifgsm:steps=4"), source, x, Goal(y=y), LINF, draws))


@pytest.mark.parametrize("options", [{}, {"di": 1.0}, {"ti": 3}, {"si": 3}, {"di": 0.5, "ti": 3, "si": 2}])
def test_a_gradient_of_zero_does_no_harm_on_one_channel(options: dict[str, Any]) -> None:
    flat = affine(classes=3, side=8)
    flat.model.weight.data.zero_()  # type: ignore[union-attr, operator]  # a parameter
    x = torch.rand((5, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    adv = crafted(of(flat, **options), x, torch.zeros(5, dtype=torch.int64))
    assert bool(adv.isfinite().all())
    assert torch.equal(adv, x)


def test_diversity_and_smoothing_keep_the_momentum() -> None:
    # In torchattacks the decay of both is 0, and the momentum off.
    attack = resolve_attack("transfer:di=0.5,ti=3")
    assert isinstance(attack, Transfer)
    assert isinstance(attack.attack, MIFGSM)
    assert attack.attack.momentum == 1


@pytest.mark.parametrize("options", [{"di": 0.7}, {"ti": 3, "di": 0.5, "si": 2}])
def test_an_example_does_not_depend_on_its_company(options: dict[str, Any]) -> None:
    attack = of(two_layers(), **options)
    x, y, _ = samples(two_layers(), 70)
    together = crafted(attack, x, y)
    assert torch.equal(crafted(attack, x[33:34], y[33:34]), together[33:34])
    assert torch.equal(crafted(attack, x.flip(0), y.flip(0)).flip(0), together)


# -- networks that options name ----------------------------------------------------------------------------------------


def test_several_sources_answer_with_the_mean_of_their_logits() -> None:
    systems = {"one": two_layers(seed=1), "two": two_layers(seed=2)}
    attack = bound(Transfer(model=Model("one+(two)")), named(systems))
    x, _, _ = samples(systems["one"], 4)
    mean = (systems["one"](x).scores + systems["two"](x).scores) / 2
    torch.testing.assert_close(attack.crafted_on(x).scores, mean)


def test_a_network_is_found_in_an_attack_inside_another_one() -> None:
    attack = Transfer(attack=resolve_attack(WHITE), model=Model("one"))
    system = two_layers()
    outer = Holds(inner=attack)
    assert bound(outer, named({"one": system})).inner.crafted_on is system
    assert bound(resolve_attack("pgd"), named({})) == resolve_attack("pgd")


def test_what_is_only_named_says_so() -> None:
    x, y, _ = samples(two_layers(), 2)
    with pytest.raises(UserError, match="'resnet20' is named but not loaded"):
        crafted(Transfer(model=Model("resnet20")), x, y)


def test_another_file_of_weights_is_another_key(tmp_path: Path) -> None:
    system = two_layers()
    x, y, _ = samples(system, 12)
    file, keys = tmp_path / "net.safetensors", set()
    for seed in (1, 2):
        save(two_layers(seed=seed), file)
        text = f"transfer:model=(linear_layers.py:make;weights={file})"
        code = tmp_path / "linear_layers.py"
        code.write_text(
            "from torch import nn\n"
            "def make():\n"
            "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5))\n"
        )
        text = text.replace("linear_layers.py", str(code))
        result = rbl.evaluate(system, x, y, attacks=text, threat=str(LINF), **QUIET)
        keys |= set(result.records["key"])
        assert not result.failed
    assert len(keys) == 2


@pytest.mark.parametrize(
    "spec, message",
    [
        ("transfer:model=(checkpoint:net.pt)", "is a pickle and could run code"),
        ("transfer:model=small-cn", "did you mean 'small-cnn'"),
        ("transfer:model=linear", "linear has no weights, so it must be trained"),
        ("transfer:ti=4", "ti=4; accepted: an odd number"),
        ("transfer:di=1.5", "di=1.5; accepted: a chance"),
        ("transfer:attack=(transfer)", "accepted: an attack of one stage"),
        ("transfer:attack=(substitute)", "accepted: an attack of one stage"),
    ],
)
def test_mistakes_are_told_before_anything_runs(spec: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "net.pt").write_bytes(b"")
    system = two_layers()
    x, y, _ = samples(system, 4)
    with pytest.raises(UserError, match=message):
        rbl.evaluate(system, x, y, attacks=spec.replace("net.pt", str(tmp_path / "net.pt")), threat=str(LINF), **QUIET)


def test_it_knows_the_norms_of_the_inner_attack() -> None:
    fgsm, pgd = (of(two_layers(), attack=resolve_attack(spec)) for spec in ("fgsm", "pgd"))
    fgsm.check(Threat(norm="L0", eps=3), 5)
    with pytest.raises(UserError, match="transfer does not support L0; it supports Linf, L2, L1"):
        pgd.check(Threat(norm="L0", eps=3), 5)


def test_a_source_without_weights_is_trained_by_a_seed_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RBL_CACHE", str(tmp_path))
    seeds = []
    x, y, _ = samples(two_layers(), 64)
    data = from_tensors(x, y, num_classes=5)

    def workshop() -> Workshop:
        seeds.append(0)
        return Workshop(train=replace(data, split="train"), seed=0)

    shelf = Shelf(data=data, device=torch.device("cpu"), allow_pickle=False, workshop=workshop).of(5)
    system = shelf.model("linear")
    assert shelf.model("linear") is system
    assert len(seeds) == 1
    assert not system.notes
    assert float((system(x).prediction() == y).float().mean()) > 0.5
    again = replace(shelf, kept={}).model("linear")  # from the cache
    assert hash_value(Model("linear", system=again)) == hash_value(Model("linear", system=system))
    assert again is not system
    (card,) = (cache_dir() / "models").glob("*.json")
    assert '"seed": 0' not in card.read_text()


# -- what is told ------------------------------------------------------------------------------------------------------


def test_the_table_tells_how_good_the_source_is_and_what_transfers(tmp_path: Path) -> None:
    system, source = two_layers(), two_layers(seed=5)
    x, y, _ = samples(system, 60)
    y[:6] = (y[:6] + 1) % 5  # six that the system gets wrong
    evaluate: Callable[..., Any] = partial(rbl.evaluate, system, x, y, threat=str(LINF), out=tmp_path, **QUIET)
    row = evaluate(attacks=[of(source), "fgsm"]).table.set_index("attack")
    mine, other = row.iloc[0], row.loc["fgsm"]
    said, truth = source(x).prediction(), system(x).prediction()
    both = (said == y) & (truth == y)
    adv = crafted_all(of(source), x, y)
    hits = system(adv).prediction()[both] != y[both]
    assert mine["source_acc"] == pytest.approx(float((said == y).float().mean()))
    assert mine["source_agreement"] == pytest.approx(float((said == truth).float().mean()))
    assert mine["transfer"] == pytest.approx(float(hits.float().mean()))
    assert mine["source_success"] == pytest.approx(float((source(adv).prediction() != y)[both].float().mean()))
    assert mine["transfer_low"] < mine["transfer"] < mine["transfer_high"]
    assert other[["source_acc", "transfer"]].isna().all()
    text = tables.text(tables.comparative(evaluate(attacks=[of(source), "fgsm"]).table))
    assert "agrees with the system on" in " ".join(text.split())


def crafted_all(attack: Transfer, x: Tensor, y: Tensor) -> Tensor:
    return crafted(attack, x, y)


def gradient(system: System, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
    leaf = x.clone().requires_grad_(True)
    outputs = system(leaf, draws, 0, adaptive=True)
    (slope,) = torch.autograd.grad(F.cross_entropy(outputs.scores, y, reduction="sum"), leaf)
    return slope


def save(system: System, path: Path) -> None:
    from safetensors.torch import save_file

    save_file(system.model.state_dict(), path)


class named:  # noqa: N801  # reads as a word
    """A shelf of systems by name."""

    def __init__(self, systems: dict[str, System]) -> None:
        self.systems = systems

    def model(self, text: str) -> System:
        return self.systems[text]

    def architecture(self, text: str) -> Any:
        raise KeyError(text)


def Holds(inner: Transfer) -> Any:  # noqa: N802  # stands for a class
    from dataclasses import make_dataclass

    kind = make_dataclass("Holds", [("inner", Transfer)], frozen=True)
    return kind(inner)
