"""`python -m robustbench_lite` is `rbl`."""

from robustbench_lite.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
