"""A program as the system sees it: its arguments, exit status and signals, and the ranks that train together."""
