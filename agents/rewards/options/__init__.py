"""Options of the reward ensemble: how published descendants of PEBBLE learn it."""
