"""Whole policies compared and ranked."""
