"""The built-in attacks, one file a family (imported as `robustbench_lite.attacks`)."""
