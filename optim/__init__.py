"""What moves the weights: learning rates, the updates of a step, the moving average of the weights."""
