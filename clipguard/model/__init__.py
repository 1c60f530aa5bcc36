"""The CLIP network, its prompts and its pixels."""
