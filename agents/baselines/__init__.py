"""Other libraries as baselines."""
