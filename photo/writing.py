"""Writing results of photos: PNG and TIFF band by band, JPEG and WebP by Pillow."""
import io
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from data.png import LONGEST, chunk
from photo.image import Photo
from photo.metadata import XMP, Metadata
from photo.png import png
from photo.tiff import tiff
from store.files import write_bytes, write_parts

SIDES = {'.jpg': 65_500, '.webp': 16_383}  # pixels: the longest side of the format
FULL_COLOUR = 90  # JPEG quality from which chroma is not subsampled
SEGMENT = 65_000  # most bytes of EXIF or XMP data in a JPEG file


def write_bands(path: Path, bands: Iterable[np.ndarray], height: int, width: int, metadata: Metadata,
                quality: int = 95) -> list[str]:
    """Write an image (height, width, C) in the format of the suffix: png, tif, jpg or webp.

    bands: the image as arrays (h', width, C) of uint8 or uint16 from top to bottom; for PNG and TIFF only one need be
    in memory at a time. quality: of JPEG and WebP, 1 to 100. Returns the names of metadata that could not be kept.
    Raises UserError if the file cannot be written, and any exception of `bands`; an existing file is then unchanged.
    """
    if path.suffix == '.tif':
        write_parts(path, tiff(bands, height, width, metadata))
        return []
    if path.suffix == '.png':
        chunks, lost = _chunks(metadata)
        write_parts(path, png(bands, height, width, chunks))
        return lost
    options, lost = _options(metadata, path.suffix)
    if path.suffix == '.jpg' and quality >= FULL_COLOUR:
        options['subsampling'] = 0
    file = io.BytesIO()
    array = _joined(bands, height)
    image = Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
    image.save(file, {'.jpg': 'JPEG', '.webp': 'WEBP'}[path.suffix], quality=quality, **options)
    write_bytes(path, file.getbuffer())
    return lost


def _joined(bands: Iterable[np.ndarray], height: int) -> np.ndarray:
    """The image that bands (h', width, C) make up, (height, width, C), with no more than one of them beside it."""
    array, top = None, 0
    for band in bands:
        if array is None:
            array = np.empty((height, *band.shape[1:]), band.dtype)
        array[top:top + len(band)] = band
        top += len(band)
    return array


def write_photo(path: str | Path, photo: Photo) -> None:
    """Write `photo` as write_bands does."""
    height, width, _ = photo.pixels.shape
    write_bands(Path(path), [photo.pixels], height, width, photo.metadata)


def _chunks(metadata: Metadata) -> tuple[list[bytes], list[str]]:
    """(chunks of a PNG file with `metadata`, names of what they cannot hold)."""
    lost = []
    chunks = [chunk(name, content) for name, content in metadata.colour if not (name == b'sRGB' and metadata.icc)]
    if metadata.icc:
        chunks.append(chunk(b'iCCP', b'icc\0\0' + zlib.compress(metadata.icc)))
    if metadata.dpi:
        x, y = (round(value / 0.0254).to_bytes(4, 'big') for value in metadata.dpi)
        chunks.append(chunk(b'pHYs', x + y + b'\1'))
    if len(metadata.exif):
        exif = metadata.exif.tobytes().removeprefix(b'Exif\0\0')
        chunks.append(chunk(b'eXIf', exif))
    text = PngImagePlugin.PngInfo()
    for keyword, value in [*metadata.text, *[(XMP, metadata.xmp)] * bool(metadata.xmp)]:
        if not _is_keyword(keyword) or len(value.encode()) > LONGEST:
            lost.append(f'text {keyword!r}')
        elif keyword == XMP:
            text.add_itxt(keyword, value)
        else:
            text.add_text(keyword, value.replace('\0', ' '))
    return chunks + [chunk(name, content) for name, content, *_ in text.chunks], lost


def _is_keyword(keyword: str) -> bool:
    return 0 < len(keyword) < 80 and keyword.isprintable() and all(ord(letter) < 256 for letter in keyword)


def _options(metadata: Metadata, suffix: str) -> tuple[dict, list[str]]:
    """(arguments of Pillow's save for `metadata` in a JPEG or WebP file, names of what it cannot hold)."""
    options, lost = {'icc_profile': metadata.icc}, []
    if suffix == '.webp':
        options |= {'exact': True, 'method': 4}
    elif metadata.dpi:
        options['dpi'] = tuple(round(value) for value in metadata.dpi)
    for name, data in (('exif', metadata.exif.tobytes() if len(metadata.exif) else b''),
                       ('xmp', metadata.xmp.encode())):
        if len(data) > SEGMENT and suffix == '.jpg':
            lost.append(f'{name.upper()} of {len(data):,} bytes')
        elif data:
            options[name] = data
    comment = dict(metadata.text).get('Comment', '').encode()
    if suffix == '.jpg' and 0 < len(comment) < SEGMENT:
        options['comment'] = comment
    return options, lost
