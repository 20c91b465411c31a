"""The method written down plainly: what the tests compare with and the benchmark measures against."""
