"""Resampling to any size, band by band."""
from collections.abc import Iterable, Iterator
from math import ceil, floor

import numpy as np
from PIL import Image

LANCZOS = 3  # radius of the filter in pixels of the coarser grid
ROWS = 256  # rows of the finer grid computed at a time


def resampled(bands: Iterable[np.ndarray], height: int, width: int, new_height: int,
              new_width: int) -> Iterator[np.ndarray]:
    """The image (height, width, C) given as `bands` (h', width, C) of uint8 or uint16, resampled (Lanczos) to
    (new_height, new_width, C), in bands from top to bottom."""
    if (height, width) == (new_height, new_width):
        yield from bands
        return
    factor = height / new_height
    reach = ceil(LANCZOS * max(factor, 1)) + 1
    step = max(1, round(ROWS / max(factor, 1)))
    pieces, held, first, end = _pieces(bands), [], 0, 0  # rows first:end of the image are held, in pieces
    for top in range(0, new_height, step):
        bottom = min(top + step, new_height)
        above, below = max(0, floor(top * factor) - reach), min(height, ceil(bottom * factor) + reach)
        while end < below:
            held.append(next(pieces))
            end += len(held[-1])
        while first + len(held[0]) <= above:
            first += len(held.pop(0))
        rows = np.concatenate(held)[above - first:below - first]
        box = 0, top * factor - above, width, min(bottom * factor, below) - above
        yield _resize(rows, (new_width, bottom - top), box)


def _pieces(bands: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The bands (h', w, C) in pieces of at most ROWS rows."""
    for band in bands:
        for top in range(0, len(band), ROWS):
            yield band[top:top + ROWS]
        del band  # else it would be in memory beside the next one


def _resize(rows: np.ndarray, size: tuple[int, int], box: tuple[float, float, float, float]) -> np.ndarray:
    """(h, w, C) → (h', w', C), rounded and clipped; box: the part of the input that becomes the result."""
    result = np.empty((size[1], size[0], rows.shape[2]), rows.dtype)
    for channel in range(rows.shape[2]):
        image = Image.fromarray(rows[:, :, channel].astype(np.float32))
        resized = np.asarray(image.resize(size, Image.Resampling.LANCZOS, box))
        result[:, :, channel] = np.rint(resized).clip(0, np.iinfo(rows.dtype).max)
    return result
