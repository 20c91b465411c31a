"""The process: command-line arguments, exit status, signals, and the process group of a distributed training."""
