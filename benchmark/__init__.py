"""What the project's speed is measured by: python -m benchmark --help."""
