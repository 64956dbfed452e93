"""Training runs: learn, evaluate, checkpoint, resume."""
