"""Zoos: many victims and honest models, with their truth."""
