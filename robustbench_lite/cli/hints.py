"""What to write instead of an option that other tools have and this one has not."""

import re
import shlex
from collections.abc import Callable, Collection, Sequence

from robustbench_lite.errors import cut
from robustbench_lite.specs import as_list, norm_name

#: names of an option elsewhere -> the option here
_SAME = {
    **dict.fromkeys(("batch", "bs", "batchsize", "b"), "--batch-size"),
    **dict.fromkeys(("data", "data-set", "ds"), "--dataset"),
    **dict.fromkeys(
        ("data-dir", "data-path", "datadir", "dataroot", "dataset-dir", "dataset-path", "root", "data-folder"),
        "--data-root",
    ),
    **dict.fromkeys(("arch", "architecture", "net", "network", "model-name", "m"), "--model"),
    **dict.fromkeys(("output", "o", "output-dir", "out-dir", "save-dir", "save", "results", "results-dir"), "--out"),
    **dict.fromkeys(("workers", "j", "num-workers", "n-workers", "n-jobs", "num-jobs", "processes"), "--jobs"),
    **dict.fromkeys(("random-seed", "manual-seed", "s"), "--seed"),
    **dict.fromkeys(("config-file", "cfg", "plan", "c"), "--config"),
    **dict.fromkeys(("log-file", "logfile", "log-path"), "--log"),
    **dict.fromkeys(("learning-rate", "lr"), "--learning-rate"),
    **dict.fromkeys(("n-epochs", "num-epochs"), "--epochs"),
    **dict.fromkeys(("v", "debug"), "--verbose"),
    **dict.fromkeys(("q", "silent"), "--quiet"),
}
_FLAGS = ("--verbose", "--quiet")
_COUNTS = (
    *("n", "n-examples", "n-ex", "num-examples", "num-samples", "n-samples", "nb-samples", "max-samples", "limit"),
    *("num-images", "n-images", "max-images", "max-examples", "subset", "num-test", "n-test"),
)
_STEPS = ("steps", "num-steps", "n-steps", "iterations", "n-iter", "num-iter", "nb-iter", "iters", "max-iter")
_RESTARTS = ("restarts", "n-restarts", "num-restarts")
_STEP_SIZES = ("alpha", "step-size", "eps-step", "eps-iter", "stepsize")
_OF_MODEL = ("mean", "std", "normalize", "normalise", "input-size", "img-size", "image-size", "resize")
_OF_DATA = ("split", "classes", "num-classes", "n-classes", "class-names")
_RADII = ("eps", "epsilon", "epsilons", "e", "radius", "max-eps")
_NORMS = ("norm", "p", "lp", "ord", "p-norm", "lp-norm", "norm-type", "threat-model", "perturbation-type")
_PLURALS = {"attacks": "--attack", "models": "--model", "defenses": "--defense", "threats": "--threat"}
_CHECKPOINTS = ("checkpoint", "ckpt", "weights", "resume", "model-path", "load", "pretrained", "checkpoint-path")
_CUDA = ("cuda", "gpu", "use-cuda", "use-gpu", "gpus", "gpu-id")
_HALF = ("half", "fp16", "bf16", "amp", "mixed-precision", "bfloat16")
_TARGETED = ("targeted", "target", "target-class")


def hint(option: str, arguments: Sequence[str], known: Collection[str]) -> str | None:
    """What to write instead of an option that there is not; None where nothing can be told.

    Args:
        option: as it was given, `--eps`. arguments: of the whole command line. known: the options of the command.
    """
    name = option.lstrip("-").replace("_", "-").lower()
    if name in _SAME:
        wanted = _SAME[name]
        value = "" if wanted in _FLAGS else f" {_shown(_value(arguments, option), 'VALUE')}"
        told = f"write {wanted}{value}"
    else:
        wanted, tell = next(((to, tell) for names, to, tell in _RULES if name in names), ("", None))
        if tell is None:
            return None
        told = tell(option, arguments)
    return told if wanted in known else None


