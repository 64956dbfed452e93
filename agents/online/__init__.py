"""Agents that learn online, with a rater in the loop."""
