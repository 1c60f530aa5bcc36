"""Detectors: they measure."""
