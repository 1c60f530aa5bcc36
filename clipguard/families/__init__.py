"""Trigger families an inversion can search: one file, one family."""
