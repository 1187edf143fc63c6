"""Spec strings: what a user may write, and what is refused with a sentence."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustbench_lite.errors import UserError
from robustbench_lite.specs import Spec, build, fraction_text, number, options_of, parse, parse_chain, parse_source
from robustbench_lite.threat import Threat


@dataclass(frozen=True, kw_only=True)
class Options:
    name: ClassVar[str] = "thing"
    steps: int = 3
    eps: float = 0.5
    sign: bool = True
    kind: Literal["ce", "dlr"] = "ce"
    size: float | None = None
    text: str = ""


@pytest.mark.parametrize(
    "text, name, options",
    [
        ("pgd", "pgd", {}),
        ("pgd:steps=40,restarts=5", "pgd", {"steps": "40", "restarts": "5"}),
        ("at:attack=(pgd:steps=7,a=(b:c=1))", "at", {"attack": "pgd:steps=7,a=(b:c=1)"}),
        (" pgd : steps = 40 ", "pgd", {"steps": "40"}),
        ("x:a=b=c", "x", {"a": "b=c"}),
    ],
)
def test_specs_are_read_as_written(text: str, name: str, options: dict[str, str]) -> None:
    assert parse(text) == Spec(name, options)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        ":a=1",
        "pgd:",
        "pgd:a",
        "pgd:=1",
        "pgd:a=1,a=2",
        "pgd:a=(1",
        "pgd:a=1)",
        "a,b",
        "x:a=",
        "x:a=()",
        "x:a= ,b=1",
    ],
)
def test_what_cannot_be_read_is_refused(text: str) -> None:
    if text == "pgd:":
        assert parse(text) == Spec("pgd")
        return
    with pytest.raises(UserError):
        parse(text)


def test_sources_keep_colons_and_take_options_after_semicolons() -> None:
    assert parse_source("timm:resnet18;pretrained=true") == Spec("timm:resnet18", {"pretrained": "true"}, ";")
    assert parse_source("net.py:make;mean=(0.5,0.5)").options == {"mean": "0.5,0.5"}
    assert str(parse_source("npz:a.npz;train=b.npz")) == "npz:a.npz;train=b.npz"


@pytest.mark.parametrize("text", ["net.py:make;weights=", "net.py:make;weights= ", "timm:x;mean=();std=(1)"])
def test_an_option_without_a_value_is_refused_by_its_name(text: str) -> None:
    with pytest.raises(UserError, match=r"the option '(weights|mean)' is empty in .*or leave it out"):
        parse_source(text)


def test_what_a_message_repeats_is_cut() -> None:
    with pytest.raises(UserError) as caught:
        parse_source("x" * 5000 + ";weights=")
    assert len(str(caught.value)) < 400


def test_chains_are_split_outside_parentheses() -> None:
    names = [spec.name for spec in parse_chain("a+b:x=(c+d)+e")]
    assert names == ["a", "b", "e"]


WORDS = st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=8)
VALUES = st.recursive(
    WORDS,
    lambda inner: st.builds(lambda a, b: f"{a}:{b}=({a},{b})", WORDS, inner.filter(lambda v: "(" not in v)),
    max_leaves=3,
)


@settings(max_examples=300, deadline=None)
@given(WORDS, st.dictionaries(WORDS, VALUES, max_size=4))
def test_a_spec_prints_back_to_itself(name: str, options: dict[str, str]) -> None:
    spec = Spec(name, options)
    assert parse(str(spec)) == spec


@settings(max_examples=1000, deadline=None)
@given(st.text(max_size=40))
def test_any_text_is_read_or_refused_with_one_sentence(text: str) -> None:
    for read in (parse, parse_source, parse_chain, Threat.parse):
        try:
            read(text)
        except UserError as error:
            assert "\n" not in str(error) or "\n" in text  # noqa: PT017  # one sentence, whatever was given


@settings(max_examples=1000, deadline=None)
@given(st.text("pgdLinf0128/.:=,()+-; eE", max_size=30))
def test_near_misses_are_read_or_refused(text: str) -> None:
    for read in (parse, parse_source, parse_chain, Threat.parse):
        try:
            read(text)
        except UserError:
            continue


@pytest.mark.parametrize("text, value", [("8/255", 8 / 255), ("0.03", 0.03), ("1e-3", 1e-3), ("2", 2.0)])
def test_numbers_are_read_as_fractions_or_decimals(text: str, value: float) -> None:
    assert number(text, "eps") == value


@pytest.mark.parametrize("text", ["", "x", "1/0", "nan", "inf", "1/2/3", "8 of 255"])
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="number"):
        number(text, "eps")


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.floats(0, 10, allow_nan=False), st.integers(0, 2550).map(lambda k: k / 255)))
def test_a_printed_number_reads_back_to_the_same_bits(value: float) -> None:
    assert number(fraction_text(value), "eps") == value


def test_options_are_coerced_by_their_types() -> None:
    made = build(Options, {"steps": "7", "eps": "8/255", "sign": "no", "kind": "DLR", "size": "none", "text": "7"})
    assert made == Options(steps=7, eps=8 / 255, sign=False, kind="dlr", size=None, text="7")
    assert build(Options, options_of(made)) == made


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"n_steps": "3"},
            "thing has no option 'n_steps'; it has steps, eps, sign, kind, size, text; did you mean steps?",
        ),
        ({"steps": "many"}, "thing: steps=many is not a whole number"),
        ({"kind": "cd"}, "thing: kind=cd; accepted: ce, dlr; did you mean ce?"),
        ({"sign": "maybe"}, "thing: sign=maybe; accepted: true, false"),
        ({"size": "big"}, "thing: size=big is not a number; write it as 0.03 or 8/255"),
    ],
)
def test_messages_say_what_is_accepted(options: dict[str, str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        build(Options, options)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "text, printed",
    [("Linf:8/255", "Linf:8/255"), ("linf:0.2", "Linf:0.2"), ("L2", "L2"), ("L0:5", "L0:5")],
)
def test_threats_are_read_and_printed(text: str, printed: str) -> None:
    assert str(Threat.parse(text)) == printed
    assert Threat.parse(printed) == Threat.parse(text)


def test_a_targeted_threat_is_read_and_printed() -> None:
    for text in ("Linf:0.1,goal=targeted,target=least-likely", "L2:goal=targeted,target=next"):
        assert Threat.parse(str(Threat.parse(text))) == Threat.parse(text)
        assert Threat.parse(text).goal == "targeted"


@pytest.mark.parametrize(
    "text, message",
    [
        ("Linf:8", "Linf:8 is larger than 1, the range of an image; for 8 of 255 levels write Linf:8/255"),
        ("Linf:-1", "threat Linf: eps=-1.0 is out of range; accepted: 0 and more"),
        ("L0:1.5", "L0:1.5 is not a whole number of changed values"),
        ("Linf:0.1,target=next", "threat Linf: target=next needs goal=targeted"),
        ("Linf:0.1,goal=none", "threat Linf: goal=none; accepted: untargeted, targeted"),
        (
            "Linf:0.1:targeted",
            "cannot read the threat 'Linf:0.1:targeted'; options follow a comma: Linf:8/255,goal=targeted",
        ),
        ("Linf:0.1,gaol=targeted", "threat Linf has no option 'gaol'; it has goal, target"),
    ],
)
def test_threats_that_cannot_be_are_refused(text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        Threat.parse(text)
    assert str(caught.value) == message
