"""The benchmark: every method on every victim of a zoo, as a matrix of cells."""
