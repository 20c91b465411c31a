"""One's own photos: which ones a command names, how they are read, super-resolved and written."""
