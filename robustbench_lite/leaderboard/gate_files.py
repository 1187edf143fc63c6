"""What the gate says, for people and for machines: text, Markdown, JUnit XML, GitHub annotations."""

from collections.abc import Iterator
from xml.etree import ElementTree

from robustbench_lite.leaderboard.columns import name_of
from robustbench_lite.leaderboard.gate import Judgement


def text(judgement: Judgement) -> str:
    """One line an alarm, and one that says how many there are."""
    return "\n".join([*(str(alarm) for alarm in judgement.alarms), *judgement.notes, summary(judgement)])


def summary(judgement: Judgement) -> str:
    """One line: how many alarms, over how many systems and tests."""
    count = len(judgement.alarms)
    alarms = "no alarm" if not count else "1 alarm" if count == 1 else f"{count} alarms"
    return f"{alarms}: {judgement.rows} systems, {judgement.tests} tests"


def markdown(judgement: Judgement, title: str) -> str:
    """A summary for a pull request."""
    out = [f"### {title}: {summary(judgement)}", ""]
    if judgement.alarms:
        out += ["| what | system | before | after | why |", "|---|---|---:|---:|---|"]
        for alarm in judgement.alarms:
            shares = alarm.kind in ("less robust", "less accurate", "weaker attack")
            figures = [_figure(value, shares) for value in (alarm.before, alarm.after)]
            if alarm.kind == "flag" and alarm.what != alarm.kind:
                figures[0] = f"limit {figures[0]}"
            what = alarm.kind if alarm.what == alarm.kind else f"{alarm.kind}: {alarm.what}"
            cells = (what, name_of(alarm.who), *figures, alarm.how)
            out.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        out.append("")
    out += [f"- {note}" for note in judgement.notes]
    return "\n".join(out).rstrip("\n") + "\n"


def annotations(judgement: Judgement, file: str) -> Iterator[str]:
    """A GitHub workflow command an alarm."""
    for alarm in judgement.alarms:
        yield f"::error file={_escaped(file, ',:')},title={_escaped(alarm.kind, ',:')}::{_escaped(str(alarm))}"


def junit(judgement: Judgement, name: str) -> str:
    """JUnit XML: a test case an alarm, and one that passes where there is none."""
    count = len(judgement.alarms)
    suite = ElementTree.Element("testsuite", name=name, tests=str(max(1, count)), failures=str(count), errors="0")
    if not count:
        ElementTree.SubElement(suite, "testcase", classname="rbl.check", name=summary(judgement))
    for alarm in judgement.alarms:
        case = ElementTree.SubElement(
            suite,
            "testcase",
            classname=f"rbl.check.{alarm.kind}",
            name=f"{name_of(alarm.who)} · {alarm.what}",
        )
        ElementTree.SubElement(case, "failure", message=str(alarm), type=alarm.kind).text = str(alarm)
    ElementTree.indent(suite)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(suite, encoding="unicode") + "\n"


def _figure(value: float, share: bool) -> str:
    if value != value:
        return "-"
    return f"{100 * value:.1f} %" if share else f"{value:g}"


def _escaped(text: str, more: str = "") -> str:
    """As workflow commands want it; in a property, commas and colons too."""
    for mark in "%\r\n" + more:
        text = text.replace(mark, f"%{ord(mark):02X}")
    return text
