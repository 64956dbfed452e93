"""Frames of recorded states."""
