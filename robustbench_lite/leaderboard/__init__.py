"""Leaderboards: tables that are made from records by a plan, ranked by paired tests, kept as CSV; and the gate on them."""
