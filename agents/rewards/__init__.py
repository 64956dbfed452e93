"""Reward models learned from preferences."""
