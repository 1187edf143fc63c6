"""The command line: one file a command, no logic that the Python API lacks."""

from robustbench_lite.cli.app import main

__all__ = ["main"]
