"""Writing TIFF files band by band, with 8 or 16 bits; Pillow cannot write 16-bit RGB."""
import io
from collections.abc import Iterable, Iterator

import numpy as np
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from photo.metadata import EXIF_IFD, GPS_IFD, Metadata

STRIP = 1 << 20  # least bytes of a strip
LARGEST = (1 << 32) - (1 << 26)  # bytes of pixels: offsets have 32 bits, and metadata needs space


def tiff(bands: Iterable[np.ndarray], height: int, width: int, metadata: Metadata) -> Iterator[bytes]:
    """The parts of an uncompressed TIFF file of the image (height, width, C), at most LARGEST bytes of pixels, given as
    `bands` (h', width, C) of uint8 or uint16 from top to bottom."""
    started = False
    for band in bands:
        if not started:
            yield _header(height, width, band.shape[2], band.itemsize, metadata)
            started = True
        yield np.ascontiguousarray(band, f'<u{band.itemsize}').tobytes()


def _header(height: int, width: int, channels: int, depth: int, metadata: Metadata) -> bytes:
    """The bytes before the pixels."""
    row = width * channels * depth
    rows = max(1, STRIP // row)
    tops = range(0, height, rows)
    tags = ImageFileDirectory_v2(prefix=b'II')
    for tag, value in {256: width, 257: height, 258: (8 * depth,) * channels, 259: 1, 262: 2 if channels > 2 else 1,
                       273: tuple(top * row for top in tops), 277: channels, 278: rows,
                       279: tuple((min(top + rows, height) - top) * row for top in tops), 284: 1}.items():
        tags[tag] = value
    if channels in (2, 4):
        tags[338] = (2,)  # unassociated alpha
    if metadata.dpi:
        tags[282], tags[283], tags[296] = *metadata.dpi, 2
    for tag, value in metadata.exif.items():
        if tag not in (EXIF_IFD, GPS_IFD) and tag not in tags and tag not in (274, 282, 283, 296, 513, 514):
            tags[tag] = value
    for tag in EXIF_IFD, GPS_IFD:
        if tag in metadata.exif and (found := metadata.exif.get_ifd(tag)):
            tags[tag] = dict(found)
    for tag, value, kind in ((700, metadata.xmp.encode(), 1), (34675, metadata.icc, 7)):
        if value:
            tags[tag] = value
            tags.tagtype[tag] = kind
    file = io.BytesIO()
    tags.save(file)
    return file.getvalue()
