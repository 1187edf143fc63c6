"""Honest systems, none of which the checks of answers may accuse. `python tests/controls/honest_runs.py [GROUP…]`

Digits networks of ten seeds and four architectures, all defenses that are built in, coarse arithmetic, odd but honest
outputs, networks of timm with random weights, those that the repository holds, and slices on which a good model looks bad. Of
each are made an attack and the checks that are new; what fires is counted and listed. A part of it is in the suite.
"""

import copy
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_lite import data, zoo
from robustbench_lite.attack import resolve_attack
from robustbench_lite.data.tensors import from_tensors
from robustbench_lite.defense import Workshop, resolve_defense
from robustbench_lite.oracle import overheard
from robustbench_lite.results import diagnostics
from robustbench_lite.results.diagnostics import Diagnostic
from robustbench_lite.run.build import defended_system
from robustbench_lite.run.cell import Cell
from robustbench_lite.run.clean_accuracy import clean_accuracy
from robustbench_lite.run.detector_probes import detector_without_slope
from robustbench_lite.run.gradient_probes import nonfinite_gradients
from robustbench_lite.run.probes import checks_of_answers
from robustbench_lite.run.records import Records
from robustbench_lite.run.run_cell import run_cell
from robustbench_lite.run.subject import prepare
from robustbench_lite.run.tape import Tape
from robustbench_lite.system import System
from robustbench_lite.threat import Threat

ATTACK = "pgd:steps=10,restarts=1"
#: what may fire on an honest system that is random
NAMES = (
    *("clean-accuracy", "order-dependent", "mode-dependent", "stateful", "answers-vary", "denied-by-verdict"),
    *("nonfinite-gradients", "detector-without-slope"),
)


@dataclass(frozen=True)
class Honest:
    """A system and the images that it is asked about."""

    name: str
    system: System
    x: Tensor
    y: Tensor
    threat: str = "Linf:0.1"


def fired(honest: Honest) -> dict[str, Diagnostic]:
    """The new checks that fire."""
    found = from_tensors(honest.x, honest.y)
    threat = Threat.parse(honest.threat)
    subject = prepare(
        model=honest.name, defense="none", system=honest.system, data=found, indices=np.arange(len(found)), seed=0,
        device=torch.device("cpu"), adaptive=True,
    )  # fmt: skip
    attack = resolve_attack(ATTACK)
    cell = Cell(
        subject=subject, attack=attack, attack_text=str(attack), threat=threat, threat_text=str(threat),
        keep=frozenset(range(min(16, len(found)))),
    )  # fmt: skip
    tape = Tape(subject=subject)
    with overheard(tape):
        ran = run_cell(cell, Records(None), lambda done, broken: None)
    assert not ran.failed, ran.failed
    chosen = (~subject.clean.wrong).nonzero().squeeze(1)
    told = [clean_accuracy(subject), *checks_of_answers(subject, threat, [(ran.rows, ran.examples)], tape)]
    if len(chosen):
        told += [detector_without_slope(subject, chosen, threat), nonfinite_gradients(subject, chosen, threat)]
        told.append(diagnostics.denied_by_verdict(ran.rows))
    random = subject.system.randomised
    return {
        one.name: one
        for one in told
        if one.status == "fired" and one.name in NAMES and not (random and one.name == "answers-vary")
    }


# -- networks for digits ---------------------------------------------------------------------------------------------

ARCHITECTURES: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)),
    "cnn": lambda: nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)
    ),
    "cnn with batch norm": lambda: nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, 2), nn.BatchNorm2d(32)),
        *(nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)),
    ),
    "cnn with max pooling": lambda: nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.GELU(), nn.MaxPool2d(2), nn.Flatten(), nn.LayerNorm(512), nn.Linear(512, 10)
    ),
}


@cache
def split(name: str) -> tuple[Tensor, Tensor]:
    found = data.load("digits", name)  # type: ignore[arg-type]
    return found.batch(range(len(found))), found.labels_at(range(len(found)))


@cache
def trained(kind: str, seed: int, steps: int = 200) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        (x, y), net = split("train"), ARCHITECTURES[kind]()
        optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
        for _ in range(steps):
            rows = torch.randint(len(x), (128,))
            optimizer.zero_grad()
            F.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
    return net.eval().requires_grad_(False)


def system_of(net: nn.Module, shape: tuple[int, int, int] = (1, 8, 8), classes: int = 10) -> System:
    return System(model=net.eval(), num_classes=classes, input_shape=shape)


def on_digits(name: str, net: nn.Module | System, count: int = 60, threat: str = "Linf:0.1") -> Honest:
    x, y = split("test")
    return Honest(name, net if isinstance(net, System) else system_of(net), x[:count], y[:count], threat)


def digits() -> Iterator[Honest]:
    for kind in ARCHITECTURES:
        for seed in range(10):
            yield on_digits(f"{kind}, seed {seed}", trained(kind, seed), threat=("Linf:0.1", "L2:0.5")[seed % 2])


# -- defenses --------------------------------------------------------------------------------------------------------

