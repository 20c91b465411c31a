"""What is on disk and never lost: files written whole, weights, the run folder, its lock and log."""
