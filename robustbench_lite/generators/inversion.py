"""From an image back to a latent point: min_z of the mean squared error of G(z) to x, by gradient descent from restarts.

Creswell and Bharath 2016, arXiv 1611.05644; Metz et al. 2017, arXiv 1611.02163, sec. 3.4.1 (inference via optimisation);
Samangouei et al. 2018, arXiv 1805.06605, sec. 3 (with momentum 0.7).
"""

from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor

from robustbench_lite.errors import UserError
from robustbench_lite.generators.base import Network
from robustbench_lite.randomness import Draws

Optimizer = Literal["adam", "momentum"]

#: of each optimizer: of Adam for latent points of about unit size, of momentum the paper's, for a mean over pixels
RATES: dict[str, float] = {"adam": 0.1, "momentum": 10.0}
_BETAS = (0.9, 0.999)
_TINY = 1e-8
#: for the last fifth of the steps the rate of momentum is a tenth
_LATE, _DECAY = 0.8, 0.1
#: rows times latent numbers whose images are differentiated at the same time; of the mean square, what is added to all
_JACOBIANS, _DAMPING = 2048, 0.01


def invert(
    network: Network,
    x: Tensor,
    y: Tensor | None,
    draws: Draws,
    *,
    restarts: int = 5,
    steps: int = 500,
    learning_rate: float | None = None,
    momentum: float = 0.7,
    optimizer: Optimizer = "adam",
    lanes: int = 2048,
) -> tuple[Tensor, Tensor]:
    """The latent points (n, latent) whose images come nearest to x, and their mean squared errors (n,).

    Restart r of a row starts at `network.prior(draws, r)` of that row, and has its own optimizer state: a row finds the
    same point alone as in any batch. What counts is the best point that any restart passed, so that neither more
    restarts nor more steps of Adam make it worse.

    Args:
        network: in eval mode, so that no row feels its neighbours through a batch normalisation.
        x: (n, c, h, w) in [0, 1]. y: (n,) labels that a conditional network needs; another ignores them.
        draws: the streams of the n rows. restarts: starting points a row. steps: gradients a restart.
        learning_rate: left out, that of `RATES`; momentum's belongs to images of 28 x 28 pixels and more.
        momentum: of the optimizer `momentum`. lanes: rows times restarts that descend at the same time, at most.

    Raises:
        UserError: restarts or steps below 1, another optimizer, a rate that is not above 0, a conditional network
            without labels, or a network in training mode.
    """
    _check(network, y, restarts, steps, learning_rate, momentum, optimizer)
    rate = RATES[optimizer] if learning_rate is None else learning_rate
    rule = _Rule(rate=rate, steps=steps, momentum=momentum, optimizer=optimizer)
    labels = y if network.conditional else None
    block = max(1, lanes // restarts)
    found = [
        _block(network, x[part], None if labels is None else labels[part], draws[part], restarts, rule)
        for part in (slice(at, at + block) for at in range(0, len(x), block))
    ]
    if not found:
        return x.new_zeros(0, network.latent), x.new_zeros(0)
    return torch.cat([z for z, _ in found]), torch.cat([errors for _, errors in found])


@dataclass(frozen=True, kw_only=True)
class _Rule:
    """How a latent point moves."""

    rate: float
    steps: int
    momentum: float
    optimizer: Optimizer

    def move(self, grad: Tensor, state: tuple[Tensor, Tensor], step: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """What is subtracted at this step (0, 1, …), and the new state; all of it row by row."""
        first, second = state
        if self.optimizer == "momentum":
            rate = self.rate * (_DECAY if step >= _LATE * self.steps else 1)
            first = self.momentum * first + grad
            return rate * first, (first, second)
        return adam(self.rate, grad, state, step)


def adam(rate: float, grad: Tensor, state: tuple[Tensor, Tensor], step: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """What Adam moves by along the gradient at this step (0, 1, …), and its new state; row by row.

    Kingma and Ba 2015, arXiv 1412.6980, alg. 1.
    """
    (one, two), (first, second) = _BETAS, state
    first, second = one * first + (1 - one) * grad, two * second + (1 - two) * grad**2
    mean, square = first / (1 - one ** (step + 1)), second / (1 - two ** (step + 1))
    return rate * mean / (square.sqrt() + _TINY), (first, second)


def _block(
    network: Network, x: Tensor, y: Tensor | None, draws: Draws, restarts: int, rule: _Rule
) -> tuple[Tensor, Tensor]:
    """`invert` of rows that all descend at the same time."""
    rows = torch.arange(len(x), device=x.device).repeat_interleave(restarts)
    numbers = torch.arange(restarts, device=x.device).repeat(len(x))
    z = network.prior(draws[rows], numbers).detach()
    z, errors = _descend(network, x[rows], None if y is None else y[rows], z, rule)
    errors, z = errors.view(len(x), restarts), z.view(len(x), restarts, -1)
    best = errors.argmin(1)
    every = torch.arange(len(x), device=x.device)
    return z[every, best], errors[every, best]


def _descend(network: Network, x: Tensor, y: Tensor | None, z: Tensor, rule: _Rule) -> tuple[Tensor, Tensor]:
    """The best point on each row's path, and its error."""
    state = torch.zeros_like(z), torch.zeros_like(z)
    best, least = z, torch.full((len(z),), float("inf"), dtype=z.dtype, device=z.device)
    for step in range(rule.steps + 1):
        with torch.enable_grad():
            point = z.detach().requires_grad_()
            errors = error_of(network, point, x, y)
            grad = torch.autograd.grad(errors.sum(), point)[0] if step < rule.steps else None
        better = errors.detach() < least
        best, least = torch.where(better[:, None], z, best), torch.where(better, errors.detach(), least)
        if grad is not None:
            move, state = rule.move(grad, state, step)
            z = z - move
    return best, least


def error_of(network: Network, z: Tensor, x: Tensor, y: Tensor | None = None) -> Tensor:
    """The mean squared error of each row's image to x, over its pixels, (n,); differentiable."""
    return (network.decode(z, y) - x).pow(2).flatten(1).mean(1)


def nearest(network: Network, x: Tensor, z: Tensor) -> Tensor:
    """G(z), with the gradient by x of the nearest image that the network can make, where z (n, latent) is x's.

    The nearest point of a smooth surface moves with x as x's shadow on its tangent plane does, but for curvature
    (Gauss-Newton): with J the Jacobian of G at z, its derivative is J (J'J)^-1 J'. A damped J'J, by a hundredth of its mean
    diagonal, stands for directions that hardly change the image and would be followed out of the ball.

    Args:
        network: unconditional, in eval mode. x: (n, c, h, w) in [0, 1].
    """
    return cast(Tensor, _Nearest.apply(x, z, network))


class _Nearest(torch.autograd.Function):
    """See `nearest`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, z: Tensor, network: Network) -> Tensor:
        ctx.save_for_backward(z)
        ctx.network = network
        return network.decode(z)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (z,) = ctx.saved_tensors
        size = max(1, _JACOBIANS // z.shape[1])
        parts = zip(z.split(size), grads[0].flatten(1).split(size), strict=True)
        shadows = [_shadow(ctx.network, point, grad) for point, grad in parts]
        return torch.cat(shadows).view_as(grads[0]), None, None


def _shadow(network: Network, z: Tensor, grad: Tensor) -> Tensor:
    """The rows of grad (n, pixels), each on the damped tangent plane at its z."""
    count, latent = z.shape
    ways = torch.eye(latent, device=z.device, dtype=z.dtype).repeat(count, 1)
    with torch.enable_grad():
        points = z.detach().repeat_interleave(latent, 0).requires_grad_()
        images = network.decode(points)
        # Backwards is linear in what it is given, and its own derivative by that, along a way, is the slope forwards.
        weights = torch.zeros_like(images, requires_grad=True)
        (back,) = torch.autograd.grad(images, points, weights, create_graph=True)
        (slope,) = torch.autograd.grad(back, weights, ways)
    slopes = slope.view(count, latent, -1).mT
    square = slopes.mT @ slopes
    # A little more than nothing, so that where nothing moves the image its gradient is nothing.
    amount = _DAMPING * square.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] + torch.finfo(z.dtype).tiny
    damped = square + amount * torch.eye(latent, device=z.device, dtype=z.dtype)
    shadow: Tensor = slopes @ torch.linalg.solve(damped, slopes.mT @ grad[:, :, None])
    return shadow[:, :, 0]


def _check(
    network: Network,
    y: Tensor | None,
    restarts: int,
    steps: int,
    learning_rate: float | None,
    momentum: float,
    optimizer: str,
) -> None:
    for name, value in (("restarts", restarts), ("steps", steps)):
        if value < 1:
            raise UserError(f"inversion: {name}={value}; accepted: 1 and more")
    if optimizer not in get_args(Optimizer):
        raise UserError(f"inversion: optimizer={optimizer}; accepted: {', '.join(get_args(Optimizer))}")
    if learning_rate is not None and not 0 < learning_rate < float("inf"):
        raise UserError(f"inversion: learning_rate={learning_rate:g}; accepted: more than 0")
    if not 0 <= momentum < 1:
        raise UserError(f"inversion: momentum={momentum:g}; accepted: 0 to less than 1")
    if network.conditional and y is None:
        raise UserError("inversion: a conditional generator needs the labels of the images")
    if network.training:
        raise UserError(
            "inversion: the network is in training mode, where rows can feel each other; accepted: eval mode"
        )
