"""Conformance: the laws that every attack and every defense is held to, ours and third parties' alike.

    from robustbench_lite.testing import check_attack, check_defense

    def test_my_attack_obeys_the_laws():
        check_attack(MyAttack)

All laws are tried on small systems that take no download and no GPU, and all findings are reported at once.
"""

from robustbench_lite.testing.checks import check_attack, check_defense

__all__ = ["check_attack", "check_defense"]