def _threat(option: str, arguments: Sequence[str]) -> str:
    values = {_key(word): _value(arguments, word) for word in arguments if word.startswith("-")}
    eps = next((values[name] for name in _RADII if values.get(name)), None) or "8/255"
    norm = next((values[name] for name in _NORMS if values.get(name)), None) or "Linf"
    norm = norm_name(norm) or "Linf"
    if norm == "Linf" and re.fullmatch(r"\d+(\.\d+)?", eps) and float(eps) > 1:
        eps = f"{eps}/255"
    return f"norm and radius are one option: write --threat {_shown(f'{norm}:{eps}')}"


def _samples(option: str, arguments: Sequence[str]) -> str:
    count = _shown(_value(arguments, option), "100")
    return f"write --samples {count} (a balanced subset) or --samples first:{count}"


def _several(option: str, arguments: Sequence[str]) -> str:
    one = _PLURALS[_key(option)]
    given = as_list(_value(arguments, option) or "A,B")
    return f"give each on its own: {' '.join(f'{one} {_shown(text)}' for text in given)}"


def _checkpoint(option: str, arguments: Sequence[str]) -> str:
    return f"weights are a model: write --model checkpoint:{_shown(_value(arguments, option), 'FILE')}"


def _of_attack(name: str, usual: str) -> Callable[[str, Sequence[str]], str]:
    def tell(option: str, arguments: Sequence[str]) -> str:
        value = _shown(_value(arguments, option), usual)
        return f"it is an option of the attack: write --attack pgd:{name}={value} (rbl show attack pgd)"

    return tell


def _step_size(option: str, arguments: Sequence[str]) -> str:
    return "it is an option of the attack, and a share of eps: write --attack pgd:step_size=0.25 (rbl show attack pgd)"


def _cuda(option: str, arguments: Sequence[str]) -> str:
    value = _value(arguments, option) or ""
    return f"write --device cuda{f':{value}' if value.isdecimal() else ''}"


def _fixed(text: str) -> Callable[[str, Sequence[str]], str]:
    return lambda option, arguments: text


_Rule = tuple[Collection[str], str, Callable[[str, Sequence[str]], str]]
_RULES: tuple[_Rule, ...] = (
    ((*_RADII, *_NORMS), "--threat", _threat),
    (_COUNTS, "--samples", _samples),
    (("attacks",), "--attack", _several),
    (("models",), "--model", _several),
    (("defenses",), "--defense", _several),
    (("threats",), "--threat", _several),
    (_CHECKPOINTS, "--model", _checkpoint),
    (_STEPS, "--attack", _of_attack("steps", "40")),
    (_RESTARTS, "--attack", _of_attack("restarts", "5")),
    (_STEP_SIZES, "--attack", _step_size),
    (
        ("version",),
        "--attack",
        _fixed("AutoAttack's version is an option of it: write --attack autoattack:version=plus"),
    ),
    (
        _OF_MODEL,
        "--model",
        _fixed("it is an option of the model: write --model 'NAME;normalize=imagenet' (rbl show model NAME)"),
    ),
    (_OF_DATA, "--dataset", _fixed("it is an option of the dataset (rbl list datasets, rbl show dataset NAME)")),
    (_TARGETED, "--threat", _fixed("the goal is part of the threat: write --threat Linf:8/255,goal=targeted,target=3")),
    (_CUDA, "--device", _cuda),
    (("cpu", "no-cuda"), "--device", _fixed("write --device cpu")),
    (_HALF, "--precision", _fixed("write --precision bfloat16 (what is found is confirmed in float32)")),
)


def _key(option: str) -> str:
    return option.partition("=")[0].lstrip("-").replace("_", "-").lower()


def _value(arguments: Sequence[str], option: str) -> str | None:
    """What was given for the option: the part behind `=`, or the next word."""
    for place, word in enumerate(arguments):
        head, equals, rest = word.partition("=")
        if _key(head) == _key(option):
            following = arguments[place + 1] if place + 1 < len(arguments) else ""
            return rest if equals else following if following and not following.startswith("-") else None
        if len(option) == 2 and word.startswith(option) and not word.startswith("--"):
            return word[2:]  # -n100
    return None


def _shown(value: str | None, otherwise: str = "") -> str:
    return shlex.quote(cut(value)) if value else otherwise


def known_options(parameters: Sequence[object]) -> frozenset[str]:
    """The names of a command's options."""
    return frozenset(name for one in parameters for name in getattr(one, "opts", ()))
