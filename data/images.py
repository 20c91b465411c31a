"""Reading and writing every kind of image: gray, palette, CMYK, alpha, 8 or 16 bits, turned by EXIF, broken."""
import io
import struct
import warnings
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from store.files import write_bytes
from utility import UserError, shown

SUFFIXES = ('.png', '.jpg', '.jpeg', '.webp', '.bmp', '.tif', '.tiff')
MAX_PIXELS = 64_000_000
BAND = 256  # rows of a 16-bit PNG that are packed at once
FORMATS = ('PNG', 'JPEG', 'WEBP', 'BMP', 'TIFF')  # Pillow's other readers, some of which start programs, stay unused
ORIENTATION = 274
TURNS = {2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.swapaxes(0, 1),
         6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).swapaxes(0, 1), 8: np.rot90}  # EXIF orientation
TO_8_BITS = ((np.arange(65536) + 128) // 257).astype(np.uint8)  # v / 257, rounded

warnings.simplefilter('ignore', Image.DecompressionBombWarning)  # _opened() refuses such images with better words


class ImageError(UserError):
    """An image that cannot be used; `reason` says why without naming it."""
    reason = ''

    @classmethod
    def of(cls, path, reason):
        error = cls(f'{shown(path)}: {reason}; replace this file or leave it out')
        error.reason = reason
        return error


@dataclass
class Photo:
    """An image and what is needed to write it back as the same kind of file."""
    pixels: np.ndarray            # uint8 or uint16 (H, W, C), upright; C = 1 gray, 2 gray + alpha, 3 RGB, 4 RGBA
    icc: bytes | None = None      # colour profile

    @property
    def gray(self):
        return self.pixels.shape[2] < 3

    @property
    def depth(self):
        """Bits a channel, 8 or 16."""
        return self.pixels.itemsize * 8

    @property
    def colour(self):
        """float32 (H, W, 3) in [0, 1]; gray: three equal channels."""
        return _three(self.pixels).astype(np.float32) / (2 ** self.depth - 1)

    @property
    def alpha(self):
        """float32 (H, W) in [0, 1], or None."""
        if self.pixels.shape[2] in (1, 3):
            return None
        return self.pixels[:, :, -1].astype(np.float32) / (2 ** self.depth - 1)


def is_image(path):
    """Whether the name of `path` is that of an image; hidden files, such as macOS's ._0001.png, are none."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith('.')


def read_size(path):
    """(height, width) from the header alone, as read_rgb would return it.

    Only an EXIF orientation that a PNG file holds behind its pixels, where cameras do not put it, is not seen.
    Raises ImageError as read_rgb does.
    """
    with _opened(path) as (_, image):
        if image.format == 'TIFF':  # versions of Pillow differ in whether `size` is that of the turned image
            width, height, turn = (image.tag_v2.get(tag) for tag in (256, 257, ORIENTATION))
        else:
            early = image.format != 'PNG' or {'exif', 'Raw profile type exif'} & image.info.keys()
            turn = image.getexif().get(ORIENTATION) if early else None  # else Pillow would decode it all to look for it
            width, height = image.size
    return (width, height) if turn in (5, 6, 7, 8) else (height, width)


def read_rgb(path):
    """uint8 array (H, W, 3): gray in three channels, transparency dropped, 16 bits rounded to 8.

    Raises ImageError if the file is unreadable, truncated, corrupt or has more than 64 million pixels.
    """
    array, _ = _decode(path)
    return _three(TO_8_BITS[array] if array.dtype == np.uint16 else array)


def read_photo(path):
    """The image as a Photo, nothing of it lost. Raises ImageError as read_rgb does."""
    return _photo(*_decode(path))


def photo_of(image):
    """A Pillow image, opened from a file or made, as read_photo would return it. Raises ImageError if it cannot be."""
    try:
        _scale_key(image)
        image.load()
        if image.mode.startswith('I;16') or (image.mode, image.format) == ('I', 'PNG'):  # what older Pillow calls it
            array = np.array(image).astype(np.uint16)
        elif image.mode in ('I', 'F'):
            raise ImageError.of('image', f'Pillow mode {image.mode} has no fixed white; convert it')
        else:
            array = np.array(_simple(image))
        return _photo(np.atleast_3d(_upright(array, image)), image.info.get('icc_profile'))
    except UserError:
        raise
    except Exception as error:  # on damaged files decoders raise nearly anything
        raise ImageError.of('image', f'cannot be read ({" ".join(str(error).split())})') from error


def _photo(array, icc):
    fits = icc and icc[16:20] == (b'GRAY' if array.shape[2] < 3 else b'RGB ')  # a profile of CMYK no longer does
    return Photo(array, icc if fits else None)


def _upright(array, image):
    """The pixels of `image` turned as its EXIF data says; those of TIFF files Pillow and OpenCV have turned already."""
    if image.format == 'TIFF':
        return array
    return TURNS.get(image.getexif().get(ORIENTATION), np.asarray)(array)


def _three(array):
    """(H, W, 1 to 4) → contiguous (H, W, 3) without alpha."""
    colour = array[:, :, :3] if array.shape[2] > 2 else array[:, :, :1].repeat(3, axis=2)
    return np.ascontiguousarray(colour)


@contextmanager
def _opened(path):
    """(file, Pillow image whose header has been read); whatever goes wrong inside becomes an ImageError."""
    try:
        if not Path(path).is_file():
            raise ImageError.of(path, 'no regular file' if Path(path).exists() else
                                'link to a file that is missing' if Path(path).is_symlink() else 'no such file')
        with open(path, 'rb') as file, Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ImageError.of(path, f'{image.width}x{image.height} is more than {MAX_PIXELS:,} pixels')
            yield file, image
    except UserError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError.of(path, f'more than {MAX_PIXELS:,} pixels') from error
    except UnidentifiedImageError as error:
        reason = 'damaged, or no image of a known kind' if Path(path).stat().st_size else 'empty file'
        raise ImageError.of(path, reason) from error
    except Exception as error:  # on damaged files decoders raise nearly anything
        reason = getattr(error, 'strerror', None) or ' '.join(str(error).split()) or type(error).__name__
        raise ImageError.of(path, f'cannot be read ({reason})') from error


def _decode(path):
    """(uint8 or uint16 array (H, W, C), colour profile or None); C = 1 gray, 2 gray + alpha, 3 RGB, 4 RGBA."""
    with _opened(path) as (file, image):
        depth, gray = _depth(path, file, image)
        _scale_key(image)
        image.load()  # raises if the file is truncated or its checksums do not fit, 16-bit ones included
        icc = image.info.get('icc_profile')
        if depth == 16:
            file.seek(0)
            array = _decode_16(file.read(), gray, image.info.get('transparency'))
        else:
            array = np.array(_simple(image))
        return np.atleast_3d(_upright(array, image)), icc


def _depth(path, file, image):
    """(8 or 16, whether a 16-bit image is gray). Raises ImageError for what would not be read exactly."""
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
        if photometric not in (1, 2) or planar != 1 or extra not in ((0,), (2,)) or signs != {1}:
            raise ImageError.of(path, '16-bit TIFF that is not plain gray or RGB; save it as 16-bit PNG')
        return 16, photometric == 1
    if not bits <= {1, 2, 4, 8}:
        raise ImageError.of(path, f'{max(bits)} bits a channel; save it with 8 or 16')
    return 8, False


def _decode_16(data, gray, transparent):
    """uint16 array (H, W) or (H, W, C) of a PNG or TIFF file; transparent: the colour that is, or None."""
    array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)  # (H, W) or BGR or BGRA
    if array is None or array.dtype != np.uint16:
        raise ValueError('16-bit pixels cannot be decoded')
    array = np.atleast_3d(array)
    alpha = array[:, :, 3:]
    colour = array[:, :, :1] if gray else array[:, :, 2::-1]
    if transparent is not None:
        alpha = np.where((colour == np.uint16(transparent)).all(axis=2, keepdims=True), 0, 65535).astype(np.uint16)
    return np.concatenate([colour, alpha], axis=2)


def _scale_key(image):
    """Before a PNG file of few bits gray is decoded: Pillow scales its pixels to 8 bits, but not the gray that is
    transparent (of one bit only older versions do not)."""
    key, tiles = image.info.get('transparency'), getattr(image, 'tile', ())
    n_levels = {'1': 2, 'L;2': 4, 'L;4': 16}.get(tiles[0][3]) if tiles and image.format == 'PNG' else None
    if n_levels and isinstance(key, int) and key < n_levels:
        image.info['transparency'] = key * 255 // (n_levels - 1)


def _simple(image):
    """A decoded 8-bit image in mode L, LA, RGB or RGBA."""
    if image.mode == 'CMYK' and 'icc_profile' in image.info:
        try:
            return ImageCms.profileToProfile(image, io.BytesIO(image.info['icc_profile']),
                                             ImageCms.createProfile('sRGB'), outputMode='RGB')
        except ImageCms.PyCMSError as error:
            raise ValueError('its colour profile is damaged, or not one of CMYK') from error
    alpha = image.mode[-1] in 'Aa' or 'transparency' in image.info
    mode = ('L' if image.mode in ('1', 'L', 'LA', 'La') else 'RGB') + 'A' * alpha
    return image if image.mode == mode else image.convert(mode)


def write_rgb(path, array):
    """Write a uint8 array (H, W, 3) as a PNG file. Raises UserError if that is impossible."""
    write_bytes(path, _png(array, None))


def write_photo(path, photo):
    """Write `photo` as a PNG file of its own kind: gray, alpha, depth and colour profile kept.

    Raises UserError if that is impossible.
    """
    write_bytes(path, _png(photo.pixels, photo.icc))


def _png(array, icc):
    """A PNG file of a uint8 or uint16 array (H, W, 1 to 4)."""
    if array.dtype == np.uint16:
        return _png_16(array, icc)
    file = io.BytesIO()
    to_pillow(array, icc).save(file, 'PNG')
    return file.getbuffer()


def to_pillow(array, icc=None):
    """A Pillow image of a uint8 or uint16 array (H, W, 1 to 4); of 16 bits Pillow has gray only, others become 8."""
    if array.dtype == np.uint16 and array.shape[2] > 1:
        array = TO_8_BITS[array]
    image = Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
    if icc:
        image.info['icc_profile'] = icc
    return image


def _png_16(array, icc):
    """As _png, for 16 bits: of these OpenCV writes neither gray + alpha nor profiles, Pillow only gray."""
    height, width, channels = array.shape
    header = struct.pack('>2I5B', width, height, 16, (0, 4, 2, 6)[channels - 1], 0, 0, 0)
    profile = _chunk(b'iCCP', b'icc\0\0' + zlib.compress(icc)) if icc else b''
    parts, packer, above = [b'\x89PNG\r\n\x1a\n', _chunk(b'IHDR', header), profile], zlib.compressobj(), 0
    for top in range(0, height, BAND):  # a chunk each: one alone could not hold all of a large photo
        rows = array[top:top + BAND].astype('>u2').view(np.uint8).reshape(-1, 2 * width * channels)
        up = np.full((len(rows), 1 + rows.shape[1]), 2, np.uint8)  # filter 2: each byte minus the one above
        up[0, 1:] = rows[0] - above
        np.subtract(rows[1:], rows[:-1], out=up[1:, 1:])
        parts.append(_chunk(b'IDAT', packer.compress(up)))
        above = rows[-1]
    return b''.join([*parts, _chunk(b'IDAT', packer.flush()), _chunk(b'IEND', b'')])


def _chunk(name, data):
    return struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))
