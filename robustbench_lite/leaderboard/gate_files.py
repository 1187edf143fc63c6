"""What the gate says, for people and for machines: text, Markdown, JUnit XML, GitHub annotations."""

import math
from collections.abc import Iterator
from xml.etree import ElementTree

from robustbench_lite.escaping import for_markdown, printable
from robustbench_lite.leaderboard.columns import name_of
from robustbench_lite.leaderboard.comparison import SHARES, Comparison, Judgement


def text(judgement: Judgement) -> str:
    """One line an alarm, and one that says how many there are."""
    return "\n".join([*(str(alarm) for alarm in judgement.alarms), *judgement.notes, summary(judgement)])


def summary(judgement: Judgement) -> str:
    """One line: how many alarms, over how many systems and tests."""
    count = len(judgement.alarms)
    alarms = _number(count, "alarm") if count else "no alarm"
    return f"{alarms}: {_number(judgement.rows, 'system')}, {_number(judgement.tests, 'test')}"


def _number(count: int, noun: str) -> str:
    """A number of things, in the singular where there is one."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def markdown(judgement: Judgement, title: str) -> str:
    """A summary for a pull request."""
    out = [f"### {for_markdown(title)}: {summary(judgement)}", ""]
    if judgement.alarms:
        out += ["| what | system | before | after | why |", "|---|---|---:|---:|---|"]
        for alarm in judgement.alarms:
            figures = [_figure(value, alarm.kind in SHARES) for value in (alarm.before, alarm.after)]
            if alarm.kind == "flag" and not math.isnan(alarm.before):
                figures[0] = f"limit {figures[0]}"
            what = alarm.kind if alarm.what == alarm.kind else f"{alarm.kind}: {alarm.what}"
            cells = (what, name_of(alarm.who), *figures, alarm.how)
            out.append("| " + " | ".join(map(for_markdown, cells)) + " |")
        out.append("")
    out += [f"- {for_markdown(note)}" for note in judgement.notes]
    return "\n".join(out).rstrip("\n") + "\n"


def annotations(judgement: Judgement, file: str) -> Iterator[str]:
    """A GitHub workflow command an alarm."""
    for alarm in judgement.alarms:
        where = f"file={_escaped(file, ',:')},title={_escaped(alarm.kind, ',:')}"
        yield f"::error {where}::{_escaped(printable(str(alarm)))}"


def junit(judgement: Judgement, name: str) -> str:
    """JUnit XML: a test case for everything that the gate looked at, with its figures; what is worse is a failure."""
    count = len(judgement.comparisons)
    failed = str(len(judgement.alarms))
    suite = ElementTree.Element("testsuite", name=printable(name), tests=str(count), failures=failed, errors="0")
    for one in judgement.comparisons:
        who = f"{name_of(one.who)} · {printable(one.what)}"
        case = ElementTree.SubElement(suite, "testcase", classname=f"rbl.check.{one.kind}", name=who)
        if one.failed:
            failure = ElementTree.SubElement(case, "failure", message=printable(str(one)), type=one.kind)
            failure.text = printable(str(one))
        ElementTree.SubElement(case, "system-out").text = "\n".join(_told(one))
    if judgement.notes:
        ElementTree.SubElement(suite, "system-out").text = "\n".join(map(printable, judgement.notes))
    ElementTree.indent(suite)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(suite, encoding="unicode") + "\n"


def _told(one: Comparison) -> Iterator[str]:
    """Before, after and p, as far as there are any, and what they rest on."""
    before = "limit" if one.kind == "flag" else "before"  # of a check the baseline knows whether it fired
    for name, value in ((before, one.before), ("after", one.after), ("p", one.p)):
        if not math.isnan(value):
            yield f"{name}: {value:.6g}"
    yield printable(one.how)


def _figure(value: float, share: bool) -> str:
    if value != value:
        return "-"
    return f"{100 * value:.1f} %" if share else f"{value:g}"


def _escaped(text: str, more: str = "") -> str:
    """As workflow commands want it; in a property, commas and colons too."""
    for mark in "%\r\n" + more:
        text = text.replace(mark, f"%{ord(mark):02X}")
    return text
