"""Attacks on what reconstructs images: make an encoder take an image for another one.

The system answers with what a judge, a classifier of its own, reads in the reconstruction; these attacks climb towards another
image's code or reconstruction instead, and the judge only tells which of their points came furthest. Kos, Fischer and Song
2017, arXiv 1702.06832; Tabacof, Tavares and Valle 2016, arXiv 1612.00155.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_lite.attack import Attack, Cost, Goal, Learned, Needs, Setup, State
from robustbench_lite.attacks.gradient import Ascent, Climbed, gradient
from robustbench_lite.attacks.options import at_least, one_of, positive
from robustbench_lite.errors import UserError
from robustbench_lite.norms.rowwise import row_sum
from robustbench_lite.objectives import Context, named
from robustbench_lite.oracle import Oracle
from robustbench_lite.pictures import Pictures, Seen
from robustbench_lite.randomness import Draws
from robustbench_lite.system import Outputs
from robustbench_lite.threat import Threat

#: an observation variance where the system tells none
_SIGMA_X2 = 0.05
_KOS = "Kos, Fischer and Song 2017, Adversarial examples for generative models, arXiv 1702.06832"


@dataclass(frozen=True, kw_only=True)
class _Climber(Ascent):
    """Climb an objective of codes and reconstructions, compared with what `learn` has found."""

    needs_codes: ClassVar[bool] = True

    def objective(self, outputs: Outputs, goal: Goal) -> Tensor:
        """What is climbed, (n,)."""
        raise NotImplementedError

    def learn(self, setup: Setup) -> Learned:
        """What the objective compares with.

        Raises:
            UserError: the system only classifies.
        """
        raise NotImplementedError

    def context(self, learned: Mapping[str, Tensor], goal: Goal, draws: Draws) -> Context:
        """What the rows of the goal are compared with."""
        raise NotImplementedError

    def prepare(self, setup: Setup) -> "Prepared":
        """See `learn`."""
        return Prepared(recipe=self, known=self.learn(setup))

    def recall(self, learned: Learned, setup: Setup) -> "Prepared":
        """What was kept, on the device of the data."""
        tensors = {name: tensor.to(setup.x.device) for name, tensor in learned.tensors.items()}
        return Prepared(recipe=self, known=replace(learned, tensors=tensors))

    def slope(self, state: State, oracle: Oracle) -> tuple[State, Tensor]:
        """The objective's gradient."""
        return state, gradient(oracle, state.adv, self.objective)


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared(Attack):
    """The attack that knows what it compares with.

    Args:
        recipe: the attack. known: what it has learned.
    """

    needs: ClassVar[Needs] = Needs.GRADIENTS
    needs_codes: ClassVar[bool] = True
    recipe: _Climber
    known: Learned

    @property
    def name(self) -> str:  # type: ignore[override]  # of the attack that was prepared
        """Of the recipe."""
        return self.recipe.name

    @property
    def learned(self) -> Learned:
        """What it compares with."""
        return self.known

    @property
    def target_rule(self) -> str | None:
        """Of the recipe."""
        return self.recipe.target_rule

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> State:
        """As the recipe, with what every row is compared with in its goal."""
        goal = replace(goal, context=self.recipe.context(self.known.tensors, goal, draws))
        return self.recipe.start(x, goal, threat, draws, oracle)

    def step(self, state: State, oracle: Oracle) -> State:
        """As the recipe."""
        return self.recipe.step(state, oracle)

    def length(self) -> int:
        """Of the recipe."""
        return self.recipe.length()

    def lanes(self, num_classes: int) -> int:
        """Of the recipe."""
        return self.recipe.lanes(num_classes)

    def cost(self, num_classes: int) -> Cost:
        """Of the recipe."""
        return self.recipe.cost(num_classes)

    def check(self, threat: Threat, num_classes: int) -> None:
        """As the recipe."""
        self.recipe.check(threat, num_classes)

    def __str__(self) -> str:
        return str(self.recipe)


@dataclass(frozen=True, kw_only=True)
class _Aiming(_Climber):
    """Come near to another image, one of the target class that is not evaluated.

    Args:
        targets: how many images of the target class are tried, one after the other; the judge tells which worked best.
        image_weight: of the squared distance to the clean image, which is subtracted from the objective.
        random_start: begin at a random point of the ball, not at the clean image.
    """

    aims_at_pictures: ClassVar[bool] = True
    targets: int = 5
    image_weight: float = 0.0
    random_start: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, "targets", 1)
        at_least(self, "image_weight", 0)

    @property
    def target_rule(self) -> str:
        """Any other class, where the threat names none."""
        return "random"

    def lanes(self, num_classes: int) -> int:
        """One an image that is aimed at."""
        return self.targets

    def learn(self, setup: Setup) -> Learned:
        """The pictures to aim at."""
        said = setup.ask(setup.x).said
        pictures = Pictures.of(setup.x, setup.y, said, setup.num_classes, self.name)
        return Learned(tensors=pictures.tensors(), figures={"images to aim at": float(len(pictures))})

    def context(self, learned: Mapping[str, Tensor], goal: Goal, draws: Draws) -> Context:
        """The picture of every row, and what the system says of it."""
        if goal.target is None:
            raise UserError(f"{self.name}: the goal has no target; give one, such as Goal(y=y, target=t)")
        pictures = Pictures.from_tensors(dict(learned))
        return pictures.seen[pictures.aimed(goal.target, draws)]

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> State:
        """At the clean images, or at a random point of the ball."""
        if not isinstance(goal.context, Seen):
            raise UserError(f"{self.name} does not know what to aim at; only an evaluation prepares it")
        return super().start(x, goal, threat, draws, oracle)

    def slope(self, state: State, oracle: Oracle) -> tuple[State, Tensor]:
        """The gradient, pulled back to the clean image by the image term."""
        state, grad = super().slope(state, oracle)
        return state, grad - 2 * self.image_weight * (state.adv - state.x)


