"""Families that begin near a trigger that a search from noise never gets to."""
