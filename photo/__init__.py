"""The user's own photos: finding, reading, upscaling and writing them."""
