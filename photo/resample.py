"""Resampling to any size, band by band."""
from collections.abc import Iterable, Iterator
from math import ceil, floor

import numpy as np
from PIL import Image

LANCZOS = 3  # radius of the filter in pixels of the coarser grid
ROWS = 256  # rows of the result computed at a time


def resampled(bands: Iterable[np.ndarray], height: int, width: int, new_height: int,
              new_width: int) -> Iterator[np.ndarray]:
    """The image (height, width, C) given as `bands` (h', width, C) of uint8 or uint16, resampled (Lanczos) to
    (new_height, new_width, C), in bands from top to bottom."""
    if (height, width) == (new_height, new_width):
        yield from bands
        return
    bands, factor = iter(bands), height / new_height
    reach = ceil(LANCZOS * max(factor, 1)) + 1
    held, first = next(bands), 0  # rows of the image, and the index of the first one
    for top in range(0, new_height, ROWS):
        bottom = min(top + ROWS, new_height)
        above, below = max(0, floor(top * factor) - reach), min(height, ceil(bottom * factor) + reach)
        parts, first = [held[above - first:]], above
        while first + sum(map(len, parts)) < below:
            parts.append(next(bands))
        held = np.concatenate(parts) if len(parts) > 1 else parts[0]
        box = 0, top * factor - first, width, min(bottom * factor - first, below - first)
        yield _resize(held[:below - first], (new_width, bottom - top), box)


def _resize(rows: np.ndarray, size: tuple[int, int], box: tuple[float, float, float, float]) -> np.ndarray:
    """(h, w, C) → (h', w', C), rounded and clipped; box: the part of the input that becomes the result."""
    result = np.empty((size[1], size[0], rows.shape[2]), rows.dtype)
    for channel in range(rows.shape[2]):
        image = Image.fromarray(rows[:, :, channel].astype(np.float32))
        resized = np.asarray(image.resize(size, Image.Resampling.LANCZOS, box))
        result[:, :, channel] = np.rint(resized).clip(0, np.iinfo(rows.dtype).max)
    return result