AROUND = (
    *("bit-depth:bits=2", "bit-depth:bits=3", "jpeg", "jpeg:quality=25", "blur", "median", "tv"),
    *("random-resize-pad", "randomized-smoothing:epochs=2", "feature-squeezing", "kde", "mahalanobis", "lid"),
    *("softmax-threshold", "magnet", "safetynet", "denoising-autoencoder"),
)
TRAINED = (
    *("none", "adversarial-training:epochs=3", "trades:epochs=3", "mart:epochs=3", "alp:epochs=3", "clp:epochs=5"),
    *("lsq:epochs=5", "distillation", "distillation:temperature=100", "label-smoothing:epochs=5", "fast-at:epochs=3"),
    *("free-at:epochs=3", "virtual-adversarial:epochs=3", "domain-adversarial:epochs=5"),
)


def _defended(spec: str, model: zoo.LoadedModel | System, seed: int) -> Honest | None:
    train = data.load("digits", "train")
    workshop = Workshop(train=train, threats=(Threat.parse("Linf:0.1"),), seed=seed)
    try:
        return on_digits(f"{spec}, seed {seed}", defended_system(model, resolve_defense(spec), lambda: workshop))
    except Exception as error:
        print(f"      {spec} cannot be made: {error}")
        return None


def around() -> Iterator[Honest]:
    for seed in range(5):
        for spec in AROUND:
            if (
                made := _defended(spec, system_of(copy.deepcopy(trained("cnn with batch norm", seed))), seed)
            ) is not None:
                yield made


def trainings() -> Iterator[Honest]:
    for spec in TRAINED:
        model = zoo.load("small-cnn", num_classes=10, input_shape=(1, 8, 8))
        if (made := _defended(spec, model, 0)) is not None:
            yield made


# -- coarse arithmetic -----------------------------------------------------------------------------------------------


class Cast(nn.Module):
    def __init__(self, net: nn.Module, kind: torch.dtype) -> None:
        super().__init__()
        self.net, self.kind = copy.deepcopy(net).to(kind), kind

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.net(x.to(self.kind))
        return scores


class Autocast(nn.Module):
    """All but the last layer in bfloat16."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        assert isinstance(net, nn.Sequential)
        self.body, self.head = net[:-1], net[-1]

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            inner = self.body(x)
        scores: Tensor = self.head(inner.float())
        return scores


def coarse() -> Iterator[Honest]:
    warnings.simplefilter("ignore")
    for seed in range(6):
        mlp, cnn = trained("mlp", seed), trained("cnn with batch norm", seed)
        quick = torch.ao.quantization.quantize_dynamic(copy.deepcopy(mlp), {nn.Linear}, dtype=torch.qint8)
        yield on_digits(f"int8, a scale for each batch, seed {seed}", quick)
        for kind in (torch.float16, torch.bfloat16):
            yield on_digits(f"mlp in {kind}, seed {seed}", Cast(mlp, kind))
            yield on_digits(f"cnn in {kind}, seed {seed}", Cast(cnn, kind))
        yield on_digits(f"cnn under autocast, seed {seed}", Autocast(cnn))


# -- odd, but honest -------------------------------------------------------------------------------------------------


class Odd(nn.Module):
    def __init__(
        self, net: nn.Module, before: Callable[[Tensor], Tensor] | None, after: Callable[[Tensor], Tensor] | None
    ) -> None:
        super().__init__()
        self.net, self.before, self.after = net, before, after

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.net(x if self.before is None else self.before(x))
        return scores if self.after is None else self.after(scores)


class KeepsItsFeatures(nn.Module):
    """Notes what it saw last, as for a picture of its features, and counts its calls."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.calls, self.last, self.sizes = net, 0, torch.zeros(1), dict[int, Tensor]()

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.last = x.detach()
        place = self.sizes.setdefault(len(x), torch.zeros(len(x), 1))
        scores: Tensor = self.net(x)
        return scores + place


ODD: dict[str, tuple[Callable[[Tensor], Tensor] | None, Callable[[Tensor], Tensor] | None]] = {
    "a constant of 1000 on all logits": (None, lambda z: z + 1000),
    "logits times 1000": (None, lambda z: z * 1000),
    "logits of a hundredth": (None, lambda z: z / 100),
    "probabilities": (None, lambda z: z.softmax(1)),
    "log-probabilities": (None, lambda z: z.log_softmax(1)),
    "float64 inside": (None, lambda z: z.double().softmax(1)),
    "rounded to 17 levels": (lambda x: (x * 16).round() / 16, None),
    "gamma": (lambda x: x.clamp(min=1e-3) ** 0.9, None),
    "a class at minus infinity": (None, lambda z: torch.cat((z, torch.full_like(z[:, :1], -torch.inf)), 1)),
}


def odd() -> Iterator[Honest]:
    for seed in range(3):
        net = trained("cnn with batch norm", seed)
        for name, (before, after) in ODD.items():
            classes = 11 if "infinity" in name else 10
            yield on_digits(f"{name}, seed {seed}", system_of(Odd(net, before, after), classes=classes))
        yield on_digits(f"keeps its features, seed {seed}", KeepsItsFeatures(net))


# -- slices ----------------------------------------------------------------------------------------------------------


