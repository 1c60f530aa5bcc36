"""Repairs of a zero-shot classifier: one file, one repair."""
