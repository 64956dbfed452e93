"""Relatives of the online learners, each a subclass in one file."""
