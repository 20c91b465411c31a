"""Result files of photos."""
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from photo.image import Photo
from photo.png import chunk, png
from store.files import write_parts


def write_bands(path: str | Path, bands: Iterable[np.ndarray], height: int, width: int, icc: bytes | None) -> None:
    """Write an image (height, width, C) as a PNG file of its own kind: gray, alpha, depth and colour profile kept.

    bands: arrays (h', width, C) of uint8 or uint16 that make it up from top to bottom; no more than one need be in
    memory. Raises UserError if that is impossible, and whatever `bands` raises; the file is then as it was.
    """
    profile = [chunk(b'iCCP', b'icc\0\0' + zlib.compress(icc))] if icc else []
    write_parts(path, png(bands, height, width, profile))


def write_photo(path: str | Path, photo: Photo) -> None:
    """Write `photo` as write_bands does."""
    height, width, _ = photo.pixels.shape
    write_bands(path, [photo.pixels], height, width, photo.icc)
