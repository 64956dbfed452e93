"""Data sets of real robots: what cameras saw, with or without actions."""
