"""Tables by their text."""

import csv
import io
import json
import math

import pandas as pd
import pytest

from robustbench_lite.results.compare import compare_rows
from robustbench_lite.results.diagnostics import frame, from_records
from robustbench_lite.results.grid import INTERVALS
from robustbench_lite.results.metrics import summarise
from robustbench_lite.results.tables import comparative, details, text, to_csv, to_json, to_markdown


@pytest.fixture
def records(make_records):
    none = make_records({"noise": "R" * 36 + "BBBW", "fgsm": "R" * 9 + "B" * 30 + "W", "pgd": "B" * 39 + "W"})
    attacks = {"noise": "R" * 39 + "W", "fgsm": "R" * 30 + "B" * 9 + "W", "pgd": "R" * 20 + "B" * 19 + "W"}
    return pd.concat([none, make_records(attacks, defense="adversarial-training")], ignore_index=True)


GOLDEN = """\
digits · Linf:0.2 · n = 40 test images · robust accuracy in %

                          clean   noise    fgsm     pgd          worst case   flags
 ─────────────────────────────────────────────────────────────────────────────────────
 small-cnn
   none                    97.5    90.0    22.5    0.0*      0.0 [0.0, 8.8]   a? b? c?
   adversarial-training    97.5    97.5    75.0   50.0*   50.0 [33.8, 66.2]   a? b? c?

 Not checked: a? black-box-beats-gradient, b? transfer-beats-gradient, c? not-monotone-in-eps.
 * strongest attack of the row (lowest robust accuracy).
 Intervals are 95% Clopper-Pearson over test images only (not over training seeds).
 Worst case, paired by image; p of the exact McNemar test:
 small-cnn: adversarial-training minus none: +50.0 points, p < 0.0001 (n = 40)
"""


def test_the_comparative_table_reads_at_100_columns(records):
    summary = summarise(records, diagnostics=frame(from_records(records)))
    assert text(comparative(summary, compare_rows(records))) == GOLDEN


def test_details_have_a_row_an_attack(records):
    shown = text(details(summarise(records, needs={"pgd": "gradients"})))
    (line,) = [line for line in shown.splitlines() if line.startswith("   pgd ") and "50.0" in line]
    assert line.split() == ["pgd", "gradients", "40", "50.0", "[33.8,", "66.2]", "48.7", "10.0", "5.0"]
    assert max(map(len, shown.splitlines())) <= 100


def test_details_fit_with_every_column(make_records):
    columns = {"targeted:target=least-likely": {"target": 1, "forwards": 12345, "backwards": 12345}}
    records = make_records({"targeted:target=least-likely": "RB" * 500}, adaptive=True, columns=columns)
    names = ["dataset", "model", "defense", "threat", "attack", "key"]
    timings = records[names].head(1).assign(seconds=1234.5, setup_seconds=0.0, setup_queries=0, failed="")
    shown = text(details(summarise(records, timings, needs={"targeted:target=least-likely": "gradients"})))
    assert max(map(len, shown.splitlines())) <= 100
    row = "gradients* 1000 50.0 [46.9, 53.1] 50.0 0.0 12345 12345 1234"
    assert row in unwrapped(shown)
    assert "* run as the adaptive adversary" in shown


def test_many_attacks_go_on_in_a_second_table_and_none_is_cut(make_records):
    attacks = [f"pgd:steps={steps},restarts=5" for steps in range(10, 110, 10)]
    shown = text(comparative(summarise(make_records(dict.fromkeys(attacks, "RB")))))
    assert shown.count("clean") == 2
    assert "…" not in shown
    assert shown.count("worst case") == 1
    assert all(f"steps={steps}," in shown for steps in range(10, 110, 10))
    assert max(map(len, shown.splitlines())) <= 100
    assert "…" not in shown


def test_long_names_are_folded_not_cut(make_records):
    defense = "adversarial-training:attack=(pgd:steps=7,restarts=3),epochs=30"
    shown = text(comparative(summarise(make_records({"pgd": "RB"}, defense=defense))))
    assert defense in "".join(line[2:28].strip() for line in shown.splitlines())
    assert "…" not in shown


def test_fired_flags_are_explained_below(make_records):
    records = make_records({"noise": "BRR", "pgd": "RRR"})
    shown = text(comparative(summarise(records, diagnostics=frame(from_records(records)))))
    assert "a b? c? d? e?" in shown
    assert "a noise-beats-gradient: random noise broke what no gradient attack broke" in unwrapped(shown)
    assert "Not checked: b? black-box-beats-gradient, c? transfer-beats-gradient, d? one-step-beats-iterative, e?" in (
        unwrapped(shown)
    )


