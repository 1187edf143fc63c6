"""What README and docs show works: commands parse, code runs, files and names exist.

The generated page is written again with RBL_UPDATE_GOLDEN=1.
"""

import importlib
import os
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
from documents import REFERENCE, ROOT, blocks, commands, pages, prose, reference
from toys import affine, samples

import robustbench_lite as rbl
from robustbench_lite import plugins, specs
from robustbench_lite.attack import resolve_attack
from robustbench_lite.cli import main
from robustbench_lite.defense import resolve_defense
from robustbench_lite.describe import SOURCES, describe
from robustbench_lite.errors import PluginError, UserError
from robustbench_lite.generators import resolve_generator
from robustbench_lite.leaderboard.generators import GeneratorPlan
from robustbench_lite.run.evaluate import Result, run
from robustbench_lite.run.plan import Plan
from robustbench_lite.system import System
from robustbench_lite.threat import Threat
from robustbench_lite.zoo import load

PLUGINS = ROOT / "docs/plugins.md"
#: options of other programs that are shown
FOREIGN = {"--help", "--no-deps", "--rbl-baseline", "--rbl-update"}
Package = Callable[[], Path]


@pytest.fixture
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RBL_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def package(quiet: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The package of docs/plugins.md, written out and findable by its entry points, as pip would leave it."""
    files = {block.file: block.text for block in blocks(PLUGINS) if block.file}
    for name, text in files.items():
        (quiet / name).parent.mkdir(exist_ok=True)
        (quiet / name).write_text(text, encoding="utf-8")
    (quiet / "my_robustness/__init__.py").touch()
    project = tomllib.loads(files["pyproject.toml"])["project"]
    told = quiet / "my_robustness-0.1.0.dist-info"
    told.mkdir()
    (told / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n", encoding="utf-8")
    groups = (
        "\n".join([f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())])
        for group, entries in project["entry-points"].items()
    )
    (told / "entry_points.txt").write_text("\n\n".join(groups) + "\n", encoding="utf-8")
    monkeypatch.syspath_prepend(quiet)
    plugins._offered.cache_clear()
    yield quiet
    plugins._offered.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] in ("my_robustness", "test_laws")]:
        del sys.modules[name]


# -- commands ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("package")
def test_every_rbl_command_shown_is_understood(
    quiet: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Options are read, and every spec is resolved, up to where the work would begin."""
    (quiet / "curve-run").mkdir()
    (quiet / "curve-run/plan.toml").write_text(Plan().to_toml(), encoding="utf-8")
    monkeypatch.setattr("robustbench_lite.run.evaluate.run", resolved)
    works = (
        "run_folder.read_run",
        "train.train",
        "certify.certify",
        "explain.explain",
        "rubbish.rubbish",
        "latent.latent",
    )
    works += ("verify.verify",)
    boards = ("board.Board.read", "plan.BoardPlan.load", "generators.GeneratorPlan.load", "validate.faults")
    boards += ("validate.seal",)
    for place in boards:
        monkeypatch.setattr(f"robustbench_lite.leaderboard.{place}", lambda *_, **__: reached())
    for place in (*works, *(f"generate.{name}" for name in ("train", "sample", "show")), "quality.measure_files"):
        monkeypatch.setattr(f"robustbench_lite.run.{place}", lambda *_, **__: reached())
    shown = [(page.name, words) for page in pages() for words in commands(page, "rbl")]
    assert len(shown) > 15
    for page, words in shown:
        code, said = main(words), capsys.readouterr()
        if code == 2 and re.match(r"rbl: \w+ needs .*: pip install ", said.err):
            continue  # of another library, which is not installed here
        assert (code, said.err) in ((0, ""), (2, "rbl: reached the work\n")), (page, words)


def resolved(plan: Plan, **_: object) -> None:
    """Every spec of the plan, as `run` would read it."""
    threats = [Threat.parse(text) for text in plan.threats]
    for text in plan.attacks:
        for threat in threats:
            resolve_attack(text).check(threat, 10)
    for text in plan.defenses:
        resolve_defense(text)
    if "adversarial-training" in plan.defenses:
        known = resolve_attack("pgd").norms
        assert any(threat.eps is not None and threat.norm in known for threat in threats), "no threat to train on"
    named("dataset", plan.dataset)
    for text in plan.models:
        named("model", text)
    reached()


def named(kind: plugins.Kind, text: str) -> None:
    """The plugin or source that a spec names."""
    name = specs.parse_source(text).name
    if not re.match(r"[\w.-]+\.py:\w+$", name):
        describe(kind, name.partition(":")[0])


def reached() -> None:
    raise UserError("reached the work")


def test_every_make_target_shown_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page in pages():
        lines = [word for words in commands(page, "make") for word in words if re.fullmatch("[a-z]+", word)]
        inline = re.findall(r"`make ([a-z]+)", prose(page))
        assert {*lines, *inline} <= targets, page


def test_every_option_named_in_a_text_exists(capsys: pytest.CaptureFixture[str]) -> None:
    known = set(FOREIGN)
    parts = [["generate", name] for name in ("train", "sample", "show", "measure", "latent")]
    parts += [["leaderboard", name] for name in ("build", "show", "merge", "diff", "validate", "seal")]
    for command in [*([name] for name in COMMANDS), *parts]:
        main([*command, "--help"])
        known |= set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out))
    for page in pages():
        assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", prose(page))) <= known, page


