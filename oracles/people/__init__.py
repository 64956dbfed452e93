"""People as raters."""
