"""Policies, and the one place that decides."""