def slices() -> Iterator[Honest]:
    """Few images, images of one class, of nearly one class; and networks that are honestly bad."""
    x, y = split("test")
    system = system_of(trained("cnn", 0))
    for k in range(10):
        rows = (y == k).nonzero()[:30, 0]
        yield Honest(f"class {k} alone", system, x[rows], y[rows])
        others = (y != k).nonzero()[:3, 0]
        rows = torch.cat((rows, others))
        yield Honest(f"class {k} and three others", system, x[rows], y[rows])
    for count in (1, 2, 3, 5, 8):
        yield Honest(f"{count} images", system, x[:count], y[:count])
    for seed in range(10):
        yield on_digits(f"after 12 steps, seed {seed}", trained("cnn", seed, 12))


# -- others' networks ------------------------------------------------------------------------------------------------

TIMM = (
    *("resnet10t", "resnet18", "resnet26d", "resnext26ts", "seresnext26t_32x4d", "wide_resnet50_2", "resnetv2_50"),
    *("densenet121", "vgg11_bn", "inception_v3", "mobilenetv2_050", "mobilenetv3_small_050", "mobilenetv4_conv_small"),
    *("efficientnet_lite0", "efficientnet_b0", "mnasnet_050", "spnasnet_100", "tinynet_e", "lcnet_050", "ghostnet_050"),
    *("regnetx_002", "regnety_002", "rexnet_100", "convnext_atto", "convnextv2_atto", "repvgg_a0", "hardcorenas_a"),
    *("dla34", "dpn48b", "gernet_s", "eca_nfnet_l0", "res2net50_14w_8s", "selecsls42b", "semnasnet_075", "skresnet18"),
    *("vovnet39a", "xception41", "hrnet_w18_small", "cspresnet50", "fbnetc_100", "vit_tiny_patch16_224"),
    *("deit_tiny_patch16_224", "mixer_s32_224", "resmlp_12_224", "swin_tiny_patch4_window7_224", "poolformer_s12"),
    *("pvt_v2_b0", "edgenext_xx_small", "mobilevit_xxs", "levit_128s", "tresnet_m", "visformer_tiny", "starnet_s1"),
)


def timm() -> Iterator[Honest]:
    """Random weights on random images, with labels of their own but for one in eight."""
    import timm as library

    draw = torch.Generator().manual_seed(0)
    for name in TIMM:
        torch.manual_seed(0)
        try:
            net = library.create_model(name, pretrained=False, num_classes=100).eval()
        except Exception as error:  # another version of timm
            print(f"      {name} cannot be made: {error}")
            continue
        size = net.default_cfg["input_size"][-1] if net.default_cfg.get("fixed_input_size") else 96
        x = F.interpolate(torch.rand(8, 3, 12, 12, generator=draw), (size, size), mode="bilinear")
        try:
            with torch.no_grad():
                y = net(x).argmax(1)
        except Exception as error:  # not at this size
            print(f"      {name} cannot be asked: {error}")
            continue
        y[0] = (y[0] + 1) % 100
        yield Honest(f"timm:{name}", system_of(net, (3, size, size), 100), x, y, "Linf:4/255")


def _none() -> Workshop:
    raise AssertionError("nothing is trained")


def committed() -> Iterator[Honest]:
    """The networks of the repository, and those of the shared data, where these are."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from shared_data import cifar_test, mnist_test, shared_data

    top = Path(__file__).parents[2] / "leaderboards" / "models"
    sets = {"mnist": (mnist_test, (1, 28, 28), "Linf:0.2"), "cifar10": (cifar_test, (3, 32, 32), "Linf:8/255")}
    paths = [*sorted(top.glob("*.safetensors")), *sorted((shared_data() / "models").glob("*.safetensors"))]
    for path in paths:
        if path.stem.startswith("digits"):
            yield on_digits(
                path.stem,
                defended_system(zoo.load(f"checkpoint:{path}", num_classes=10, input_shape=(1, 8, 8)), (), _none),
            )
            continue
        kind = "mnist" if path.stem.startswith("mnist") else "cifar10"
        load, shape, threat = sets[kind]
        pixels, labels = load(100)
        x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        spec = f"checkpoint:{path}" if path.with_suffix(".json").exists() else f"{path.stem};weights={path}"
        try:
            made = defended_system(zoo.load(spec, num_classes=10, input_shape=shape), (), _none)
        except Exception as error:
            print(f"      {spec} cannot be made: {error}")
            continue
        yield Honest(path.stem, made, x, torch.from_numpy(labels), threat)


GROUPS = {group.__name__: group for group in (digits, around, trainings, coarse, odd, slices, timm, committed)}


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    count, hits = 0, Counter[str]()
    for name in sys.argv[1:] or GROUPS:
        for honest in GROUPS[name]():
            found = fired(honest)
            count += 1
            hits.update(found.keys())
            for one in found.values():
                print(f"FIRED {name}: {honest.name}: {one.name} {one.value:.3f} ({one.detail})", flush=True)
        print(f"      {name}: {count} runs so far", flush=True)
    print(f"{count} honest runs; fired: {dict(hits) or 'nothing'}")


if __name__ == "__main__":
    main()
