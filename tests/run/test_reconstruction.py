"""task=reconstruction, from a plan to its table: small, but real."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from generating import untrained

import robustbench_lite as rbl
from robustbench_lite.cli import main
from robustbench_lite.errors import UserError
from robustbench_lite.generators import train_generator
from robustbench_lite.results.reconstruction import COLUMNS, NUMBERS, figures
from robustbench_lite.results.statistics import clopper_pearson
from robustbench_lite.run.evaluate import Result, run
from robustbench_lite.run.output import read_reconstruction
from robustbench_lite.run.plan import Plan

ATTACKS = (
    "noise:draws=4",
    "latent-classifier:steps=8,restarts=1",
    "vae-loss:steps=8,targets=2",
    "latent-match:steps=20",
)


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny VAE of digits, trained in seconds."""
    file = tmp_path_factory.mktemp("vae") / "vae.safetensors"
    train_generator("vae:latent=8,width=64", "digits", epochs=25, out=file, use_cache=False, device="cpu")
    return file


@pytest.fixture
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder to work in, and one cache for all tests here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RBL_CACHE", str(tmp_path_factory.getbasetemp() / "judges"))
    return tmp_path


def plan(vae: Path, **changes: Any) -> Plan:
    given = {"models": (f"vae:{vae}",), "attacks": ATTACKS, "threats": ("L2:2.5,goal=targeted,target=random",)}
    return Plan(
        **{"task": "reconstruction", "defenses": ("none",), "samples": "24", "diagnostics": False, **given, **changes}
    )


def by_attack(result: Result) -> pd.DataFrame:
    return result.reconstruction.set_index(result.reconstruction["attack"].str.partition(":")[0])


def test_a_run_says_what_comes_back(vae: Path, quiet: Path) -> None:
    result = run(plan(vae), out=quiet / "run")
    table = by_attack(result)
    assert tuple(result.reconstruction.columns) == COLUMNS
    assert table.index.tolist() == ["noise", "latent-classifier", "vae-loss", "latent-match"]
    assert table["n"].nunique() == 1
    assert table["n"].iloc[0] > 12, "the tiny VAE brings most digits back"
    # Matching codes beats noise of the same length, by what is read and by what is near.
    match, noise = table.loc["latent-match"], table.loc["noise"]
    assert match["as_target"] > noise["as_target"]
    assert match["nearer_target"] > max(match["nearer_target_noise"], noise["nearer_target"])
    assert match["to_target"] < noise["to_target"]
    assert (table["l2"] <= 2.5 + 1e-5).all()
    # What the records count as broken is what comes back as the target.
    own = result.records[result.records["reason"] == ""]
    for attack, rows in own.groupby("attack"):
        row = result.reconstruction.set_index("attack").loc[str(attack)]
        assert row["as_target"] == pytest.approx(rows["broken"].mean())
        assert row["n"] == len(rows)
        assert row["l2"] == pytest.approx(rows["l2"].mean(), rel=1e-5)
    assert {"reconstruction.csv", "reconstruction.png", "summary.csv"} <= {
        path.name for path in (quiet / "run").iterdir()
    }
    pd.testing.assert_frame_equal(read_reconstruction(quiet / "run"), result.reconstruction, check_dtype=False)
    assert all(strip.images.shape == (6, 1, 8, 8) for strip in result.panel)


def test_a_run_that_goes_on_ends_in_the_same_table(vae: Path, quiet: Path) -> None:
    few = run(plan(vae, attacks=ATTACKS[3:]), out=quiet / "run")
    first = (quiet / "run/reconstruction.csv").read_bytes()
    again = run(plan(vae, attacks=ATTACKS[3:]), out=quiet / "run")
    assert (quiet / "run/reconstruction.csv").read_bytes() == first
    pd.testing.assert_frame_equal(few.records, again.records)
    fresh = run(plan(vae, attacks=ATTACKS[3:]))
    pd.testing.assert_frame_equal(fresh.reconstruction, few.reconstruction)


def test_a_sample_feels_nothing_of_the_others(vae: Path, quiet: Path) -> None:
    """Half of a slice is attacked as in the whole of it: with the same pictures to aim at, row by row."""
    for attack in ("output-damage:steps=6,restarts=1", "pgd:steps=6,restarts=1"):  # which learn from no other image
        whole = run(plan(vae, attacks=(attack,), samples="first:24")).records
        half = run(plan(vae, attacks=(attack,), samples="first:9")).records
        columns = ["index", "clean_prediction", "prediction", "broken", "l2", "margin", "target", "lane"]
        pd.testing.assert_frame_equal(half[columns], whole[columns].head(9))


def test_without_a_target_there_are_no_shares_of_it(vae: Path, quiet: Path) -> None:
    result = run(plan(vae, attacks=("output-damage:steps=10",), threats=("Linf:0.2",)))
    row = result.reconstruction.iloc[0]
    assert row["aimed"] == 0
    assert math.isnan(row["as_target"])
    assert math.isnan(row["to_target"])
    assert row["left_source"] >= row["left_source_noise"]
    assert len(result.panel) == 2
    assert np.isnan(result.panel[0].images[4:]).all()


