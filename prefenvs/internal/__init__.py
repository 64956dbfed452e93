"""Parts that every package uses and none is about."""