@dataclass(frozen=True, kw_only=True)
class LatentMatch(_Aiming):
    """Bring the code next to another image's code; by Kos et al. the strongest of their three.

    The decoder cannot tell two equal codes apart, so it shows the other image. With `image_weight` it is the penalised form,
    image_weight |x' - x|^2 + |mu(x') - mu(x_t)|^2; with distance=kl it is Tabacof et al.'s.

    Args:
        distance: l2, |mu(x') - mu(x_t)|^2; or kl, of the Gaussian N(mu(x'), s(x')^2) from that of the target.
        steps: queries per target image, each one forward and one backward.
    """

    name: ClassVar[str] = "latent-match"
    source: ClassVar[str] = f"{_KOS} (latent attack); Tabacof, Tavares and Valle 2016, arXiv 1612.00155"
    distance: Literal["l2", "kl"] = "l2"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self, "distance", ("l2", "kl"))

    def learn(self, setup: Setup) -> Learned:
        """The pictures to aim at.

        Raises:
            UserError: distance=kl, and the codes are points.
        """
        learned = super().learn(setup)
        if self.distance == "kl" and "log_variance" not in learned.tensors:
            raise UserError(
                f"{self.name}: distance=kl compares Gaussians, and the codes are points; accepted: l2, or a VAE"
            )
        return learned

    def objective(self, outputs: Outputs, goal: Goal) -> Tensor:
        """Minus the distance of the codes."""
        aim = goal.context
        assert isinstance(aim, Seen)
        if self.distance == "l2":
            return -_squared(outputs.code, aim.code)
        code, log_variance = outputs.code, outputs.log_variance
        assert code is not None
        assert log_variance is not None
        assert aim.log_variance is not None  # `learn` has seen to it
        return -gaussian_kl(code, log_variance, aim.code, aim.log_variance)


@dataclass(frozen=True, kw_only=True)
class VAELoss(_Aiming):
    """Descend the VAE's own training loss, with another image as the one to bring back.

    |rec(x') - t|^2 / (2 sigma_x2) + KL(N(mu(x'), s(x')^2) || N(0, 1)); a code that is a point has no second term.

    Args:
        against: what t is: the target image's reconstruction, or the target image itself.
        sigma_x2: the observation variance that the reconstruction is weighed by; left out, the VAE's own, or 0.05 where the
            system tells none.
        steps: queries per target image, each one forward and one backward.
    """

    name: ClassVar[str] = "vae-loss"
    source: ClassVar[str] = f"{_KOS} (L_VAE attack)"
    against: Literal["reconstruction", "image"] = "reconstruction"
    sigma_x2: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self, "against", ("reconstruction", "image"))
        positive(self, "sigma_x2")

    def objective(self, outputs: Outputs, goal: Goal) -> Tensor:
        """Minus the loss."""
        aim = goal.context
        assert isinstance(aim, Seen)
        shown = aim.image if self.against == "reconstruction" else aim.x
        own = _SIGMA_X2 if outputs.sigma_x2 is None else outputs.sigma_x2
        loss = _squared(outputs.image, shown) / (2 * (self.sigma_x2 or own))
        if outputs.log_variance is not None and outputs.code is not None:
            zero = torch.zeros_like(outputs.code)
            loss = loss + gaussian_kl(outputs.code, outputs.log_variance, zero, zero)
        return -loss


