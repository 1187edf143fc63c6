"""Records: whole or not at all, and found again by content."""

from pathlib import Path

import pandas as pd
import pytest

from robustbench_lite.run.records import COLUMNS, SCHEMA, Records, cell_key


def frame(indices: list[int], broken: bool = False) -> pd.DataFrame:
    texts = {field.name for field in SCHEMA if str(field.type) == "string"}
    values = {name: ("x" if name in texts else 0) for name in COLUMNS}
    values |= {field.name: False for field in SCHEMA if str(field.type) == "bool"}
    rows = pd.DataFrame([values] * len(indices))
    return rows.assign(index=indices, broken=broken)


def test_the_columns_are_the_published_ones_in_order() -> None:
    head = (
        "dataset,model,defense,threat,attack,adaptive,index,label,clean_prediction,prediction,broken,valid,reason,"
        "linf,l2,l1,l0,margin,forwards,backwards,norm,eps,target,target_hit,rejected,score,clean_score,draws,break_rate,"
        "broken_8bit,seed,lane,break_forward,stage,stages,key,shape,source_prediction,source_broken,witness,denied"
    )
    assert ",".join(COLUMNS) == head


@pytest.mark.parametrize("on_disk", [True, False])
def test_rows_come_back_sorted_and_once(tmp_path: Path, on_disk: bool) -> None:
    store = Records(tmp_path if on_disk else None)
    store.append("k", frame([5, 3]))
    store.append("k", frame([3, 1]))
    assert store.rows("k")["index"].tolist() == [1, 3, 5]
    assert store.finish("k")["index"].tolist() == [1, 3, 5]
    assert store.rows("other").empty


def test_parts_end_in_one_file_whatever_the_parts_were(tmp_path: Path) -> None:
    one, other = Records(tmp_path / "one"), Records(tmp_path / "other")
    one.append("k", frame([1, 2, 3, 4]))
    for indices in ([4], [2, 1], [3]):
        other.append("k", frame(indices))
    one.finish("k")
    other.finish("k")
    files = [list((tmp_path / name / "k").iterdir()) for name in ("one", "other")]
    assert [len(found) for found in files] == [1, 1]
    assert files[0][0].read_bytes() == files[1][0].read_bytes()


def test_a_truncated_part_is_computed_again_not_believed(tmp_path: Path) -> None:
    store = Records(tmp_path)
    store.append("k", frame([1]))
    store.append("k", frame([2]))
    part = sorted((tmp_path / "k").iterdir())[0]
    part.write_bytes(part.read_bytes()[:100])
    assert Records(tmp_path).rows("k")["index"].tolist() == [2]


def test_fresh_forgets_what_was_there(tmp_path: Path) -> None:
    Records(tmp_path).append("k", frame([1]))
    store = Records(tmp_path, fresh=True)
    assert store.rows("k").empty
    store.append("k", frame([2]))
    assert store.rows("k")["index"].tolist() == [2]
    assert Records(tmp_path).rows("k")["index"].tolist() == [2]


def test_a_key_covers_every_fact() -> None:
    facts = {"seed": 0, "eps": 8 / 255, "options": {"steps": "3"}}
    assert cell_key(facts) == cell_key(dict(reversed(facts.items())))
    for change in ({"seed": 1}, {"eps": 0.031}, {"options": {"steps": "4"}}, {"more": 0}):
        assert cell_key({**facts, **change}) != cell_key(facts)
