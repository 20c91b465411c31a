"""Reading and writing every kind of image: gray, palette, CMYK, alpha, 8 or 16 bits, turned by EXIF, broken."""
import io
import warnings
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from store.files import write_bytes
from utility import UserError, shown

SUFFIXES = ('.png', '.jpg', '.jpeg', '.webp', '.bmp', '.tif', '.tiff')
MAX_PIXELS = 64_000_000
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
    def of(cls, path: str | Path, reason: str) -> 'ImageError':
        error = cls(f'{shown(path)}: {reason}; replace this file or leave it out')
        error.reason = reason
        return error


def is_image(path: Path) -> bool:
    """Whether the name of `path` is that of an image; hidden files, such as macOS's ._0001.png, are none."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith('.')


def read_size(path: str | Path) -> tuple[int, int]:
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


def read_rgb(path: str | Path) -> np.ndarray:
    """uint8 array (H, W, 3): gray in three channels, transparency dropped, 16 bits rounded to 8.

    Raises ImageError if the file is unreadable, truncated, corrupt or has more than 64 million pixels.
    """
    array, _ = decode(path)
    return three_channels(TO_8_BITS[array] if array.dtype == np.uint16 else array)


def upright(array, image):
    """The pixels of `image` turned as its EXIF data says; those of TIFF files Pillow and OpenCV have turned already."""
    if image.format == 'TIFF':
        return array
    return TURNS.get(image.getexif().get(ORIENTATION), np.asarray)(array)


def three_channels(array):
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


def decode(path):
    """(uint8 or uint16 array (H, W, C), colour profile or None); C = 1 gray, 2 gray + alpha, 3 RGB, 4 RGBA."""
    with _opened(path) as (file, image):
        depth, gray = _depth(path, file, image)
        scale_key(image)
        image.load()  # raises if the file is truncated or its checksums do not fit, 16-bit ones included
        icc = image.info.get('icc_profile')
        if depth == 16:
            file.seek(0)
            array = _decode_16(file.read(), gray, image.info.get('transparency'))
        else:
            array = np.array(simple(image))
        return np.atleast_3d(upright(array, image)), icc


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


def scale_key(image):
    """Before a PNG file of few bits gray is decoded: Pillow scales its pixels to 8 bits, but not the gray that is
    transparent (of one bit only older versions do not)."""
    key, tiles = image.info.get('transparency'), getattr(image, 'tile', ())
    n_levels = {'1': 2, 'L;2': 4, 'L;4': 16}.get(tiles[0][3]) if tiles and image.format == 'PNG' else None
    if n_levels and isinstance(key, int) and key < n_levels:
        image.info['transparency'] = key * 255 // (n_levels - 1)


def simple(image):
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


def write_rgb(path: str | Path, array: np.ndarray) -> None:
    """Write a uint8 array (H, W, 3) as a PNG file. Raises UserError if that is impossible."""
    file = io.BytesIO()
    Image.fromarray(array).save(file, 'PNG')
    write_bytes(path, file.getbuffer())
