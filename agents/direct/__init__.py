"""Policies straight from comparisons of their own episodes: no reward model."""
