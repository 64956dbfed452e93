"""`prefenvs train`: its flags, and the runs online and from fixed data."""
