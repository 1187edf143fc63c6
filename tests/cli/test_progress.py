"""What a long command tells while it works: on a terminal, elsewhere, in a log; and nothing to those who want quiet."""

import io
import logging
import re
import sys
import time
import warnings
from pathlib import Path

import pytest

from robustbench_lite.cli.activity import Activity, minutes
from robustbench_lite.cli.progress import Bars
from robustbench_lite.errors import UserError
from robustbench_lite.run.reporter import CellEnd

CELL = "pgd on small-cnn, Linf:0.2"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def run(bars: Bars, clock: Clock | None = None) -> None:
    clock = clock or Clock()
    with bars:
        bars.training(1, 4, "small-cnn, none: clean 90.0 %")
        clock.now += 2
        bars.training(4, 4, "small-cnn, none: clean 95.0 %")
        bars.begin(CELL, 200)
        bars.advance(0, 0)
        bars.progress("apgd:steps=100", 0, 100, 0, 200, 0.0)
        clock.now += 30
        bars.advance(50, 20)
        bars.progress("apgd:steps=100", 37, 100, 20, 150, 0.25)
        time.sleep(0.3 if sys.stderr.isatty() else 0)  # the screen is drawn five times a second
        bars.note("out of memory; going on with micro-batches of 32")
        warnings.warn("the cache cannot be written", stacklevel=1)
        bars.end(CellEnd(text=CELL, total=200, ended=200, broken=150, robust=0.25, seconds=42.0))
        bars.begin("checks on small-cnn, Linf:0.2", 0)


def screen_of(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    return screen


def plain(screen: Terminal) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())


def test_on_a_terminal_the_present_cell_has_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    screen, clock = screen_of(monkeypatch), Clock()
    run(Bars(cells=4, clock=clock), clock)
    text = plain(screen)
    for part in ("1/4", CELL, "apgd 37/100", "20 broken, 150 left", "0:30 +1:30", "rbl: out of memory"):
        assert part in text, part
    assert "rbl: warning: the cache cannot be written" in text
    assert "robust accuracy" not in text  # the table says it


def test_without_a_terminal_a_cell_has_a_line_and_a_training_two(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    run(Bars(cells=4, clock=clock), clock)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "rbl: training begins: small-cnn, none: clean 90.0 %",
        "rbl: training ended after 2.0 s: small-cnn, none: clean 95.0 %",
        "rbl: out of memory; going on with micro-batches of 32",
        "rbl: warning: the cache cannot be written",
        f"rbl: {CELL}: robust accuracy 25.0 %, 150/200 broken, 42.0 s",
    ]


def test_a_long_cell_has_a_line_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Bars(clock=clock) as bars:
        bars.begin(CELL, 16)
        bars.progress("", 0, 100, 0, 16, 0.0)
        for second in range(1, 151):
            clock.now = float(second)
            if second == 50:
                bars.progress("apgd:steps=100", 25, 100, 3, 13, 0.25)
            bars.tell()
    first, second_line = capsys.readouterr().err.splitlines()
    assert first == f"rbl: {CELL}: apgd:steps=100 step 25/100, 3 broken, 13 left, 1:00 gone, about 3:00 left"
    assert second_line.startswith(f"rbl: {CELL}: apgd:steps=100 step 25/100, 3 broken, 13 left, 2:00 gone")


