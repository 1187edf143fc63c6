"""The plan: what it accepts, and that it prints back."""

import string
from contextlib import suppress

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from robustbench_lite.errors import UserError
from robustbench_lite.run.plan import Plan
from robustbench_lite.specs import as_list

MARKS = st.text(string.ascii_letters + string.digits + ":/=,;.+-()", min_size=1, max_size=12)
#: one name: a plan refuses a list as a name
TEXTS = MARKS.filter(str.strip).filter(lambda text: len(as_list(text)) == 1)
SEVERAL = st.lists(TEXTS, min_size=1, max_size=3).map(tuple)


@settings(max_examples=300, deadline=None)
@given(
    models=SEVERAL,
    attacks=SEVERAL,
    threats=SEVERAL,
    samples=st.none() | TEXTS,
    seed=st.integers(-(2**40), 2**40),
    batch_size=st.none() | st.integers(1, 10**6),
    early_exit=st.booleans(),
    precision=st.sampled_from(["float32", "bfloat16", "auto"]),
)
def test_a_plan_prints_back_to_itself(**options: object) -> None:
    plan = Plan(**options)  # type: ignore[arg-type]  # made by the strategies above
    assert Plan.from_toml(plan.to_toml()) == plan
    assert Plan.from_toml(plan.to_toml()).digest == plan.digest


VALUES = st.recursive(
    st.booleans() | st.integers(-10, 10**6) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)
KEYS = st.sampled_from(sorted(Plan.__dataclass_fields__)) | st.text(max_size=10)


@settings(max_examples=1000, deadline=None)
@given(st.dictionaries(KEYS, VALUES, max_size=5))
def test_any_table_is_a_plan_or_is_refused(table: dict[str, object]) -> None:
    with suppress(UserError):
        Plan.from_toml(tomli_w.dumps(table))


@settings(max_examples=1000, deadline=None)
@given(st.text(max_size=80))
def test_any_text_is_a_plan_or_is_refused(text: str) -> None:
    with suppress(UserError):
        Plan.from_toml(text)


@pytest.mark.parametrize(
    "text, message",
    [
        ("dataset = 3.5", "the plan: dataset = 3.5; accepted: a text"),
        ("atacks = ['pgd']", "the plan has an unknown key 'atacks'; did you mean 'attacks'?"),
        ("attack = 'pgd'\nattacks = ['fgsm']", "the plan gives 'attacks' twice"),
        ("attacks = []", "the plan has no attack; give at least one"),
        ("seed = 'x'", "the plan: seed = 'x'; accepted: a whole number"),
        ("early_exit = 1", "the plan: early_exit = 1; accepted: true or false"),
        ("precision = 'flaot32'", "precision=flaot32; accepted: float32, bfloat16, auto; did you mean 'float32'?"),
        ("batch_size = 0", "batch_size=0; accepted: auto, or 1 and more"),
    ],
)
def test_messages_say_what_is_accepted(text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        Plan.from_toml(text)
    assert str(caught.value) == message


def test_shorter_ways_of_writing_mean_the_same() -> None:
    assert Plan.from_toml("attack = 'pgd'\nbatch-size = 'auto'\nsamples = 100") == Plan(
        attacks=("pgd",), batch_size=None, samples="100"
    )
