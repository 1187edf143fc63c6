"""Deep image prior: fit an untrained network to the image, and stop before it has learned the perturbation too."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_lite.attacks.options import at_least, positive
from robustbench_lite.defense import Adaptivity, Defense, Workshop
from robustbench_lite.defenses.hourglass import Hourglass, psnr
from robustbench_lite.errors import UserError
from robustbench_lite.randomness import Draws
from robustbench_lite.system import Purifier, System, itself

#: side in pixels up to which an image is small, and what is used for such images and for larger ones
_SMALL = 16
_SCALES, _WIDTH, _ITERATIONS = (2, 3), (16, 32), (50, 150)
#: Adam's decays
_BETAS = (0.9, 0.999)
_TINY = 1e-8


@dataclass(frozen=True, kw_only=True)
class DeepImagePrior(Defense):
    """Show the classifier what a small untrained network makes of the image when its fit to it is stopped early.

    A random input is fixed and the network's *weights* are fitted to the one image, min_w ||G_w(z) - x||^2. What is smooth
    is fitted before what looks like noise (Ulyanov et al. 2018, fig. 2), so an early stop leaves noise out. Nothing is
    learned from data. Every image has a network of its own, with weights and input from its own random streams.

    The fit has no gradient by the image that would be worth its price. The adversary who knows the defense takes the
    purifier for the identity (BPDA), and averages over networks (EOT): what is fitted well is fitted with its adversarial
    perturbation, which is no noise. Each answer costs as many passes of the small network as there are iterations, so
    some hundred images are what one evaluates.

    Args:
        iterations: steps of Adam; choose it by the clean accuracy on held-out images. Left out, 50 for images up to 16
            pixels wide and 150 for larger ones.
        learning_rate: of Adam.
        jitter: standard deviation of the noise on the network's input, anew in every step; 0: none.
        width: channels of the network; left out, 16 for images up to 16 pixels wide and 32 for larger ones.
    """

    name: ClassVar[str] = "deep-image-prior"
    adaptivity: ClassVar[Adaptivity] = "adaptive"
    source: ClassVar[str] = (
        "Ulyanov, Vedaldi, Lempitsky 2018, Deep image prior, arXiv 1711.10925; against purifiers of this kind: Athalye, "
        "Carlini, Wagner 2018, arXiv 1802.00420, sec. 4.1 (BPDA) and 4.2 (EOT)"
    )
    iterations: int | None = None
    learning_rate: float = 0.01
    jitter: float = 1 / 30
    width: int | None = None

    def __post_init__(self) -> None:
        for option in ("iterations", "width"):
            if getattr(self, option) is not None:
                at_least(self, option, 1)
        if self.width is not None and self.width > 1024:
            raise UserError(f"{self.name}: width={self.width}; accepted: 1 to 1024")
        positive(self, "learning_rate")
        at_least(self, "jitter", 0)

    def defend(self, system: System, workshop: Workshop) -> System:
        """The fit in front of the system; its stand-in is the identity.

        Raises:
            UserError: the images are too small for any network with two sizes.
        """
        if min(system.input_shape[1:]) < 4:
            raise UserError(f"{self.name} takes images of 4 pixels and more, not {system.input_shape[1:]}")
        part = Purifier(apply=self.fitted, surrogate=itself, random=True, name=str(self))
        return replace(system, purifiers=(part, *system.purifiers))

    def fitted(self, x: Tensor, draws: Draws | None, index: Tensor | int = 0) -> Tensor:
        """What the images' own networks show after the last iteration, (n, c, h, w) in [0, 1]."""
        return self.descend(x, draws, index)[0]

    def curve(self, x: Tensor, clean: Tensor, draws: Draws, index: Tensor | int = 0) -> Tensor:
        """The fit's peak signal-to-noise ratio to other images, iteration by iteration, (iterations + 1, n) in dB.

        Of a noisy x and the clean image it rises above that of x itself, and falls again: the bump.
        """
        return self.descend(x, draws, index, watched=clean)[1]

    def descend(
        self, x: Tensor, draws: Draws | None, index: Tensor | int, watched: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The images after the last iteration, and how near to `watched` the fit came in each."""
        assert draws is not None, "weights and input are drawn from the samples' streams"
        small = max(x.shape[2:]) <= _SMALL
        count = (_ITERATIONS[0] if small else _ITERATIONS[1]) if self.iterations is None else self.iterations
        nets, x, seen = self._network(x, small=small), x.detach(), list[Tensor]()
        weights, z = nets.fresh(draws, index), nets.input(draws, index)
        state = [(torch.zeros_like(one), torch.zeros_like(one)) for one in weights]
        for step in range(count + 1):
            last = step == count
            leaves = [one.detach().requires_grad_(not last) for one in weights]
            shaken = z if last or not self.jitter else z + self.jitter * nets.noise(draws, index, step)
            with torch.set_grad_enabled(not last):
                shown = nets.show(leaves, shaken)
                # Summed over the images: each has its own weights, and none feels its neighbours.
                error = (shown - x).square().flatten(1).mean(1).sum()
            if watched is not None:
                seen.append(psnr(shown.detach(), watched))
            if not last:
                grads = torch.autograd.grad(error, leaves)
                weights = [self._moved(*each, step) for each in zip(weights, grads, state, strict=True)]
        return shown.detach(), torch.stack(seen) if seen else x.new_zeros((0, len(x)))

    def _network(self, x: Tensor, *, small: bool) -> Hourglass:
        scales = _SCALES[0] if small else _SCALES[1]
        deepest = int(math.log2(min(x.shape[2:]))) - 1  # no map gets smaller than 2 pixels
        width = (_WIDTH[0] if small else _WIDTH[1]) if self.width is None else self.width
        return Hourglass(shape=(x.shape[1], x.shape[2], x.shape[3]), width=width, scales=min(scales, deepest))

    def _moved(self, weight: Tensor, grad: Tensor, state: tuple[Tensor, Tensor], step: int) -> Tensor:
        """A step of Adam; the state, which is this fit's own, is changed in place."""
        mean, square = state
        mean.mul_(_BETAS[0]).add_(grad, alpha=1 - _BETAS[0])
        square.mul_(_BETAS[1]).addcmul_(grad, grad, value=1 - _BETAS[1])
        first, second = (1 - beta ** (step + 1) for beta in _BETAS)
        return weight.detach() - self.learning_rate * (mean / first) / ((square / second).sqrt() + _TINY)