# -- names ------------------------------------------------------------------------------------------------------

COMMANDS = (
    *("evaluate", "report", "plot", "verify", "leaderboard", "check", "train", "generate", "certify", "explain"),
    *("rubbish", "list", "show"),
)


def test_every_command_has_a_line_in_the_readme(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    assert set(re.findall(r"^  ([a-z]+)  ", capsys.readouterr().out, re.MULTILINE)) == set(COMMANDS)
    assert {words[0] for words in commands(ROOT / "README.md", "rbl")} >= set(COMMANDS)


@pytest.mark.parametrize("kind", plugins.KINDS)
def test_every_built_in_name_is_mentioned(kind: plugins.Kind) -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages())
    mine = [name for name in plugins.names(kind) if plugins.origin(kind, name) == "robustbench-lite"]
    for name in (*mine, *SOURCES.get(kind, {})):
        assert f"`{name}`" in text, name


def test_the_reference_is_that_of_the_code() -> None:
    if os.environ.get("RBL_UPDATE_GOLDEN"):
        REFERENCE.write_text(reference(), encoding="utf-8")
    assert REFERENCE.read_text(encoding="utf-8") == reference(), "write it again with RBL_UPDATE_GOLDEN=1"


def test_every_link_leads_to_a_file() -> None:
    for page in pages():
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", prose(page)):
            assert link.startswith("https://") or (page.parent / link).is_file(), (page.name, link)


def test_pictures_are_small() -> None:
    assert all(path.stat().st_size < 200_000 for path in (ROOT / "docs/images").glob("*.png"))


def test_columns_and_files_named_in_the_readme_are_those_of_a_run(quiet: Path) -> None:
    plan = Plan(
        models=("linear",),
        defenses=("none", "softmax-threshold"),
        attacks=("fgsm", "autoattack:components=(apgd-ce+square),steps=2,queries=4"),
        threats=("Linf:0.1", "Linf:0.2"),
        samples="20",
    )
    result = run(plan, out=quiet / "run")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[^|]+) \|", text[text.index("| file |") :], re.MULTILINE)
    for pattern in re.findall(r"`([^`]+)`", " ".join(rows[:7])):
        assert list((quiet / "run").glob(pattern)), pattern
    assert {"forwards", "backwards", "setup_queries"} <= set(result.table.columns)