def test_the_command_prints_the_table_and_a_report_prints_it_again(
    vae: Path, quiet: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")  # a narrow screen folds the attack's name
    common = ("evaluate", "--task", "reconstruction", "--model", f"vae:{vae};judge=linear", "--samples", "24")
    assert main([*common, "--attack", "latent-match:steps=5,targets=1", "--no-diagnostics", "--out", "run"]) == 0
    said = capsys.readouterr().out
    assert "what comes back, in % of images and L2 distances" in " ".join(said.split())
    assert Plan.load(quiet / "run/plan.toml").threats == Plan.of_task("reconstruction").threats
    assert main(["report", "run"]) == 0
    assert "latent-match:steps=5" in capsys.readouterr().out.partition("what comes back")[2]
    assert main(["evaluate", "--config", "run/plan.toml", "--out", "again", "--format", "csv"]) == 0
    assert "what comes back" in capsys.readouterr().err
    assert (quiet / "again/reconstruction.csv").read_bytes() == (quiet / "run/reconstruction.csv").read_bytes()


def test_the_discriminator_of_a_gan_is_evaluated_as_any_classifier(quiet: Path) -> None:
    gan = untrained(quiet / "gan.safetensors", "gan:latent=4", classes=10)
    result = rbl.evaluate(
        f"discriminator:{gan}", attacks="pgd:steps=5,restarts=1", threat="Linf:0.3", dataset=f"versus:{gan}", samples=40
    )
    assert not len(result.reconstruction)
    assert result.class_names == ("fake", "real")
    assert set(result.records["label"]) == {0, 1}


# -- the plan and what it refuses -----------------------------------------------------------------------------------


def test_a_plan_without_a_task_is_what_it_was() -> None:
    assert "task" not in Plan().to_toml()
    assert Plan.from_toml("") == Plan() == Plan.of_task("classify")


def test_a_task_has_defaults_of_its_own() -> None:
    plan = Plan.from_toml('task = "reconstruction"\nmodels = ["vae:FILE"]')
    assert plan.defenses == ("none",)
    assert plan.attacks == ("noise", "latent-classifier", "vae-loss", "latent-match")
    assert plan.threats[0].startswith("L2:")
    assert Plan.from_toml(plan.to_toml()) == plan
    assert Plan.from_toml('task = "reconstruction"\nthreats = ["Linf:0.2"]').threats == ("Linf:0.2",)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"models": ("small-cnn",)}, "small-cnn is a classifier and reconstructs nothing; accepted: vae:FILE"),
        ({"defenses": ("none", "jpeg")}, "attacks a generator as it is; jpeg is for classifiers"),
        ({"physical": "print-photo"}, "physical is for task=classify"),
        ({"precision": "bfloat16"}, "precision=bfloat16 is for task=classify"),
        ({"samples": "all"}, "none is left to learn from"),
        ({"task": "classify", "attacks": ("pgd",)}, "is no classifier: it reconstructs images"),
        ({"task": "classify"}, "latent-classifier compares codes and reconstructions, which a classifier has not"),
    ],
)
def test_messages_say_what_is_accepted(vae: Path, quiet: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(plan(vae, **changes))


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(
        UserError, match="task=reconstruct; accepted: classify, reconstruction; did you mean 'reconstruct"
    ):
        Plan(task="reconstruct")


def test_a_classifier_of_ones_own_reconstructs_nothing(quiet: Path) -> None:
    x, y = torch.rand((20, 1, 8, 8)), torch.arange(20) % 4
    with pytest.raises(UserError, match="is a classifier and reconstructs nothing"):
        rbl.evaluate(
            torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4)), x, y, task="reconstruction", samples=10
        )


# -- the numbers ----------------------------------------------------------------------------------------------------


def test_shares_and_means_are_those_of_the_rows() -> None:
    numbers = {name: [1.0, 2.0, 3.0] for name in NUMBERS}
    flags = {"as_target": [True, False, True], "left_source": [True, True, True], "nearer_target": [False, False, True]}
    drawn = {"as_target_drawn": [True, False, False], "left_source_drawn": [True, True, False]}
    rows = pd.DataFrame({**numbers, **flags, **drawn, "draws": 20, "target": [4, 2, -1]})
    found = figures(rows)
    assert (found["n"], found["aimed"], found["draws"]) == (3, 2, 20)
    assert found["as_target"] == 0.5  # of the two that have a target
    assert (found["as_target_low"], found["as_target_high"]) == clopper_pearson(1, 2)
    assert found["left_source"] == 1.0
    assert found["left_source_low"] == clopper_pearson(3, 3)[0]
    assert found["nearer_target"] == 0.0
    assert found["as_target_drawn"] == 0.5
    assert found["left_source_drawn"] == pytest.approx(2 / 3)
    assert found["l2"] == 2.0
    assert found["to_target"] == 1.5


def test_of_no_images_nothing_is_known() -> None:
    found = figures(pd.DataFrame({name: [] for name in (*NUMBERS, "draws", "target")}))
    assert found["n"] == 0
    assert all(math.isnan(float(str(found[name]))) for name in NUMBERS)
