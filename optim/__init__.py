"""Optimisation: learning rates, the updates of a step, the guard, the moving average of the weights."""
