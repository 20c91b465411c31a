"""The output of upscaling: format, size and names of results."""
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from data.images import TO_8_BITS
from photo.image import Photo
from photo.profiles import fitted_profile
from photo.tiff import LARGEST
from photo.writing import SIDES
from utility import UserError

FORMATS = ('png', 'jpg', 'webp', 'tif')
SAME = {'.jpg': '.jpg', '.jpeg': '.jpg', '.jpe': '.jpg', '.jfif': '.jpg', '.webp': '.webp', '.tif': '.tif',
        '.tiff': '.tif'}  # for --format same; PNG for all others


@dataclass(frozen=True)
class Output:
    """Format, size and names of results. scale: of the weights. outscale: the result's size as a factor of the photo's,
    None: scale. width, height: largest sides of the result in pixels, instead of outscale; None: any."""
    scale: int
    form: str = 'png'
    quality: int = 95
    strip: bool = False
    outscale: float | None = None
    width: int | None = None
    height: int | None = None
    overwrite: bool = False

    @property
    def mark(self) -> str:
        """What is appended to the photo's name for its result."""
        if self.width or self.height:
            return f'_{self.width or ""}x{self.height or ""}'
        return f'_x{self.outscale or self.scale:g}'

    def suffix(self, path: Path) -> str:
        """The suffix of the result's name."""
        return SAME.get(path.suffix.lower(), '.png') if self.form == 'same' else f'.{self.form}'

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the result of a photo."""
        if self.width or self.height:
            factor = min(wanted / side for wanted, side in ((self.height, height), (self.width, width)) if wanted)
        else:
            factor = self.outscale or self.scale
        return max(1, round(height * factor)), max(1, round(width * factor))

    def prepare(self, photo: Photo, suffix: str) -> Photo:
        """The photo converted to what its result's format can hold, with notes on what is lost.

        Raises UserError if the result would look different.
        """
        height, width = self.size(*photo.pixels.shape[:2])
        pixels, notes = photo.pixels, list(photo.notes)
        metadata = (photo.metadata.stripped() if self.strip else photo.metadata).resized(width, height)
        if max(height, width) > SIDES.get(suffix, max(height, width)):
            raise UserError(f'a result of {width}x{height} exceeds the {SIDES[suffix]:,} pixels per side of '
                            f'{suffix[1:].upper()}; use --format png, or another size')
        if suffix == '.tif' and height * width * pixels.shape[2] * pixels.itemsize > LARGEST:
            raise UserError(f'a result of {width}x{height} is too large for a TIFF file; use --format png')
        if suffix != '.png' and metadata.encoding:
            raise UserError(f'only PNG can hold the encoding of its colours ({metadata.encoding}); use --format png')
        if suffix == '.jpg' and pixels.shape[2] in (2, 4):
            if int(pixels[:, :, -1].min()) < np.iinfo(pixels.dtype).max:
                raise UserError('JPEG does not support transparency; use --format png, webp or tif')
            pixels = pixels[:, :, :-1]
        if suffix in ('.jpg', '.webp') and pixels.dtype == np.uint16:
            notes.append(f'its 16 bits are rounded to the 8 of {suffix[1:].upper()}')
            pixels = TO_8_BITS[pixels]
        pixels, icc = fitted_profile(pixels, metadata.icc, suffix, notes)
        if icc != metadata.icc:  # the chunks beside the profile no longer apply
            metadata.icc, metadata.colour = icc, []
        return replace(photo, pixels=pixels, metadata=metadata, notes=notes)
