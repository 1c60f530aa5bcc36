"""Searches for a trigger: one file, one search."""
