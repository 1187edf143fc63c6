"""Generators as systems: `vae:FILE` and its kin, whose reconstructions a classifier judges, and `discriminator:FILE`."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from robustbench_lite import specs
from robustbench_lite.errors import UserError
from robustbench_lite.randomness import Draws
from robustbench_lite.system import Observed, Outputs, System
from robustbench_lite.zoo.base import LoadedModel, audit, by

if TYPE_CHECKING:
    from robustbench_lite.generators import Network, Trained

#: how a model that reconstructs is written, and the density that its generator must have; None: any
KINDS = {"vae": "approximate", "autoencoder": "none", "generator": None}
#: trained on the dataset's training split where its spec names no weights
JUDGE = "small-cnn"


class Reconstructor(Observed):
    """An encoder and a decoder, and a judge that reads the reconstruction.

    The reconstruction is judged as it is: one of a linear autoencoder may leave [0, 1].

    Args:
        network: encodes and decodes. judge: images -> logits (n, k), of a classifier that has no part in the network.
    """

    def __init__(self, network: "Network", judge: nn.Module) -> None:
        super().__init__()
        self.network, self.judge = network, judge

    def observe(self, x: Tensor) -> Outputs:
        """Images (n, c, h, w) -> the judge's scores of the mean code's image, the code, that image and its variance."""
        code = self.network.encode(x)
        image, sigma_x2 = self.network.decode(code.mean), self.network.sigma_x2
        return Outputs(
            scores=self.judge(image),
            code=code.mean,
            log_variance=code.log_variance,
            image=image,
            sigma_x2=None if sigma_x2 is None else sigma_x2.expand(len(x)),
        )

    def drawn(self, x: Tensor, draws: Draws, index: int = 0) -> Tensor:
        """The judge's scores (n, k) of the image of one draw of the code."""
        noise = draws.normal((self.network.latent,), "code", index)
        scores: Tensor = self.judge(self.network.decode(self.network.encode(x).sample(noise)))
        return scores


class Discriminator(nn.Module):
    """What a GAN's discriminator says, as a classifier of two: logits (0, judge(x)) of fake and real."""

    def __init__(self, network: "Network") -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, c, h, w) -> logits (n, 2); class 1 is real."""
        real = self.network.judge(x)
        return torch.stack((torch.zeros_like(real), real), 1)


def reconstructs(text: str) -> bool:
    """Whether the spec text names a model that reconstructs."""
    return specs.parse_source(text).name.partition(":")[0].lower() in KINDS


def load_reconstructing(text: str, *, input_shape: tuple[int, int, int], judge: Callable[[str], System]) -> System:
    """The system that a spec text such as `vae:FILE;judge=resnet20` names.

    Args:
        input_shape: of the data. judge: from a model's spec text to a classifier of the data.

    Raises:
        UserError: no generator with an encoder, one that is told the label, or one of images of another size.
    """
    spec = specs.parse_source(text)
    kind, _, place = spec.name.partition(":")
    strange = next((key for key in spec.options if key != "judge"), None)
    if strange is not None:
        raise UserError(f"{spec.name} has no option {strange!r}; it has judge")
    found = _read(place, kind)
    density = KINDS[kind.lower()]
    if not found.network.encodes:
        raise UserError(f"{place} holds {_what(found)}, which has no encoder; accepted: an autoencoder or a VAE")
    if density is not None and found.density != density:
        other = next((name for name, own in KINDS.items() if own == found.density), "generator")
        raise UserError(f"{place} holds {_what(found)}; write {other}:{place}")
    if found.network.conditional:
        raise UserError(
            f"{place} holds {_what(found)}, which is told the label of every image, and nobody tells it that of an"
            " adversarial one; accepted: one that is not conditional"
        )
    if found.network.shape != input_shape:
        raise UserError(f"{spec.name} makes images {by(found.network.shape)} but the data has {by(input_shape)}")
    reader = judge(spec.options.get("judge", JUDGE))
    return System(
        model=Reconstructor(found.network, reader.model),
        num_classes=reader.num_classes,
        input_shape=input_shape,
        name=spec.name,
    )


def load_discriminator(
    spec: specs.Spec,
    *,
    num_classes: int,
    input_shape: tuple[int, int, int],
    class_names: tuple[str, ...] | None,
) -> LoadedModel:
    """A GAN's discriminator as a classifier: class 1 is real, class 0 is fake.

    Raises:
        UserError: a generator without a discriminator of single images, options, or data of other classes.
    """
    _, _, place = spec.name.partition(":")
    if spec.options:
        raise UserError(f"{spec.name} has no option {min(spec.options)!r}; it has none")
    found = _read(place, "discriminator")
    if not found.network.judges:
        raise UserError(f"{place} holds {_what(found)}, which has no discriminator; accepted: a GAN")
    if found.network.conditional or getattr(found.network, "packing", 1) > 1:
        told = "the label too" if found.network.conditional else "several images at once"
        raise UserError(f"{place} holds {_what(found)}, which judges {told}; accepted: one that judges an image alone")
    if num_classes != 2:
        raise UserError(
            f"{spec.name} tells real images from generated ones, and the data has {num_classes} classes;"
            f" write --dataset versus:{place};dataset=NAME"
        )
    module = Discriminator(found.network)
    audit(module, name=spec.name, num_classes=2, input_shape=input_shape, class_names=class_names)
    return LoadedModel(name=spec.name, module=module, trained=True, num_classes=2, input_shape=input_shape)


def refuse(text: str) -> UserError:
    """What is said where a classifier is wanted."""
    return UserError(f"{text} is no classifier: it reconstructs images; attack it with --task reconstruction")


def _read(place: str, kind: str) -> "Trained":
    from robustbench_lite.generators import load_generator

    if not place:
        raise UserError(f"{kind}: names no file; write {kind}:FILE")
    return load_generator(Path(place).expanduser())


def _what(found: "Trained") -> str:
    return f"{found.card['architecture']}"
