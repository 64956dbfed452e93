"""Stores as files that go from one place to another."""
