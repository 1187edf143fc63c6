"""The built-in defenses, one file a family (imported as `robustbench_lite.defenses`)."""
