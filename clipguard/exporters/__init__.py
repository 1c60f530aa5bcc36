"""Exports with a proof of parity: one file, one format."""
