"""Verdicts on a checkpoint: one file, one detector."""