@dataclass(frozen=True, kw_only=True)
class _Reader(Context):
    """A classifier of codes, the same for all rows; wrapped, since it has no sample axis."""

    layer: tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class LatentClassifier(_Climber):
    """Train a softmax classifier on the codes, and climb towards a class of it; by Kos et al. the weakest of their three.

    It may leave for codes that no image has, which the decoder shows as a blur. Without a target it climbs away from the label.

    Args:
        climbed: ce, margin, dlr or log-odds, of the classifier of codes.
        decay: of the classifier's weights.
        restarts: how often to begin anew, each time at another random point.
    """

    name: ClassVar[str] = "latent-classifier"
    source: ClassVar[str] = f"{_KOS} (classifier attack)"
    climbed: Climbed = "log-odds"
    decay: float = 1e-3
    restarts: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self, "climbed", get_args(Climbed))
        positive(self, "decay")
        at_least(self, "restarts", 1)

    def lanes(self, num_classes: int) -> int:
        """One a restart; without a random start all would be alike, so there is one."""
        return self.restarts if self.random_start else 1

    def learn(self, setup: Setup) -> Learned:
        """The classifier of codes, on images that are not evaluated."""
        code = Seen.of(setup.x, setup.ask(setup.x).said, self.name).code
        weight, bias = softmax_on(code, setup.y, setup.num_classes, self.decay)
        right = (code @ weight.T + bias).argmax(1) == setup.y
        told = {"accuracy of the classifier of codes, where it was trained": float(right.double().mean())}
        return Learned(tensors={"weight": weight, "bias": bias}, figures=told)

    def context(self, learned: Mapping[str, Tensor], goal: Goal, draws: Draws) -> Context:
        """The classifier, for all rows."""
        return _Reader(layer=(learned["weight"], learned["bias"]))

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> State:
        """At a random point of the ball, or at the clean images."""
        if not isinstance(goal.context, _Reader):
            raise UserError(f"{self.name} has no classifier of codes; only an evaluation prepares it")
        return super().start(x, goal, threat, draws, oracle)

    def objective(self, outputs: Outputs, goal: Goal) -> Tensor:
        """As of any classifier."""
        reader = goal.context
        assert isinstance(reader, _Reader)
        assert outputs.code is not None
        weight, bias = reader.layer
        scores = row_sum((outputs.code[:, None, :] * weight).flatten(0, 1)).view(len(outputs.code), -1) + bias
        return named(self.climbed)(Outputs(scores=scores.float()), goal)


@dataclass(frozen=True, kw_only=True)
class OutputDamage(Ascent):
    """Drive the reconstruction as far from that of the clean image as the budget allows; it aims at nothing.

    What it reaches need not look like anything. Under a targeted threat it is a baseline: damage alone is not the target.

    Args:
        latent: drive the code away instead of the reconstruction.
        restarts: how often to begin anew; without random_start once. random_start: begin at a random point of the ball; at
            the clean image the slope is zero.
    """

    name: ClassVar[str] = "output-damage"
    needs_codes: ClassVar[bool] = True
    source: ClassVar[str] = (
        "Gondim-Ribeiro, Tabacof and Valle 2018, Adversarial attacks on variational autoencoders, arXiv 1806.04646"
    )
    latent: bool = False
    restarts: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, "restarts", 1)
        if not self.random_start:
            raise UserError("output-damage: random_start=false; at the clean image the damage is 0 and so is its slope")

    def lanes(self, num_classes: int) -> int:
        """One a restart."""
        return self.restarts

    def cost(self, num_classes: int) -> Cost:
        """What `Ascent` costs, and one look at the clean image a lane."""
        return super().cost(num_classes) + Cost(self.lanes(num_classes))

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> State:
        """At a random point, with what the system says of the clean image."""
        context = Seen.of(x, oracle.query(x, probe=True).said, self.name)
        return super().start(x, replace(goal, context=context), threat, draws, oracle)

    def slope(self, state: State, oracle: Oracle) -> tuple[State, Tensor]:
        """The damage's gradient."""
        return state, gradient(oracle, state.adv, self._damage)

    def _damage(self, outputs: Outputs, goal: Goal) -> Tensor:
        clean = goal.context
        assert isinstance(clean, Seen)
        if self.latent:
            return _squared(outputs.code, clean.code)
        return _squared(outputs.image, clean.image)


def gaussian_kl(mean: Tensor, log_variance: Tensor, other: Tensor, other_log_variance: Tensor) -> Tensor:
    """KL(N(mean, s^2) || N(other, t^2)) in nats, diagonal Gaussians (n, k) -> (n,).

    1/2 sum [(s^2 + (mean - other)^2) / t^2 + ln(t^2 / s^2) - 1].
    """
    ratio = log_variance - other_log_variance
    return row_sum(ratio.exp() + (mean - other).square() / other_log_variance.exp() - ratio - 1) / 2


def softmax_on(code: Tensor, y: Tensor, num_classes: int, decay: float) -> tuple[Tensor, Tensor]:
    """The softmax classifier of codes (n, k) with the least mean cross-entropy + decay |w|^2: weight (classes, k), bias.

    The codes are divided by their spread for the fit. The problem is convex: nothing is drawn.
    """
    wide = code.double()
    centre, spread = wide.mean(0), wide.std(0, correction=0).clamp(min=1e-6)
    scaled = (wide - centre) / spread
    weight = torch.zeros((num_classes, code.shape[1]), dtype=torch.float64, device=code.device, requires_grad=True)
    bias = torch.zeros(num_classes, dtype=torch.float64, device=code.device, requires_grad=True)
    fit = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> float:
        with torch.enable_grad():
            fit.zero_grad()
            value = F.cross_entropy(scaled @ weight.T + bias, y) + decay * weight.square().sum()
            value.backward()
        return float(value.detach())

    fit.step(loss)
    own = (weight / spread).detach()
    return own.float(), (bias - own @ centre).detach().float()


def _squared(one: Tensor | None, other: Tensor) -> Tensor:
    """The squared distance of every row, (n,) float64."""
    assert one is not None
    return row_sum((one - other).square())
