"""Reading images of every kind: gray, palette, CMYK, alpha, 8 or 16 bits, EXIF orientation; detecting damage."""
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from data import png, tiff
from data.kinds import HEIC, RAW, kind_of
from data.pixels import Decoded, bit_depth, decode_16, loaded, scale_key, simple, suppress_damage
from store.files import write_bytes
from utility import UserError, shown

SUFFIXES = ('.png', '.jpg', '.jpeg', '.webp', '.bmp', '.tif', '.tiff')
MAX_PIXELS = 64_000_000
# Pillow's other readers, some of which start programs, are not used.
FORMATS = ('PNG', 'JPEG', 'WEBP', 'BMP', 'TIFF', 'GIF', 'AVIF', 'JPEG2000', 'HEIF')
ORIENTATION, PREVIEW = 274, 254  # tags of EXIF data and of TIFF files
TURNS = {2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.swapaxes(0, 1),
         6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).swapaxes(0, 1), 8: np.rot90}  # EXIF orientation
TO_8_BITS = ((np.arange(65536) + 128) // 257).astype(np.uint8)  # v / 257, rounded

warnings.simplefilter('ignore', Image.DecompressionBombWarning)  # _opened() raises an ImageError for such images
warnings.filterwarnings('ignore', module=r'PIL\.')  # about damaged tags, which do not matter


class ImageError(UserError):
    """An image that cannot be used; `reason` says why, without the file name."""
    reason = ''

    @classmethod
    def of(cls, path: str | Path, reason: str, advice: str = 'replace this file or leave it out') -> 'ImageError':
        error = cls(f'{shown(path)}: {reason}; {advice}')
        error.reason = reason
        return error


def is_image(path: Path, suffixes: tuple[str, ...] = SUFFIXES) -> bool:
    """Whether `path` has the suffix of an image and is not hidden, as macOS's ._0001.png."""
    return path.suffix.lower() in suffixes and not path.name.startswith('.')


def read_size(path: str | Path, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(height, width) from the header alone, as read_rgb would return it.

    An EXIF orientation stored after the pixels of a PNG file, where cameras do not put it, is ignored.
    Raises ImageError as read_rgb does.
    """
    with _opened(path, max_pixels, header_only=True) as (file, image, found):
        if image is None:
            return tiff.size(file)
        if image.format == 'TIFF':  # versions of Pillow differ in whether `size` is that of the turned image
            width, height, turn = (image.tag_v2.get(tag) for tag in (256, 257, ORIENTATION))
        else:
            turn, (width, height) = found.exif.get(ORIENTATION), image.size
    return (width, height) if turn in (5, 6, 7, 8) else (height, width)


def read_rgb(path: str | Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """uint8 array (H, W, 3): gray in three channels, transparency dropped, 16 bits rounded to 8.

    Raises ImageError if the file is unreadable, truncated, corrupt or has more than `max_pixels`.
    """
    array = decode(path, max_pixels).pixels
    return three_channels(TO_8_BITS[array] if array.dtype == np.uint16 else array)


def upright(array: np.ndarray, orientation: int | None) -> np.ndarray:
    """The array (H, W, ...) rotated or flipped as an EXIF orientation says."""
    return TURNS.get(orientation, np.asarray)(array)


def three_channels(array: np.ndarray) -> np.ndarray:
    """(H, W, 1 to 4) → contiguous (H, W, 3) without alpha."""
    colour = array[:, :, :3] if array.shape[2] > 2 else array[:, :, :1].repeat(3, axis=2)
    return np.ascontiguousarray(colour)


@cache
def _formats() -> tuple[str, ...]:
    """The FORMATS that the installed Pillow reads; HEIF with the package pillow-heif."""
    Image.init()
    try:
        import pillow_heif
        pillow_heif.register_heif_opener()
    except ImportError:
        pass
    return tuple(form for form in FORMATS if form in Image.OPEN)


@contextmanager
def _opened(source: str | Path | bytes, max_pixels: int,
            header_only: bool = False) -> Iterator[tuple[BinaryIO, Image.Image | None, Decoded]]:
    """A context with (file, Pillow image whose header has been read, or None for a TIFF file that Pillow cannot read,
    Decoded without pixels); exceptions inside become ImageErrors.

    source: a path, or the content of a file. header_only: skip the pixels of PNG files.
    """
    path = 'image' if isinstance(source, bytes) else source
    head = b''
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else _regular(path) as file:
            found, head = Decoded(np.empty(0)), file.read(32)
            file.seek(0)
            stream = file
            if kind_of(head) == RAW:  # Pillow would read the preview
                raise ImageError.of(path, RAW, 'develop it to TIFF or JPEG')
            if head.startswith(png.SIGNATURE):
                data, found.chunks, damaged = png.split(file, header_only)
                found.dropped, stream = [f'damaged {name} chunk' for name in damaged], io.BytesIO(data)
            try:
                image = Image.open(stream, formats=_formats())
            except UnidentifiedImageError:
                if not head.startswith(tiff.MAGIC):
                    raise
                image = None
            height, width = (image.height, image.width) if image else tiff.size(file)
            if width * height > max_pixels:
                raise ImageError.of(path, f'{width}x{height} is more than {max_pixels:,} pixels')
            if image:
                if image.format == 'TIFF' and image.tag_v2.get(PREVIEW) == 1:
                    raise ImageError.of(path, f'its first image is a preview, as in {RAW}', 'develop it first')
                _read_exif(image, found)
            yield stream, image, found
    except UserError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError.of(path, f'more than {max_pixels:,} pixels') from error
    except UnidentifiedImageError as error:
        if not head:
            raise ImageError.of(path, 'empty file') from error
        kind = kind_of(head)
        if kind == HEIC:
            raise ImageError.of(path, f'{HEIC}, which needs pillow-heif', 'pip install pillow-heif') from error
        reason = f'{kind}, which is not supported' if kind else 'damaged, or not an image of a supported kind'
        raise ImageError.of(path, reason, *['save it as PNG or TIFF'] * bool(kind)) from error
    except tiff.Unreadable as error:
        raise ImageError.of(path, str(error), error.advice) from error
    except Exception as error:  # on damaged files decoders raise nearly anything
        reason = getattr(error, 'strerror', None) or ' '.join(str(error).split()) or type(error).__name__
        raise ImageError.of(path, f'cannot be read ({reason})') from error


def _regular(path: str | Path) -> BinaryIO:
    """The open file. Raises ImageError if it is not a regular file."""
    if not Path(path).is_file():
        raise ImageError.of(path, 'not a regular file' if Path(path).exists() else
                            'broken link' if Path(path).is_symlink() else 'no such file')
    return open(path, 'rb')


def _read_exif(image: Image.Image, found: Decoded) -> None:
    """Put the EXIF data into `found`."""
    stored = dict(found.chunks).get(b'eXIf')
    if image.format == 'PNG' and stored is None:
        for name, content in found.chunks:  # as ImageMagick writes it
            if name in (b'tEXt', b'zTXt') and content.startswith(b'Raw profile type exif\0'):
                with suppress_damage(found, 'EXIF data'):
                    stored = bytes.fromhex(''.join(png.text(name, content)[1].split('\n')[3:]))
    with suppress_damage(found, 'EXIF data'):
        if image.format == 'PNG':
            found.exif.load(stored or b'')
        else:
            found.exif = image.getexif()
        found.exif.get(ORIENTATION)


def decode(source: str | Path | bytes, max_pixels: int = MAX_PIXELS) -> Decoded:
    """Pixels and metadata of the image `source`, a path or a file's content. Raises ImageError as read_rgb does."""
    with _opened(source, max_pixels) as (file, image, found):
        if image is None:
            found.pixels, found.form = upright(*tiff.pixels(file)), 'TIFF'
            return found
        found.form, found.info = image.format, dict(image.info)
        depth, gray = bit_depth(file, image)
        scale_key(image)
        turn = None if image.format == 'TIFF' else found.exif.get(ORIENTATION)  # Pillow rotates TIFF images itself
        if depth == 32:
            array, turn = tiff.pixels(file)
        else:
            image = loaded(file, image, found)  # raises if the file is truncated or a checksum differs
            if depth == 16:
                file.seek(0)
                array = decode_16(file.read(), gray, image.info.get('transparency'))
            else:
                array = np.array(simple(image, found))
        found.pixels = upright(np.atleast_3d(array), turn)
        return found


def write_rgb(path: str | Path, array: np.ndarray) -> None:
    """Write a uint8 array (H, W, 3) as a PNG file. Raises UserError if it cannot be written."""
    file = io.BytesIO()
    Image.fromarray(array).save(file, 'PNG')
    write_bytes(path, file.getbuffer())
