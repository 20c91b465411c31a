"""TIFF files that Pillow does not read exactly: 32-bit floats, planar configuration, big-endian BigTIFF."""
import logging
from typing import BinaryIO

import numpy as np
import tifffile

MAGIC = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')
SWAPPED = (5, 6, 7, 8)  # orientations that rotate by 90 degrees

logging.getLogger('tifffile').setLevel(logging.CRITICAL)  # errors are raised


class Unreadable(Exception):
    """A TIFF file of an unsupported kind; `advice`: what to do."""

    def __init__(self, what: str, advice: str = 'save it with 8 or 16 bits, gray or RGB') -> None:
        super().__init__(what)
        self.advice = advice


def size(file: BinaryIO) -> tuple[int, int]:
    """(height, width) of the first image, upright."""
    page = _page(file)
    height, width = page.imagelength, page.imagewidth
    return (width, height) if _turn(page) in SWAPPED else (height, width)


def pixels(file: BinaryIO) -> tuple[np.ndarray, int]:
    """(the first image as stored, its EXIF orientation): uint8 or uint16 (H, W, C); floats in [0, 1] become 16 bits.

    Raises Unreadable for an unsupported kind.
    """
    page = _page(file)
    what = _name(page)
    if page.dtype is None or page.dtype.kind not in 'uf' or (page.dtype.itemsize > 2 and page.dtype.kind == 'u'):
        raise Unreadable(what)
    if page.photometric not in (1, 2) or page.samplesperpixel not in (1, 2, 3, 4) or 1 in page.extrasamples:
        raise Unreadable(what)
    array = _channels_last(page)
    if page.dtype.kind == 'f':
        low, high = float(array.min()), float(array.max())
        if not (low >= 0 and high <= 1):  # NaN too
            raise Unreadable(f'{what} with values from {low:g} to {high:g}', 'scale them to [0, 1]')
        array = np.rint(array * np.float32(65535)).astype(np.uint16)
    return array, _turn(page)


def _page(file: BinaryIO) -> tifffile.TiffPage:
    file.seek(0)
    return tifffile.TiffFile(file).pages[0]


def _turn(page: tifffile.TiffPage) -> int:
    tag = page.tags.get('Orientation')
    return int(tag.value) if tag else 1


def _name(page: tifffile.TiffPage) -> str:
    """A description of the file, such as '32-bit float TIFF'."""
    kinds = {1: 'integer', 2: 'signed integer', 3: 'float', 5: 'complex', 6: 'complex'}
    words = [f'{page.bitspersample}-bit {kinds.get(int(page.sampleformat), "integer")} TIFF']
    if page.photometric not in (1, 2):
        words.append(f'of photometric {getattr(page.photometric, "name", page.photometric)}')
    if 1 in page.extrasamples:
        words.append('with associated alpha')
    if page.samplesperpixel > 4:
        words.append(f'with {page.samplesperpixel} channels')
    return ' '.join(words)


def _channels_last(page: tifffile.TiffPage) -> np.ndarray:
    """The pixels as stored, in the order (H, W, C)."""
    try:
        array = page.asarray()
    except ValueError as error:
        if 'imagecodecs' not in str(error):
            raise
        raise Unreadable(f'{_name(page)} compressed by {page.compression.name}', 'save it uncompressed') from error
    if page.planarconfig == 2 and page.samplesperpixel > 1:
        array = np.moveaxis(array, 0, 2)
    return array if array.ndim == 3 else array[:, :, None]