def test_a_flag_that_fires_in_one_row_and_is_unchecked_in_another_has_one_letter(make_records):
    records = pd.concat([make_records({"noise": "B", "pgd": "R"}), make_records({"pgd": "R"}, defense="x")])
    shown = text(comparative(summarise(records, diagnostics=frame(from_records(records)))))
    assert "a noise-beats-gradient:" in shown
    assert "Not checked: a? noise-beats-gradient" in shown


def unwrapped(shown):
    return " ".join(shown.split())


def test_failed_left_out_and_invalid_samples_are_told(make_records):
    records = make_records({"pgd": "RBFF", "fgsm": "RRII", "targeted:target=0": "LRRR"})
    names = ["dataset", "model", "defense", "threat", "attack", "key"]
    clocks = {"seconds": 1.0, "setup_seconds": 0.0, "setup_queries": 0}
    timings = records[names].head(1).assign(**clocks, failed="RuntimeError: out of ideas")
    shown = text(comparative(summarise(records, timings)))
    assert "25-75!" in shown
    assert "[25.0, 75.0]!" in shown
    assert "not a robust accuracy, only its bounds" in unwrapped(shown)
    assert "! pgd on small-cnn, none: RuntimeError: out of ideas" in shown
    assert "targeted:target=0: 1 left out, whose label is the target." in shown
    assert "fgsm: 2 invalid, which counts as not broken." in shown


def test_a_minimum_norm_threat_shows_median_norms(make_records):
    columns = {"fmn": {"l2": [0.5, 0.25, 0.0]}}
    shown = text(comparative(summarise(make_records({"fmn": "BBW", "ddn": "RRW"}, threat="L2", columns=columns))))
    assert "median L2 norm that breaks" in shown
    assert "0.375*" in shown
    assert "inf" in shown
    assert INTERVALS not in shown


def test_a_model_stands_above_all_its_defenses(make_records):
    order = [("cnn", "none"), ("mlp", "none"), ("cnn", "x"), ("mlp", "x")]
    records = pd.concat([make_records({"pgd": "RB"}, model=model, defense=defense) for model, defense in order])
    shown = text(comparative(summarise(records), compare_rows(records))).splitlines()
    starts = [line.split()[0] for line in shown if line.startswith((" cnn", "   ", " mlp")) and line.split()]
    assert starts == ["clean", "cnn", "none", "x", "mlp", "none", "x", "cnn:", "mlp:"]


def test_markdown_has_the_same_numbers(records):
    shown = to_markdown(summarise(records), compare_rows(records))
    assert "| model | defense | clean | `noise` | `fgsm` | `pgd` | worst case |" in shown
    assert "| small-cnn | adversarial-training | 97.5 | 97.5 | 75.0 | **50.0** | 50.0 [33.8, 66.2] |" in shown
    assert f"{INTERVALS}  \n" in shown
    widths = {line.count("|") for line in shown.splitlines() if line.startswith("|")}
    assert len(widths) == 1


def test_csv_reads_back_to_the_same_numbers(records, tmp_path):
    summary = summarise(records)
    content = to_csv(summary, tmp_path / "summary.csv")
    assert (tmp_path / "summary.csv").read_text(encoding="utf-8") == content
    rows = list(csv.DictReader(io.StringIO(content)))
    assert list(rows[0]) == list(summary.columns)
    assert [float(row["robust_acc_low"]) for row in rows] == summary["robust_acc_low"].tolist()
    assert {row["adaptive"] for row in rows} == {"false"}
    assert rows[0]["median_norm"] == ""


def test_json_is_strict_and_keeps_infinity_apart_from_nothing(make_records):
    columns = {"fmn": {"l2": [0.5, 0.0]}}
    rows = json.loads(to_json(summarise(make_records({"fmn": "RR"}, threat="L2", columns=columns))))
    assert rows[0]["median_norm"] == "inf"
    assert rows[0]["seconds"] is None
    assert rows[0]["adaptive"] is False
    assert rows[0]["n"] == 2


def test_a_cell_without_rows_has_no_adaptive_in_csv_and_json(make_records):
    cell = ("digits", "small-cnn", "none", "Linf:0.2")
    summary = summarise(make_records({"pgd": "RB"}), expected={(*cell, "pgd"): 2, (*cell, "bim"): 2})
    rows = json.loads(to_json(summary))
    assert [row["adaptive"] for row in rows] == [False, None, False]
    assert [row["adaptive"] for row in csv.DictReader(io.StringIO(to_csv(summary)))] == ["false", "", "false"]
    assert math.isnan(summary["robust_acc"][1])
    assert "0-50!" not in text(comparative(summary))
    assert "0-100!" in text(comparative(summary))
