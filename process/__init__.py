"""The processes of a run: the process group that trains together, and the signals that stop it."""
