"""Honest fine-tunes that look suspicious: one module each, named after itself."""
