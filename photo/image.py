"""A photo: pixels of any kind, and what is needed to write them back as the same kind of file."""
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from data.images import TO_8_BITS, ImageError, decode, scale_key, simple, three_channels, upright
from utility import UserError


@dataclass
class Photo:
    """An image and what is needed to write it back as the same kind of file."""
    pixels: np.ndarray            # uint8 or uint16 (H, W, C), upright; C = 1 gray, 2 gray + alpha, 3 RGB, 4 RGBA
    icc: bytes | None = None      # colour profile

    @property
    def gray(self) -> bool:
        return self.pixels.shape[2] < 3

    @property
    def depth(self) -> int:
        """Bits a channel, 8 or 16."""
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


def read_photo(path: str | Path) -> Photo:
    """The image file as a Photo, nothing of its pixels lost. Raises ImageError as read_rgb does."""
    return _photo(*decode(path))


def photo_of(image: Image.Image) -> Photo:
    """A Pillow image, opened from a file or made, as read_photo would return it. Raises ImageError if it cannot be."""
    try:
        scale_key(image)
        image.load()
        if image.mode.startswith('I;16') or (image.mode, image.format) == ('I', 'PNG'):  # what older Pillow calls it
            array = np.array(image).astype(np.uint16)
        elif image.mode in ('I', 'F'):
            raise ImageError.of('image', f'Pillow mode {image.mode} has no fixed white; convert it')
        else:
            array = np.array(simple(image))
        return _photo(np.atleast_3d(upright(array, image)), image.info.get('icc_profile'))
    except UserError:
        raise
    except Exception as error:  # on damaged files decoders raise nearly anything
        raise ImageError.of('image', f'cannot be read ({" ".join(str(error).split())})') from error


def _photo(array: np.ndarray, icc: bytes | None) -> Photo:
    fits = icc and icc[16:20] == (b'GRAY' if array.shape[2] < 3 else b'RGB ')  # a profile of CMYK no longer does
    return Photo(array, icc if fits else None)


def to_pillow(array: np.ndarray, icc: bytes | None = None) -> Image.Image:
    """A Pillow image of a uint8 or uint16 array (H, W, 1 to 4); of 16 bits Pillow has gray only, others become 8."""
    if array.dtype == np.uint16 and array.shape[2] > 1:
        array = TO_8_BITS[array]
    image = Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
    if icc:
        image.info['icc_profile'] = icc
    return image
