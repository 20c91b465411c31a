"""A direct implementation of the method, the reference for tests and the baseline of the benchmark."""
