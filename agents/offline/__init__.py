"""Learners from a fixed data set."""