@pytest.mark.parametrize("path", sorted((ROOT / "plans").glob("*.toml")), ids=lambda path: path.stem)
def test_every_plan_names_what_there_is(path: Path) -> None:
    assert path.name in (ROOT / "plans/README.md").read_text(encoding="utf-8")
    generators = GeneratorPlan.load(path)
    if generators is not None:
        for one in generators.trainings:
            network = resolve_generator(one.generator)
            assert str(network) == one.generator
            network.build((3, 32, 32), 10)
        return
    plan = Plan.load(path)
    for text in plan.defenses:
        resolve_defense(text)
    for text in plan.attacks:
        resolve_attack(text)
    for text in plan.models:
        load(text, num_classes=10, input_shape=(3, 32, 32))


# -- code -------------------------------------------------------------------------------------------------------


def test_the_python_of_the_readme_runs(quiet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = [block for block in blocks(ROOT / "README.md") if block.language == "python"]
    for block in (block for block in shown if block.file):
        (quiet / str(block.file)).write_text(block.text, encoding="utf-8")
    assert load("mynet.py:make;mean=(0.13);std=(0.31)", num_classes=3, input_shape=(1, 8, 8)).num_classes == 3
    (script,) = (block.text for block in shown if not block.file)
    there: dict[str, object] = {}
    exec(compile(script.replace("1200", "1700"), "README.md", "exec"), there)  # fewer images to attack
    result = there["result"]
    assert isinstance(result, Result)
    assert list(result.table["attack"]) == ["noise", "pgd:steps=40", "worst-case"]
    assert there["images"]
    assert "robust_acc_low" in capsys.readouterr().out


def test_the_plugins_of_the_docs_are_found_and_run(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "attacks"]) == 0
    assert "hill-climb" in capsys.readouterr().out
    common = ("--samples", "20", "--no-diagnostics", "--format", "csv", "--dataset", "stripes", "--model", "one-layer")
    attacks = ("--attack", "hill-climb:steps=20", "--attack", "pgd:steps=5,restarts=1")
    defenses = ("--defense", "none", "--defense", "grey-levels:levels=4")
    assert main(["evaluate", *common, *attacks, *defenses, "--threat", "Linf:0.4", "--out", "run"]) == 0
    table = pd.read_csv(package / "run/summary.csv").set_index(["defense", "attack"])
    assert table["clean_acc"].eq(1).all()
    assert table.loc[("none", "pgd:steps=5,restarts=1"), "robust_acc"] < 1
    assert table.loc[("grey-levels:levels=4", "worst-case"), "adaptive"]


@pytest.mark.usefixtures("package")
def test_the_tests_of_the_docs_pass() -> None:
    laws = importlib.import_module("test_laws")
    tests = [value for name, value in vars(laws).items() if name.startswith("test_")]
    assert len(tests) == 2
    for test in tests:
        test()


@pytest.mark.usefixtures("package")
def test_rounding_without_a_surrogate_is_caught_as_the_docs_say() -> None:
    levels = importlib.import_module("my_robustness.defenses").GreyLevels

    class Bare(levels):  # type: ignore[misc, valid-type]
        """The same, and nobody can climb."""

        def defend(self, system: System, workshop: object) -> System:
            return system.with_purifier(lambda x: (x * 3).round() / 3, name=str(self))

    with pytest.raises(PluginError, match="no gradient and no surrogate"):
        rbl.check_defense(Bare)
    plain = affine(classes=3)
    x, _, _ = samples(plain, 60)
    bare = Bare().defend(plain, None)
    y = torch.as_tensor(bare(x).prediction())
    result = rbl.evaluate(bare, x, y, attacks=["noise", "pgd:steps=5,restarts=1"], threat="Linf:0.3")
    fired = set(result.diagnostics.query("status == 'fired'")["diagnostic"])
    assert fired >= {"zero-gradients", "noise-beats-gradient", "survives-unbounded-eps"}
