"""Reward ensembles on rendered frames."""
