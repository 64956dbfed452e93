"""A suite run: each cell a program under limits, on this machine or a Ray cluster."""
