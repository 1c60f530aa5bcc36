"""Checkpoint files: what is in them, and how they are read without running them."""
