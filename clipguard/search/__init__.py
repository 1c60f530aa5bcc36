"""The search for triggers."""
