"""`prefenvs bench`."""
