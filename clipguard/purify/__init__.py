"""Repair of a backdoored classifier."""
