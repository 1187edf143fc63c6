"""The one table of thresholds: when a diagnostic fires, why it matters in a line, and where the rule is from."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """When a diagnostic fires: its quantity is above `limit`.

    Args:
        of_samples: the quantity is a share of samples. Of fewer than `HUNDRED` as many are forgiven as of a hundred: a
            limit of 1 % lets one sample pass, also where it is one of twenty.
    """

    quantity: str
    limit: float
    limit_text: str
    why: str
    source: str
    of_samples: bool = False

    def among(self, n: int) -> float:
        """The limit for a quantity that was measured on n samples."""
        return self.limit * max(1.0, HUNDRED / max(n, 1)) if self.of_samples else self.limit


HUNDRED = 100

THRESHOLDS: dict[str, Threshold] = {
    "invalid-examples": Threshold(
        quantity="examples outside the threat, outside the box or not finite",
        limit=0,
        limit_text="0",
        why="an attack handed in examples that its threat does not allow; they do not count as breaks",
        source="Carlini et al. 2019",
    ),
    "nan-scores": Threshold(
        quantity="samples at which the model answered NaN",
        limit=0,
        limit_text="0",
        why="the model answers NaN at valid images; these count as broken",
        source="Croce et al. 2020",
    ),
    "clean-accuracy": Threshold(
        quantity="1 if clean accuracy is no better than chance, far below what was told, or far below what a cure gives",
        limit=0,
        limit_text="0",
        why="this clean accuracy cannot be meant: look at preprocessing and labels before any robust accuracy",
        source="Carlini et al. 2019",
    ),
    "noise-beats-gradient": Threshold(
        quantity="share of samples that noise broke and no gradient attack did",
        limit=0.005,
        limit_text="0.5 %",
        why="random noise broke what no gradient attack broke: gradients are masked, or the attacks too weak",
        source="Athalye et al. 2018",
        of_samples=True,
    ),
    "black-box-beats-gradient": Threshold(
        quantity="share of samples that an attack by scores or labels broke and no gradient attack did",
        limit=0.01,
        limit_text="1 %",
        why="an attack without gradients broke what no gradient attack broke: gradients are masked, or the attacks too weak",
        source="Croce et al. 2020; Athalye et al. 2018",
        of_samples=True,
    ),
    "transfer-beats-gradient": Threshold(
        quantity="share of samples that another system's examples broke and no gradient attack did",
        limit=0.005,
        limit_text="0.5 %",
        why="examples crafted on another system broke what no gradient attack on this one broke: gradients are masked",
        source="Athalye et al. 2018; Carlini et al. 2019",
        of_samples=True,
    ),
    "one-step-beats-iterative": Threshold(
        quantity="share of samples that a one-step attack broke and no iterative gradient attack did",
        limit=0.005,
        limit_text="0.5 %",
        why="one step broke what many steps did not: gradients are masked, or the steps badly set",
        source="Athalye et al. 2018",
        of_samples=True,
    ),
    "zero-gradients": Threshold(
        quantity="share of correctly classified samples whose loss gradient is exactly zero",
        limit=0,
        limit_text="0",
        why="gradients are exactly zero, so gradient attacks stand still",
        source="Croce et al. 2020; Pintor et al. 2022",
    ),
    "nonfinite-gradients": Threshold(
        quantity="share of correctly classified samples whose loss gradient has NaN in it",
        limit=0,
        limit_text="0",
        why="gradients are NaN (0 times infinity: a root, norm or logarithm at 0); attacks follow those next to the image",
        source="measured, see below",
    ),
    "detector-without-slope": Threshold(
        quantity="share of samples on which following the slope of the detector's score does not lower it, though it varies",
        limit=0.25,
        limit_text="25 %",
        why="the detector's score has no slope to follow: attacks never learn to pass it",
        source="measured, see below",
    ),
    "plain-gradients-vanish": Threshold(
        quantity="the same for who does not know the defense; asked where it hides something",
        limit=0.01,
        limit_text="1 %",
        why="plain gradients vanish: what this defense claims under them says nothing",
        source="Athalye et al. 2018; Carlini and Wagner 2016",
        of_samples=True,
    ),
    "loss-stands-still": Threshold(
        quantity="share of samples on which a climb of 8 steps never gets above the loss at the clean image",
        limit=0.01,
        limit_text="1 %",
        why="following the gradient does not raise the loss: it says nothing of where to go",
        source="Pintor et al. 2022",
        of_samples=True,
    ),
    "gradients-mislead": Threshold(
        quantity="median error of the gradient against the slope measured along it, as a share",
        limit=0.5,
        limit_text="50 %",
        why="over a step of 1/255 the answers do not have half the slope that the gradient tells: it is shattered or made up",
        source="Athalye et al. 2018; Pintor et al. 2022",
    ),
    "not-converged": Threshold(
        quantity="share of samples broken in the last tenth of an iterative attack's budget, and by nothing earlier",
        limit=0.01,
        limit_text="1 %",
        why="breaks were still coming when the budget ended: more steps or restarts would find more",
        source="Carlini et al. 2019",
        of_samples=True,
    ),
    "doubling-breaks-more": Threshold(
        quantity="share of samples that twice the steps, under another seed, broke on top",
        limit=0.02,
        limit_text="2 %",
        why="the same attack with twice the steps and another start breaks more: this robust accuracy is too high",
        source="Carlini et al. 2019; Croce et al. 2020",
        of_samples=True,
    ),
    "denied-by-verdict": Threshold(
        quantity="share of samples that broke in a search, were denied by the verdict and ended unbroken",
        limit=0.01,
        limit_text="1 %",
        why="the search saw breaks that the verdict denied: the system answers the two differently",
        source="measured, see below",
        of_samples=True,
    ),
    "order-dependent": Threshold(
        quantity="share of answers that differ with the place, company or number of the images shown at once",
        limit=0.01,
        limit_text="1 %",
        why="an image is answered otherwise in another place or batch: no robust accuracy belongs to this system alone",
        source="measured, see below",
        of_samples=True,
    ),
    "mode-dependent": Threshold(
        quantity="share of answers that the search and the verdict are not told alike",
        limit=0.01,
        limit_text="1 %",
        why="attacks are answered otherwise than the verdict: what they failed to find says nothing",
        source="measured, see below",
        of_samples=True,
    ),
    "stateful": Threshold(
        quantity="share of answers that differ from those before the attacks, or from those of a copy made before them",
        limit=0.01,
        limit_text="1 %",
        why="the system remembers what it was asked: attacks met another system than the one that was measured clean",
        source="measured, see below",
        of_samples=True,
    ),
    "answers-vary": Threshold(
        quantity="1 if the same image is answered differently from time to time",
        limit=0,
        limit_text="0",
        why="the system is random: only attacks that average over its draws (eot=N) see where to go",
        source="Croce et al. 2020; Athalye et al. 2018",
    ),
    "differentiates-inside": Threshold(
        quantity="1 if the system computes gradients while it answers",
        limit=0,
        limit_text="0",
        why="the system optimises as it answers: plain gradients stop there, it needs an attack of its own",
        source="Croce et al. 2020",
    ),
    "not-monotone-in-eps": Threshold(
        quantity="largest rise of robust accuracy with eps, in samples; at eps 0, the distance from clean accuracy",
        limit=1,
        limit_text="1 sample (at eps 0: 0)",
        why="robust accuracy rises with eps, which no model can do: the attack fails at some eps",
        source="Carlini et al. 2019",
    ),
    "survives-unbounded-eps": Threshold(
        quantity="robust accuracy at an eps that covers the box, minus the share of the most frequent class",
        limit=0,
        limit_text="0",
        why="an adversary who may draw any image still fails: the attack is at fault, not the model strong",
        source="Athalye et al. 2018; Carlini et al. 2019",
    ),
    "outputs-are-probabilities": Threshold(
        quantity="1 if all outputs lie in [0, 1] and sum to 1",
        limit=0,
        limit_text="0",
        why="the model answers probabilities, not logits: losses on them are flat and gradients vanish",
        source="Croce et al. 2020",
    ),
}


def threshold_table() -> str:
    """The threshold table in Markdown, for docs/diagnostics.md."""
    head = ["| diagnostic | quantity | fires above | source |", "|---|---|---|---|"]
    rows = [f"| `{name}` | {t.quantity} | {t.limit_text} | {t.source} |" for name, t in THRESHOLDS.items()]
    return "\n".join([*head, *rows])
