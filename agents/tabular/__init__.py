"""Exact methods for boards: tables in the place of networks."""