def test_a_minute_is_also_told_of_while_one_step_lasts(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Bars(clock=clock) as bars:
        bars.begin(CELL, 16)
        clock.now = 61.0
        until = time.monotonic() + 60  # a thread says it, within a second or so
        while not (said := capsys.readouterr().err):
            assert time.monotonic() < until
            time.sleep(0.05)
    assert said == f"rbl: {CELL}: 0 broken, 16 left, 1:01 gone\n"


def test_a_cell_is_told_once_and_a_failed_one_as_a_note(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    good = CellEnd(text=CELL, total=10, ended=10, broken=4, robust=0.6, worst=0.5, seconds=None)
    bad = CellEnd(text="breaks on linear", total=10, ended=3, broken=1, failed="RuntimeError: no luck")
    with Bars() as bars:
        for end in (good, bad, good):  # another process has told it, and the run comes to it again
            bars.end(end)
    lines = capsys.readouterr().err.splitlines()
    told = "robust accuracy 60.0 %, 4/10 broken, from the records, worst case so far 50.0 %"
    assert lines == [
        f"rbl: {CELL}: {told}",
        "rbl: breaks on linear: failed after 3 of 10 samples: RuntimeError: no luck",
    ]
    screen = screen_of(monkeypatch)
    with Bars() as bars:
        bars.end(good)
        bars.end(bad)
    assert "no luck" in plain(screen)
    assert "robust accuracy" not in plain(screen)


def test_a_cell_whose_end_nobody_tells_has_a_line_all_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Bars(cells=1, found=None, clock=clock) as bars:
        bars.begin("small-cnn, none: certificates", 60)
        bars.advance(60, 0)
        clock.now = 1.5
    assert capsys.readouterr().err == "rbl: small-cnn, none: certificates: 60/60, 1.5 s\n"


def test_smaller_micro_batches_do_not_make_another_cell(capsys: pytest.CaptureFixture[str]) -> None:
    with Bars(cells=2) as bars:
        for _ in range(2):
            bars.begin(CELL, 16)
            bars.advance(4, 1)
        bars.end(CellEnd(text=CELL, total=16, ended=16, broken=4, robust=0.75, seconds=1.0))
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert bars._begun == 1


@pytest.mark.parametrize("live", [False, True])
def test_a_log_has_everything_with_the_time(
    live: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if live:
        screen_of(monkeypatch)
    for _ in range(2):  # a run that goes on goes on in its log
        run(Bars(cells=4, log=tmp_path / "logs/run.txt", clock=Clock()))
    lines = (tmp_path / "logs/run.txt").read_text(encoding="utf-8").splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d ", line) for line in lines)
    texts = [line.partition(" ")[2] for line in lines]
    assert texts.count("ends") == 2
    assert texts[0].startswith("begins: ")
    assert f"{CELL}: robust accuracy 25.0 %, 150/200 broken, 42.0 s" in texts
    assert texts[-1] == "ends"


def test_a_log_says_how_it_ended(tmp_path: Path) -> None:
    for error, told in (
        (KeyboardInterrupt(), "stopped by Ctrl-C"),
        (UserError("a mistake\x1b[31m"), r"stopped: a mistake\x{1b}[31m"),
        (ZeroDivisionError("1/0"), "stopped: ZeroDivisionError: 1/0"),
    ):
        with pytest.raises(type(error)), Bars(log=tmp_path / "log"):
            raise error
        assert (tmp_path / "log").read_text(encoding="utf-8").splitlines()[-1].endswith(f" {told}")


def test_a_log_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write to"), Bars(log=Path("/dev/null/log")):
        pass


def test_quiet_says_nothing_but_to_the_log(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(Bars(cells=4, quiet=True))
    assert capsys.readouterr() == ("", "")
    screen = screen_of(monkeypatch)
    run(Bars(cells=4, quiet=True, log=tmp_path / "log"))
    assert screen.getvalue() == ""
    assert "robust accuracy" in (tmp_path / "log").read_text(encoding="utf-8")


def test_verbose_says_what_modules_log_and_no_longer_than_it_lasts(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("robustbench_lite.run.cascade")
    with Bars():
        logger.info("a stage has ended")
    assert capsys.readouterr().err == ""
    with Bars(verbose=True):
        logger.info("a stage has ended: %d", 3)
    logger.info("and another")
    assert capsys.readouterr().err == "rbl: a stage has ended: 3\n"


def test_names_cannot_move_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    with Bars() as bars:
        bars.end(CellEnd(text="pgd on a\rb\x1b[2J", total=1, ended=1, broken=0, robust=1.0, seconds=0.1))
        bars.note("[red]no markup[/red]")
    assert capsys.readouterr().err.splitlines() == [
        r"rbl: pgd on a\x{d}b\x{1b}[2J: robust accuracy 100.0 %, 0/1 broken, 0.1 s",
        "rbl: [red]no markup[/red]",
    ]


def test_warnings_are_as_they_were_afterwards() -> None:
    before = warnings.showwarning
    with pytest.raises(ZeroDivisionError), Bars():
        raise ZeroDivisionError
    assert warnings.showwarning is before


def test_the_estimate_counts_from_where_this_run_began() -> None:
    resumed = Activity(text="certificates", began=0.0, total=100)
    resumed.advance(90, 0, now=10.0)  # of an earlier run
    assert resumed.seconds_left(10.0) is None
    resumed.advance(5, 0, now=20.0)
    assert resumed.seconds_left(20.0) == pytest.approx(10.0)
    told = Activity(text="pgd", began=0.0, total=100)
    told.advance(40, 10, now=0.0)
    told.at(0.0, now=1.0)
    told.at(0.2, now=3.0)
    told.advance(1, 1, now=3.0)  # the work itself tells: samples no longer do
    assert told.seconds_left(3.0) == pytest.approx(8.0)
    assert (minutes(None), minutes(65), minutes(7265)) == ("?", "1:05", "2:01:05")
