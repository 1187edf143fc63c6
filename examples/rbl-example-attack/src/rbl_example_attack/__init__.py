"""An attack plugin for robustbench-lite: a line search along one gradient."""

from rbl_example_attack.line_search import LineSearch

__all__ = ["LineSearch"]
