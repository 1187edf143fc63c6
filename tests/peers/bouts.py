"""Which attacks stand beside which of other libraries, on which victims: what `agreement.py` runs, as data."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Bout:
    """One attack of ours and its peers at one threat.

    Args:
        threat: with an eps images that hold out are counted, without one the median norm is taken.
        ours: a spec. peers: the same attack at the same budget, elsewhere; empty where it is only shown.
        seeds: of attacks that draw. images: how many of the victim's, the first.
        hard: only on those that our `pgd` left at this threat with seed 0, for what costs too much on all; what it broke
            counts as broken, for both sides.
    """

    threat: str
    ours: str
    peers: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    images: int = 500
    hard: bool = False


SEEDS = (0, 1, 2)


def fixed(threat: str, *, art: bool = True) -> tuple[Bout, ...]:
    """What every victim gets in Linf."""
    momentum = "mifgsm:steps=10,step_size=1/10"
    listed = [
        ("noise", ("foolbox:LinfRepeatedAdditiveUniformNoiseAttack",), SEEDS),
        ("fgsm", ("foolbox:LinfFastGradientAttack", "torchattacks:FGSM", "art:FastGradientMethod"), (0,)),
        (
            "bim:steps=10,step_size=1/10",
            (
                "foolbox:LinfBasicIterativeAttack;steps=10;rel_stepsize=1/10",
                "torchattacks:BIM;steps=10;alpha=eps/10",
                "art:BasicIterativeMethod;max_iter=10;eps_step=eps/10",
            ),
            (0,),
        ),
        (
            momentum,
            (
                "torchattacks:MIFGSM;steps=10;alpha=eps/10",
                "art:MomentumIterativeMethod;max_iter=10;eps_step=eps/10;decay=1.0",
            ),
            (0,),
        ),
        (
            "pgd:steps=40,restarts=1,step_size=1/4",
            (
                "foolbox:LinfPGD;steps=40;rel_stepsize=1/4",
                "torchattacks:PGD;steps=40;alpha=eps/4",
                "art:ProjectedGradientDescent;max_iter=40;eps_step=eps/4;num_random_init=1",
            ),
            SEEDS,
        ),
        (
            "apgd",
            ("torchattacks:APGD;steps=100", "art:AutoProjectedGradientDescent;eps_step=eps*2;nb_random_init=1"),
            (0,),
        ),
    ]
    kept = (tuple(spec for spec in peers if art or not spec.startswith("art:")) for _, peers, _ in listed)
    return tuple(
        Bout(threat=threat, ours=ours, peers=peers, seeds=seeds)
        for (ours, _, seeds), peers in zip(listed, kept, strict=True)
    )


PARTS = {
    "apgd:restarts=5": "fra31:apgd-ce",
    "apgd:restarts=5,objective=dlr": "fra31:apgd-dlr",
    "apgd-t": "fra31:apgd-t",
    "fab-t": "fra31:fab-t",
    "square": "fra31:square",
    "autoattack": "fra31:standard",
}
IN_L1 = {
    "apgd:restarts=5,large_eps=true": "fra31:apgd-ce",
    "apgd-t:targets=5,large_eps=true": "fra31:apgd-t",
    "fab-t": "fra31:fab-t",
    "autoattack": "fra31:standard",
}


def cascade(threat: str, parts: dict[str, str], *, images: int = 500) -> tuple[Bout, ...]:
    """AutoAttack and its parts beside the published code, on what our `pgd` left."""
    return tuple(
        Bout(threat=threat, ours=ours, peers=(theirs,), hard=True, images=images) for ours, theirs in parts.items()
    )


def again(threat: str, *, alone: tuple[str, ...] = ("autoattack",)) -> tuple[Bout, ...]:
    """The same with two more seeds: climbs on both sides, the whole cascade on ours."""
    climbs = ("apgd:restarts=5", "apgd-t")
    return (
        *(Bout(threat=threat, ours=ours, peers=(PARTS[ours],), seeds=SEEDS[1:], hard=True) for ours in climbs),
        *(Bout(threat=threat, ours=ours, seeds=SEEDS[1:], hard=True) for ours in alone),
    )


def nearest(*, few: int = 50, pixels: int = 100) -> tuple[Bout, ...]:
    """The smallest norm."""
    return (
        Bout(threat="L2", ours="deepfool", peers=("foolbox:L2DeepFoolAttack", "torchattacks:DeepFool")),
        Bout(threat="Linf", ours="deepfool", peers=("foolbox:LinfDeepFoolAttack",)),
        Bout(threat="L2", ours="ddn:steps=100", peers=("foolbox:DDNAttack;steps=100",)),
        Bout(
            threat="L2",
            ours="cw:searches=5,steps=50,c=0.1",
            peers=("foolbox:L2CarliniWagnerAttack;binary_search_steps=5;steps=50;initial_const=0.1",),
        ),
        Bout(threat="L2", ours="fmn:steps=100", peers=("foolbox:L2FMNAttack;steps=100",)),
        Bout(threat="Linf", ours="fmn:steps=100", peers=("foolbox:LInfFMNAttack;steps=100",)),
        Bout(threat="L1", ours="fmn:steps=100", peers=("foolbox:L1FMNAttack;steps=100",)),
        Bout(threat="L0", ours="fmn:steps=100", peers=("foolbox:L0FMNAttack;steps=100",)),
        Bout(threat="L0", ours="jsma", peers=("torchattacks:JSMA",), images=pixels),
        Bout(
            threat="L2",
            ours="hopskipjump:queries=1657",
            peers=("foolbox:HopSkipJumpAttack;steps=10;max_gradient_eval_steps=300",),
            images=few,
        ),
        Bout(
            threat="L2",
            ours="boundary:queries=1156",
            peers=("foolbox:BoundaryAttack;steps=1000",),
            images=few,
            seeds=SEEDS,
        ),
    )


BOUTS: dict[str, tuple[Bout, ...]] = {
    "resnet20": (
        *fixed("Linf:1/255"),
        *cascade("Linf:1/255", PARTS),
        *again("Linf:1/255"),
        Bout(
            threat="Linf:1/255",
            ours="square:queries=1000,rescale=true",
            peers=("torchattacks:Square;n_queries=1000", "art:SquareAttack;max_iter=1000;p_init=0.8"),
            images=200,
        ),
        Bout(
            threat="Linf:4/255,goal=targeted,target=least-likely",
            ours="pgd:steps=40,restarts=1,step_size=1/4",
            peers=("foolbox:LinfPGD;steps=40;rel_stepsize=1/4", "torchattacks:PGD;steps=40;alpha=eps/4"),
            seeds=SEEDS,
            images=200,
        ),
        Bout(
            threat="Linf:2/255",
            ours="spsa:queries=2570,samples=256,step_size=1.28",
            peers=("torchattacks:SPSA;nb_iter=10;nb_sample=128",),
            images=50,
        ),
        Bout(
            threat="L2:0.5",
            ours="simba:queries=1000,basis=pixel",
            peers=("art:SimBA;attack=px;max_iter=500;epsilon=0.1",),
            images=50,
            seeds=SEEDS,
        ),
        Bout(threat="L2:0.1", ours="fgsm", peers=("foolbox:L2FastGradientAttack",)),
        Bout(
            threat="L2:0.1",
            ours="pgd:steps=40,restarts=1,step_size=1/4",
            peers=("foolbox:L2PGD;steps=40;rel_stepsize=1/4", "torchattacks:PGDL2;steps=40;alpha=eps/4"),
            seeds=SEEDS,
        ),
        Bout(
            threat="L2:0.1",
            ours="square:queries=1000,rescale=true",
            peers=("torchattacks:Square;n_queries=1000",),
            images=200,
        ),
        *cascade("L2:0.1", PARTS, images=200),
        Bout(
            threat="L1:1.5",
            ours="pgd:steps=40,restarts=1,step_size=1/4",
            peers=("foolbox:L1PGD;steps=40;rel_stepsize=1/4",),
        ),
        *nearest(),
    ),
    "resnet56": (
        *fixed("Linf:1/255", art=False),
        *cascade("Linf:1/255", {part: PARTS[part] for part in ("apgd:restarts=5", "apgd-t")}),
        *nearest(few=0, pixels=0),
    ),
    "mnist-pgd-at": (
        *fixed("Linf:0.3"),
        *cascade("Linf:0.3", PARTS),
        *again("Linf:0.3"),
        Bout(
            threat="Linf:0.3",
            ours="square:queries=1000,rescale=true",
            peers=("torchattacks:Square;n_queries=1000", "art:SquareAttack;max_iter=1000;p_init=0.8"),
        ),
        Bout(
            threat="L2:1.5",
            ours="pgd:steps=40,restarts=1,step_size=1/4",
            peers=("foolbox:L2PGD;steps=40;rel_stepsize=1/4", "torchattacks:PGDL2;steps=40;alpha=eps/4"),
            seeds=SEEDS,
        ),
        *cascade("L2:1.5", PARTS, images=200),
        Bout(threat="L2:1.5", ours="apgd-t", peers=("fra31:apgd-t",), seeds=SEEDS[1:], images=200, hard=True),
        Bout(
            threat="L1:8",
            ours="pgd:steps=40,restarts=1,step_size=1/4",
            peers=("foolbox:L1PGD;steps=40;rel_stepsize=1/4",),
        ),
        *cascade("L1:8", IN_L1, images=200),
        *nearest(),
    ),
}
