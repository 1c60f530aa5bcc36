"""The workflows: scan, purify, export, calibrate."""
