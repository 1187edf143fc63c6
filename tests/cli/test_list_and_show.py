"""`rbl list` and `rbl show`: every plugin is there and explains itself; a broken one hurts nobody."""

import json
from collections.abc import Callable

import pytest

from robustbench_lite import plugins
from robustbench_lite.describe import describe, describe_all

Here = Callable[..., int]
KINDS: tuple[plugins.Kind, ...] = ("attack", "defense", "model", "dataset")


class Foreign:
    """An entry point of somebody else's package."""

    def __init__(self, name: str, plugin: object) -> None:
        self.name, self.plugin, self.dist, self.value = name, plugin, self, "their_package:thing"

    def load(self) -> object:
        if isinstance(self.plugin, Exception):
            raise self.plugin
        return self.plugin


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two attacks of other packages: one works, one does not."""

    class Theirs:
        """Does what theirs does."""

    entry, broken = Foreign("theirs", Theirs), Foreign("their-broken", ImportError("no module named 'cupy'"))
    entry.dist = type("Dist", (), {"name": "their-package"})
    broken.dist = type("Dist", (), {"name": "their-other-package"})
    offered = plugins._offered
    more = {"theirs": entry, "their-broken": broken}
    monkeypatch.setattr(plugins, "_offered", lambda kind: {**offered(kind), **(more if kind == "attack" else {})})


@pytest.mark.parametrize("kind", KINDS)
def test_list_names_every_plugin(kind: plugins.Kind, here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    for word in (kind, f"{kind}s", f"{kind}S".upper()):
        assert here("list", word) == 0
        text = capsys.readouterr().out
        assert all(name in text for name in plugins.names(kind))
        assert "cannot be loaded" not in text
        assert max(map(len, text.splitlines())) <= 100


@pytest.mark.usefixtures("theirs")
def test_a_broken_plugin_is_a_line_and_hurts_nobody(here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    assert here("list", "attacks", "--format", "json") == 0
    found = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert found["theirs"]["what"] == "Does what theirs does."
    assert found["theirs"]["from"] == "their-package"
    assert found["pgd"]["error"] is None
    assert "no module named 'cupy'" in found["their-broken"]["error"]
    assert here("list", "attacks") == 0
    text = capsys.readouterr().out
    assert "broken" in text
    assert "their-package" in text
    assert here("show", "attack", "their-broken") == 2
    assert "their-other-package cannot be loaded: no module named 'cupy'" in capsys.readouterr().err


@pytest.mark.parametrize("kind", KINDS)
def test_every_built_in_plugin_explains_itself_and_its_options(kind: plugins.Kind) -> None:
    for one in describe_all(kind):
        assert one.what, one.name
        assert not one.error
        for option in one.options:
            assert option.text, f"{one.name}: nothing is said of {option.name}"


@pytest.mark.parametrize("kind", KINDS)
def test_show_shows_every_option_with_its_default(
    kind: plugins.Kind, here: Here, capsys: pytest.CaptureFixture[str]
) -> None:
    for one in describe_all(kind):
        assert here("show", kind, one.name) == 0
        text = capsys.readouterr().out
        assert all(option.name in text and option.default.split("=")[0] in text for option in one.options)
        assert f"rbl evaluate --{kind} " in text
        assert max(map(len, text.splitlines())) <= 100


def test_show_tells_needs_norms_and_paper(here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    assert here("show", "attacks", "PGD") == 0
    text = capsys.readouterr().out
    for part in ("gradients", "Linf, L2, L1", "fixed-eps", "1706.06083", "step_size", "restarts"):
        assert part in text, part


@pytest.mark.parametrize(
    "name, options",
    [
        ("npz", "train classes layout scale"),
        ("folder", "train classes labels size resize interpolation channels background exif scale"),
        ("generated", "count seed judge confidence"),
        ("versus", "dataset seed"),
    ],
)
def test_show_lists_the_options_of_sources_of_data(
    name: str, options: str, here: Here, capsys: pytest.CaptureFixture[str]
) -> None:
    found = describe("dataset", name)
    assert [option.name for option in found.options] == options.split()
    assert here("show", "dataset", name) == 0
    text = capsys.readouterr().out
    for option in found.options:
        assert option.text, option.name
        assert option.name in text
    assert f"rbl evaluate --dataset '{name}:" in text
    assert max(map(len, text.splitlines())) <= 100


def test_show_knows_the_sources_that_are_no_plugins(here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    assert here("show", "model", "timm") == 0
    assert "timm:NAME" in capsys.readouterr().out
