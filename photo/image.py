"""A photo: pixels of any kind, and the metadata to write them as the same kind of file."""
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile

from data.images import ORIENTATION, TO_8_BITS, ImageError, decode, three_channels, upright
from data.pixels import Decoded, jpeg_damage, scale_key, simple
from photo.colour import is_gray
from photo.metadata import Metadata, collect, encoding_of
from utility import UserError, stderr_lines

MAX_PIXELS = 160_000_000  # of a photo: the largest camera sensors have 151 million
CHROMA = 3  # difference of channels of a gray image by rounding in JPEG and WebP files, on the 0-255 scale


@dataclass
class Photo:
    """An image and the metadata to write it as the same kind of file."""
    pixels: np.ndarray            # uint8 or uint16 (H, W, C), upright; C = 1 gray, 2 gray + alpha, 3 RGB, 4 RGBA
    metadata: Metadata = field(default_factory=Metadata)
    notes: list[str] = field(default_factory=list)      # notes for the user

    @property
    def gray(self) -> bool:
        return self.pixels.shape[2] < 3

    @property
    def depth(self) -> int:
        """Bits per channel, 8 or 16."""
        return self.pixels.itemsize * 8

    @property
    def colour(self) -> np.ndarray:
        """float32 (H, W, 3) in [0, 1]; gray: three equal channels."""
        return three_channels(self.pixels).astype(np.float32) / (2 ** self.depth - 1)

    @property
    def alpha(self) -> np.ndarray | None:
        """float32 (H, W) in [0, 1], or None."""
        if self.pixels.shape[2] in (1, 3):
            return None
        return self.pixels[:, :, -1].astype(np.float32) / (2 ** self.depth - 1)


def read_photo(source: str | Path | bytes, max_pixels: int = MAX_PIXELS) -> Photo:
    """The image file `source`, a path or its content, as a Photo, with pixels unchanged.

    Raises ImageError as data.images.read_rgb does.
    """
    with stderr_lines():  # decoders print warnings about damaged metadata
        found = decode(source, max_pixels)
    notes, nclx = [], b''
    if found.form in ('JPEG', 'MPO'):
        damage = jpeg_damage(_content(source))
        if damage and not found.dropped:
            notes.append(f'libjpeg reports damaged pixels: {damage}')
    elif found.form in ('AVIF', 'HEIF'):
        nclx = encoding_of(_content(source))
    return _photo(found, notes, nclx)


def _content(source: str | Path | bytes) -> bytes:
    return source if isinstance(source, bytes) else Path(source).read_bytes()


def photo_of(image: Image.Image) -> Photo:
    """A Pillow image, opened from a file or created, as a Photo. Raises ImageError if it cannot be read."""
    if 0 in image.size:
        raise ImageError.of('image', f'{image.width}x{image.height} pixels', 'give one that is not empty')
    try:
        if data := _untouched(image):
            return read_photo(data, max(image.width * image.height, MAX_PIXELS))
        scale_key(image)
        image.load()
        found = Decoded(np.empty(0), image.format or '', dict(image.info), image.getexif())
        if image.mode.startswith('I;16') or (image.mode, image.format) == ('I', 'PNG'):  # the latter in older Pillow
            array = np.array(image).astype(np.uint16)
        elif image.mode in ('I', 'F'):
            raise ImageError.of('image', f'Pillow mode {image.mode} has no fixed data range', 'convert it')
        else:
            array = np.array(simple(image, found))
        turn = None if image.format == 'TIFF' else found.exif.get(ORIENTATION)  # Pillow rotates TIFF images itself
        found.pixels = upright(np.atleast_3d(array), turn)
        return _photo(found, [])
    except UserError:
        raise
    except Exception as error:  # on damaged files decoders raise nearly anything
        raise ImageError.of('image', f'cannot be read ({" ".join(str(error).split())})') from error


def _untouched(image: Image.Image) -> bytes | None:
    """The content of the file that `image` was opened from if its pixels have not been loaded or changed, else None.

    Pillow decodes some kinds with fewer bits, and memory-maps others without the correct orientation.
    """
    if not isinstance(image, ImageFile.ImageFile) or image.tell():
        return None
    if getattr(image, 'readonly', 0) and Path(image.filename).is_file():  # memory-mapped and not changed
        return Path(image.filename).read_bytes()
    file = getattr(image, 'fp', None)
    if not image.tile or file is None:  # decoded already
        return None
    position = file.tell()
    file.seek(0)
    data = file.read()
    file.seek(position)
    return data


def _photo(found: Decoded, notes: list[str], nclx: bytes = b'') -> Photo:
    metadata, pixels = collect(found, nclx), found.pixels
    lossy = found.form in ('JPEG', 'MPO', 'WEBP', 'AVIF', 'HEIF')
    if lossy and pixels.shape[2] > 2 and is_gray(pixels[:, :, :3], CHROMA):
        pixels[:, :, :3] = pixels[:, :, 1:2]
    if found.dropped:
        notes.insert(0, 'dropped: ' + ', '.join(dict.fromkeys(found.dropped)))
    return Photo(pixels, metadata, notes)


def to_pillow(array: np.ndarray, metadata: Metadata | None = None) -> Image.Image:
    """A Pillow image of a uint8 or uint16 array (H, W, 1 to 4); 16-bit colour becomes 8-bit, as Pillow has no other."""
    if array.dtype == np.uint16 and array.shape[2] > 1:
        array = TO_8_BITS[array]
    image = Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
    if metadata:
        known = {'icc_profile': metadata.icc, 'dpi': metadata.dpi, 'xmp': metadata.xmp.encode(),
                 'exif': len(metadata.exif) and metadata.exif.tobytes()}
        image.info.update({name: value for name, value in known.items() if value})
    return image
