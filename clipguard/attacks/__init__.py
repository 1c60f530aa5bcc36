"""Known backdoors for the lab: one file, one attack."""
