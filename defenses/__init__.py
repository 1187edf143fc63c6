"""The built-in defenses, one file a family (imported as `robustbench_lite.defenses`)."""

#: plugins are told by their code in every key; see `hashing.values`
__hashed_by_code__ = True
