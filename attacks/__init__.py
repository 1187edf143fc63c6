"""The built-in attacks, one file a family (imported as `robustbench_lite.attacks`)."""

#: plugins are told by their code in every key; see `hashing.values`
__hashed_by_code__ = True
