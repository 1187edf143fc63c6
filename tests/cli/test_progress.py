"""The bars: what they say, and that nobody sees them who does not want to."""

import io
import re
import sys
import time
import warnings

import pytest

from robustbench_lite.cli.progress import Bars


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def told(bars: Bars) -> None:
    with bars:
        bars.training(1, 4, "clean 90.0 %")
        bars.training(4, 4, "clean 95.0 %")
        bars.begin("pgd on small-cnn, none, Linf:0.2", 200)
        bars.advance(0, 0)
        bars.advance(50, 20)
        time.sleep(0.3 if sys.stderr.isatty() else 0)  # the screen is drawn five times a second
        bars.note("out of memory; going on with micro-batches of 32")
        warnings.warn("the cache cannot be written", stacklevel=1)
        bars.begin("checks on small-cnn, none, Linf:0.2", 0)


def test_on_a_terminal_the_present_cell_has_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    told(Bars(cells=4))
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    for part in ("1/4", "pgd on small-cnn, none, Linf:0.2", "50/200", "40.0 % broken", "rbl: out of memory"):
        assert part in text, part
    assert "rbl: warning: the cache cannot be written" in text


def test_without_a_terminal_there_are_only_notes(capsys: pytest.CaptureFixture[str]) -> None:
    told(Bars(cells=4))
    notes = ["out of memory; going on with micro-batches of 32", "warning: the cache cannot be written"]
    assert capsys.readouterr().err.splitlines() == [f"rbl: {note}" for note in notes]


def test_quiet_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    told(Bars(cells=4, quiet=True))
    assert screen.getvalue() == ""


def test_warnings_are_as_they_were_afterwards() -> None:
    before = warnings.showwarning
    with pytest.raises(ZeroDivisionError), Bars():
        raise ZeroDivisionError
    assert warnings.showwarning is before
