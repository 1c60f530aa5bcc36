"""The clean images and class names that a model is looked at with."""
