"""A training that cannot be lost: its folder, states, lock and signals, what it logs, the processes that share it."""
