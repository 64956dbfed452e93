"""Simulated raters, by partial return and by regret."""
