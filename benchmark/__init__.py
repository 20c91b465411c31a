"""The benchmark of speed and memory: python -m benchmark --help."""
