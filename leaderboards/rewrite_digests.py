"""Write the digests of a leaderboard's systems anew after a version that counts them otherwise.

    python leaderboards/rewrite_digests.py leaderboards/NAME.csv… [--data-root DIR]

A row gets a new digest only if the system that its plan builds here answers every image of the row as NAME.samples.csv says.
What differs is named, and the file stays as it was. `rbl leaderboard seal` then writes the evidence.
"""

import argparse
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np

from robustbench_lite.leaderboard.board import Board
from robustbench_lite.leaderboard.columns import CLEAN, key_of, name_of
from robustbench_lite.leaderboard.plan import BoardPlan
from robustbench_lite.leaderboard.samples import unpacked
from robustbench_lite.leaderboard.slices import slice_digest
from robustbench_lite.leaderboard.validate import seal
from robustbench_lite.run.reporter import Silent
from robustbench_lite.run.setting import Setting


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--data-root")
    given = parser.parse_args()
    return max(rewrite(path, given.data_root) for path in given.files)


def rewrite(path: Path, data_root: str | None) -> int:
    """1 where a row's system answers otherwise here than the samples say."""
    board, plan = Board.read(path), BoardPlan.load(path.with_suffix(".toml"))
    setting = Setting.of(replace(plan.plan, seed=plan.seeds[0], data_root=data_root or plan.plan.data_root))
    digest = slice_digest(setting.data.digest(), setting.indices.tolist())
    told = {key_of(one): one for one in board.samples.to_dict("records") if one["attack"] == CLEAN}
    text, wrong = path.read_text(), False
    with setting.opened(None, Silent()) as opened:
        for model, defense in product(setting.plan.models, setting.plan.chains):
            subject = opened.subject(opened.build(model, defense))
            right = (~subject.clean.wrong.numpy())[np.argsort(subject.indices)]
            for row in board.rows.to_dict("records"):
                key = key_of(row)
                if key[2:] != (model, defense):
                    continue
                before = unpacked(str(told[key]["left"]), int(float(told[key]["n"])))
                same = row["slice"] == digest and np.array_equal(before, right)
                print(f"{name_of(key)}: {'the same' if same else 'OTHER'} answers to {len(before)} images")
                wrong |= not same
                text = text.replace(row["digest"], subject.system.digest)
    if not wrong:
        path.write_text(text)
        seal(path, ("digest",))
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
