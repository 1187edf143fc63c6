"""No defense is the model as it is."""

from learners import blobs, plain, system_of

from robustbench_lite.defense import Workshop, resolve_defense


def test_it_changes_nothing():
    system = system_of(plain())
    (none,) = resolve_defense("none")
    assert none.defend(system, Workshop(train=blobs())) is system
    assert not none.trains
    assert none.adaptivity == "plain-is-adaptive"
    assert none.why_plain
