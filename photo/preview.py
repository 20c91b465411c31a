"""Pictures for the screen: of a photo, and of a result while it is made."""
import numpy as np
from PIL import Image

from data.images import TO_8_BITS
from photo.image import Photo, to_pillow
from photo.metadata import Metadata

SIDE = 4096  # pixels: the longest side of a preview
THUMBNAIL = 1024  # the same of a photo alone


class Preview:
    """The result of a photo of height x width pixels, upscaled `scale` times, that comes in bands: reduced by the least
    whole factor that leaves no side above SIDE; at the right and the bottom less than that factor is cut."""

    def __init__(self, height: int, width: int, scale: int) -> None:
        self.factor = -(-max(height, width) * scale // SIDE)
        self.scale, self._rows, self._rest = scale, [], None

    def add(self, band: np.ndarray) -> None:
        """Take the next rows (h', width, C) of uint8 or uint16."""
        k = self.factor
        if k > 1:
            band = band if self._rest is None else np.concatenate([self._rest, band])
            whole, width = len(band) // k * k, band.shape[1] // k * k
            self._rest = band[whole:].copy()
            cells = band[:whole, :width].reshape(whole // k, k, width // k, k, -1)
            band = np.rint(cells.mean((1, 3), dtype=np.float32)).astype(band.dtype)
        self._rows.append(band)

    def pair(self, photo: Photo, height: int, width: int) -> tuple[Image.Image, Image.Image]:
        """(the photo upsampled, bicubic; the result) as images of one size, no larger than the result's height and
        width. photo: as Output.prepare returns it."""
        after = screen_image(np.concatenate(self._rows), photo.metadata)
        share = self.factor / self.scale
        box = 0, 0, after.width * share, after.height * share  # what of the photo is seen
        if after.width > width:
            after = after.resize((width, height), Image.Resampling.LANCZOS)
        before = screen_image(photo.pixels, photo.metadata).resize(after.size, Image.Resampling.BICUBIC, box)
        return before, after


def screen_image(pixels: np.ndarray, metadata: Metadata) -> Image.Image:
    """(h, w, C) of uint8 or uint16 as a gray or RGB image in 8 bits, transparency on white, with its colour profile."""
    image = to_pillow(TO_8_BITS[pixels] if pixels.dtype == np.uint16 else pixels, Metadata(metadata.icc))
    if image.mode in ('LA', 'RGBA'):
        white = Image.new('RGBA', image.size, 'white')
        flat = Image.alpha_composite(white, image.convert('RGBA')).convert('L' if image.mode == 'LA' else 'RGB')
        flat.info = image.info
        return flat
    return image


def thumbnail(photo: Photo, side: int = THUMBNAIL) -> Image.Image:
    """The photo alone, no side above `side` pixels."""
    image = screen_image(photo.pixels, photo.metadata)
    image.thumbnail((side, side))
    return image
