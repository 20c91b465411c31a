"""Decoding the pixels of an opened image file: bit depth, palettes, CMYK, damage."""
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO

import cv2
import numpy as np
from PIL import Image, ImageCms

from utility import stderr_lines


@dataclass
class Decoded:
    """The content of an image file."""
    pixels: np.ndarray       # uint8 or uint16 (H, W, C), upright; C = 1 gray, 2 gray + alpha, 3 RGB, 4 RGBA
    form: str = ''           # Pillow's name of the format
    info: dict = field(default_factory=dict)                            # Pillow's `info`
    exif: Image.Exif = field(default_factory=Image.Exif)                # empty if missing or damaged
    chunks: list[tuple[bytes, bytes]] = field(default_factory=list)     # of a PNG file, except its pixels
    dropped: list[str] = field(default_factory=list)                    # names of what could not be used


@contextmanager
def suppress_damage(found: Decoded, what: str) -> Iterator[None]:
    """A context that adds `what` to found.dropped if it is damaged, instead of failing."""
    try:
        yield
    except Exception:  # parsers of metadata raise nearly anything, and the pixels do not depend on it
        found.dropped.append(what)


def loaded(file: BinaryIO, image: Image.Image, found: Decoded) -> Image.Image:
    """The image with its pixels loaded; a missing end marker of a JPEG file is tolerated."""
    try:
        image.load()
        return image
    except OSError:
        if image.format not in ('JPEG', 'MPO'):
            raise
        file.seek(0)
        data = file.read() + b'\xff\xd9'
        if jpeg_damage(data):
            raise
        found.dropped.append('the missing end marker')
        whole = Image.open(io.BytesIO(data), formats=('JPEG',))
        whole.load()
        return whole


def jpeg_damage(data: bytes) -> str:
    """libjpeg's warning about the pixels of a JPEG file, '' if none; not all damage is detected."""
    with stderr_lines() as lines:  # Pillow discards the warning, OpenCV lets libjpeg print it
        array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_REDUCED_GRAYSCALE_8)
    return next(iter(lines), '' if array is not None else 'cannot be decoded')


def bit_depth(file: BinaryIO, image: Image.Image) -> tuple[int, bool]:
    """(8, 16, or 32 for what data.tiff reads; whether a 16-bit image is gray)."""
    if image.format == 'PNG':
        position = file.tell()
        file.seek(24)  # IHDR: bit depth, colour type (0 gray, 4 gray + alpha)
        depth, kind = file.read(2)
        file.seek(position)
        return (16 if depth == 16 else 8), kind in (0, 4)
    if image.format != 'TIFF':
        return 8, False
    bits = set(image.tag_v2.get(258, (1,)))
    if bits == {16}:
        photometric, planar = image.tag_v2.get(262), image.tag_v2.get(284, 1)
        extra, signs = image.tag_v2.get(338, (2,)), set(image.tag_v2.get(339, (1,)))
        plain = photometric in (1, 2) and planar == 1 and extra in ((0,), (2,)) and signs == {1}
        return (16 if plain else 32), photometric == 1
    return (8 if bits <= {1, 2, 4, 8} else 32), False


def decode_16(data: bytes, gray: bool, transparent: int | tuple | None) -> np.ndarray:
    """uint16 array (H, W, C) of a PNG or TIFF file; transparent: the transparent colour, or None."""
    array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)  # (H, W) or BGR or BGRA
    if array is None or array.dtype != np.uint16:
        raise ValueError('16-bit pixels cannot be decoded')
    array = np.atleast_3d(array)
    alpha = array[:, :, 3:]
    colour = array[:, :, :1] if gray else array[:, :, 2::-1]
    if transparent is not None:
        alpha = np.where((colour == np.uint16(transparent)).all(axis=2, keepdims=True), 0, 65535).astype(np.uint16)
    return np.concatenate([colour, alpha], axis=2)


def scale_key(image: Image.Image) -> None:
    """To be called before a gray PNG file below 8 bits is decoded: Pillow scales its pixels to 8 bits, but not its
    transparent value (for 1 bit only in older versions)."""
    key, tiles = image.info.get('transparency'), getattr(image, 'tile', ())
    n_levels = {'1': 2, 'L;2': 4, 'L;4': 16}.get(tiles[0][3]) if tiles and image.format == 'PNG' else None
    if n_levels and isinstance(key, int) and key < n_levels:
        image.info['transparency'] = key * 255 // (n_levels - 1)


def simple(image: Image.Image, found: Decoded) -> Image.Image:
    """A decoded 8-bit image in mode L, LA, RGB or RGBA; CMYK is converted by its colour profile."""
    if image.mode == 'CMYK' and (profile := found.info.pop('icc_profile', None)):
        try:
            return ImageCms.profileToProfile(image, io.BytesIO(profile), ImageCms.createProfile('sRGB'),
                                             outputMode='RGB')
        except (ImageCms.PyCMSError, OSError):
            found.dropped.append('a colour profile that is damaged or not for CMYK')
    alpha = image.mode[-1] in 'Aa' or 'transparency' in image.info
    mode = ('L' if image.mode in ('1', 'L', 'LA', 'La') else 'RGB') + 'A' * alpha
    return image if image.mode == mode else image.convert(mode)
