"""Writing PNG files band by band, with 8 or 16 bits and little memory."""
import struct
import zlib
from collections.abc import Iterable, Iterator

import numpy as np

from data.png import SIGNATURE, chunk

BAND = 256  # rows compressed at a time: one chunk could not hold all of a large photo
AVERAGE = 3  # the filter: each byte minus the mean of those left and above; files as small as Pillow's


def png(bands: Iterable[np.ndarray], height: int, width: int, chunks: Iterable[bytes] = ()) -> Iterator[bytes]:
    """The parts of a PNG file of the image (height, width, C) given as `bands` (h', width, C) of uint8 or uint16 from
    top to bottom. chunks: written before the pixels, as of chunk()."""
    packer, above = zlib.compressobj(), None
    for band in bands:
        channels, depth = band.shape[2], band.itemsize
        if above is None:
            kind = (0, 4, 2, 6)[channels - 1]
            yield SIGNATURE + chunk(b'IHDR', struct.pack('>2I5B', width, height, 8 * depth, kind, 0, 0, 0))
            yield from chunks
            above = np.zeros(width * channels * depth, np.uint8)
        for top in range(0, len(band), BAND):
            rows = band[top:top + BAND].astype(f'>u{depth}').view(np.uint8).reshape(-1, len(above))
            if packed := packer.compress(_filtered(rows, above, channels * depth)):
                yield chunk(b'IDAT', packed)
            above = rows[-1]
    yield chunk(b'IDAT', packer.flush()) + chunk(b'IEND', b'')


def _filtered(rows: np.ndarray, above: np.ndarray, pixel: int) -> np.ndarray:
    """Rows of bytes after the PNG filter. above: the row above them; pixel: bytes per pixel."""
    mean = np.vstack([above, rows[:-1]]).astype(np.uint16)  # so far: the bytes above
    mean[:, pixel:] += rows[:, :-pixel]
    filtered = np.full((len(rows), 1 + rows.shape[1]), AVERAGE, np.uint8)
    np.subtract(rows, (mean >> 1).astype(np.uint8), out=filtered[:, 1:])
    return filtered
