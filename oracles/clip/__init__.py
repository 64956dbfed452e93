"""CLIP as a rater and as a reward."""
