"""D4RL's data sets: what there is, downloading, and reading its files."""
