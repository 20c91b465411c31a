"""Files on disk: atomic writes, weights, checkpoints, the run folder, its lock and logs."""
