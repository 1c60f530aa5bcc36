"""Renderings of an audit record: one file, one format. No torch."""
