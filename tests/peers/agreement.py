"""The table of docs/agreement.md: our attacks beside other libraries', same victims, images and budgets, one verdict.

    PYTHONPATH=tests RBL_SHARED=…/shared python -P -m peers.agreement --out DIR [--victim NAME] [--attack NAME] [--images N]

Everything goes into DIR and is looked up the next time; `agreement.csv` has a row an attack, library and seed, and the table
is printed as Markdown. It takes some hours on one core. `bouts.py` says what is compared.
"""

import argparse
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pandas as pd
import torch
from peers.bouts import BOUTS, Bout
from shared_data import cifar_test, mnist_test, shared_data
from torch import Tensor, nn

import robustbench_lite as rbl
from robustbench_lite import zoo
from robustbench_lite.specs import head

TRAINED = Path(__file__).resolve().parents[2] / "leaderboards" / "models" / "mnist-small-cnn-pgd-at.safetensors"
LIBRARIES = {"foolbox": "Foolbox", "torchattacks": "torchattacks", "art": "ART", "fra31": "published AutoAttack"}
COLUMNS = [
    "victim",
    "threat",
    "attack",
    "library",
    "spec",
    "seed",
    "images",
    "attacked",
    "left",
    "median",
    "without",
    "queries",
]


@cache
def victim(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """The network and its first 500 test images."""
    pixels, labels = mnist_test(500) if name.startswith("mnist") else cifar_test(500)
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float() / 255
    weights = shared_data() / "models" / f"{name}.safetensors"
    spec = f"checkpoint:{TRAINED}" if name.startswith("mnist") else f"{name};weights={weights}"
    return zoo.load(spec, num_classes=10, input_shape=tuple(x.shape[1:])).module, x, torch.from_numpy(labels)


def records(name: str, threat: str, spec: str, seed: int, keep: Tensor, folder: Path) -> pd.DataFrame:
    """A row an image that was attacked."""
    model, x, y = victim(name)
    out = folder / name / threat.replace("/", "-").replace(",", "-") / f"seed-{seed}"
    found = rbl.evaluate(
        model, x[keep], y[keep], attacks=[spec], threat=threat, seed=seed, diagnostics=False, examples="0", out=out
    )
    if found.failed:
        raise RuntimeError(f"{spec}, {threat}, {name}: {found.failed}")
    return found.records


def images_of(name: str, bout: Bout, count: int, folder: Path) -> Tensor:
    """(k,) places of the images that a bout attacks."""
    first = torch.arange(min(bout.images, count))
    if not bout.hard:
        return first
    easy = next(other for other in BOUTS[name] if other.threat == bout.threat and other.ours.startswith("pgd"))
    left = records(name, bout.threat, easy.ours, 0, first, folder).sort_values("index")
    return first[torch.from_numpy(~left["broken"].to_numpy(dtype=bool))]


def row(name: str, bout: Bout, spec: str, seed: int, count: int, folder: Path) -> dict[str, object]:
    """What one attack leaves, or how near it comes."""
    keep = images_of(name, bout, count, folder)
    rows = records(name, bout.threat, spec, seed, keep, folder)
    right = rows[rows["clean_prediction"] == rows["label"]]
    family = spec.partition(":")[0]
    told = {
        "victim": name,
        "threat": bout.threat,
        "attack": bout.ours,
        "library": LIBRARIES.get(family, "ours"),
        "spec": spec,
        "seed": seed,
        "images": min(bout.images, count),
        "attacked": len(keep),
        "queries": round(float((right["forwards"] + right["backwards"]).mean()), 1),
    }
    if ":" in bout.threat:
        return told | {"left": int((~rows["broken"].astype(bool)).sum())}
    norms = right[bout.threat.lower()].where(right["broken"].astype(bool), torch.inf)
    return told | {"median": float(norms.median()), "without": int((~right["broken"].astype(bool)).sum())}


def rows(name: str, attacks: list[str], count: int, folder: Path) -> Iterator[dict[str, object]]:
    for bout in BOUTS[name]:
        if attacks and head(bout.ours) not in attacks:
            continue
        for spec in (bout.ours, *bout.peers) if bout.images else ():
            for seed in bout.seeds:
                yield row(name, bout, spec, seed, count, folder)


def shown(some: pd.DataFrame) -> str:
    """The figures of one attack of one library, seed by seed."""
    if some.empty:
        return ""
    if some["median"].isna().all():
        return ", ".join(str(int(left)) for left in some["left"])
    return ", ".join(
        f"{median:.4g}" + (f" ({int(without)} without)" if without else "")
        for median, without in zip(some["median"], some["without"], strict=True)
    )


def markdown(table: pd.DataFrame) -> str:
    """A table a victim, a row an attack; an asterisk: on the images that our pgd left."""
    names, lines = list(LIBRARIES.values()), []
    for victim_name, part in table.groupby("victim", sort=False):
        lines += [f"\n**{victim_name}**\n", "| threat | attack | images | ours | " + " | ".join(names) + " |"]
        lines += ["|---|---|---:|---:|" + "---:|" * len(names)]
        for (threat, attack), group in part.groupby(["threat", "attack"], sort=False):
            first = group.iloc[0]
            count = f"{first['images']}" + (" *" if first["attacked"] < first["images"] else "")
            cells = [shown(group[group["library"] == library]) for library in ("ours", *names)]
            lines += [f"| {threat} | `{attack}` | {count} | " + " | ".join(cells) + " |"]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs, and of agreement.csv")
    parser.add_argument("--victim", action="append", choices=sorted(BOUTS), help="these alone; repeats")
    parser.add_argument("--attack", action="append", default=[], help="these of ours alone, such as pgd; repeats")
    parser.add_argument("--images", type=int, default=500, help="of each victim, at most")
    given = parser.parse_args()
    found: list[dict[str, object]] = []
    for name in given.victim or list(BOUTS):
        for told in rows(name, given.attack, given.images, given.out):
            found.append(told)
            print(" ".join(f"{key}={value}" for key, value in told.items()), file=sys.stderr, flush=True)
            pd.DataFrame(found, columns=COLUMNS).to_csv(given.out / "agreement.csv", index=False)
    print(markdown(pd.DataFrame(found, columns=COLUMNS)))


if __name__ == "__main__":
    main()
