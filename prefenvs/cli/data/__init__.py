"""Commands for stores of preferences and published label files."""
