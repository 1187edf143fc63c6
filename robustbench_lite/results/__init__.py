"""Records in; numbers, tables and pictures out. Nothing here runs a model."""
