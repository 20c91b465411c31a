"""The upscaler: a student on images of any kind, in bands so that large photos need little memory."""
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.degradation import resize
from model.inference import GRID, TILE, in_tiles, super_resolve_parts
from photo.colour import is_flat, is_gray, keep_plain, spread
from photo.luma import in_colour
from photo.network import EDGE
from utility import UserError, arithmetic, place


class Pixels:
    """An array (h, w, C) that acts like a float32 tensor (1, 3, h + 2·EDGE, w + 2·EDGE), converted when sliced.

    The border is replicated. peak: the array value that becomes `rgb_range`. C: 1 (gray) or 3 (RGB).
    """

    def __init__(self, array: np.ndarray, peak: float, rgb_range: float, device: torch.device) -> None:
        self.array, self.peak, self.rgb_range, self.device = array, peak, rgb_range, device
        self.shape = torch.Size((1, 3, array.shape[0] + 2 * EDGE, array.shape[1] + 2 * EDGE))

    def __getitem__(self, index: tuple) -> Tensor:
        rows, columns = (np.arange(*part.indices(side)) for part, side in zip(index[2:], self.shape[2:], strict=True))
        h, w, _ = self.array.shape
        part = self.array[np.ix_((rows - EDGE).clip(0, h - 1), (columns - EDGE).clip(0, w - 1))].astype(np.float32)
        lq = torch.from_numpy(part).permute(2, 0, 1)[None] / self.peak                         # (1, C, h', w')
        return lq.expand(-1, 3, -1, -1).to(self.device) * self.rgb_range

    def rot90(self, k: int, _: tuple[int, int]) -> 'Pixels':
        return Pixels(np.rot90(self.array, k), self.peak, self.rgb_range, self.device)

    def flip(self, _: int) -> 'Pixels':
        return Pixels(np.fliplr(self.array), self.peak, self.rgb_range, self.device)


class Upscaler:
    """A student that upscales `scale` times on `device`, with the data range `rgb_range`.

    rounded, tile, ensemble: see upscale.load; notes: for the user, on what was loaded.
    """

    def __init__(self, student: nn.Module, scale: int, rgb_range: float, device: torch.device,
                 rounded: torch.dtype | None = None, tile: int | None = None, ensemble: bool = False,
                 notes: Iterable[str] = ()) -> None:
        self.student = place(in_colour(student, scale), device, rounded)
        self.scale, self.rgb_range, self.device = scale, rgb_range, device
        self.rounded, self.tile, self.ensemble, self.notes = rounded, tile, ensemble, notes

    def _parts(self, lq: Tensor | Pixels) -> Iterator[tuple[Tensor, slice, slice]]:
        """Parts (B, 3, h', w') of sr, float32 in [0, 1], with their rows and columns, from top to bottom.

        lq: (B, 3, h + 2·EDGE, w + 2·EDGE) with replicated borders, as zero padding would darken corners.
        """
        height, width = (side - 2 * EDGE for side in lq.shape[-2:])
        found = None
        while True:
            with torch.no_grad(), arithmetic(self.device, self.rounded):  # not around the yield
                found = found or super_resolve_parts(self.student, lq, self.scale, self.tile, self.ensemble)
                part, rows, columns = next(found, (None, None, None))
            if part is None:
                return
            own_rows, rows = _inside(rows, EDGE * self.scale, height * self.scale)
            own_columns, columns = _inside(columns, EDGE * self.scale, width * self.scale)
            part = part[:, :, own_rows, own_columns]                                            # (B, 3, h', w')
            if part.numel():
                yield (part.float() / self.rgb_range).clamp_(0, 1), rows, columns

    def tensor(self, lq: Tensor) -> Tensor:
        """Floats (B, 3, h, w) in [0, 1] → (B, 3, sh, sw) on the same device, of the same dtype."""
        *leading, h, w = lq.shape
        sr = lq.new_empty(*leading, h * self.scale, w * self.scale)
        for part, rows, columns in self._parts(
                F.pad(lq.detach().to(self.device, torch.float32) * self.rgb_range, 4 * [EDGE], 'replicate')):
            sr[:, :, rows, columns] = part
        return keep_plain(sr, lq.detach())

    def array(self, image: np.ndarray) -> np.ndarray:
        """(h, w, C) of uint8, uint16 or floats in [0, 1] → (sh, sw, C) of the same dtype: see bands."""
        h, w, c = image.shape
        sr, top = np.empty((h * self.scale, w * self.scale, c), image.dtype), 0
        for band in self.bands(image):
            sr[top:top + len(band)] = band
            top += len(band)
        return sr

    def bands(self, image: np.ndarray, tick: Callable[[int], object] = lambda n: None) -> Iterator[np.ndarray]:
        """The super-resolved image (sh, sw, C) in bands (h', sw, C) from top to bottom.

        image: (h, w, C) of uint8, uint16 or floats in [0, 1]; C = 1 gray, 2 gray + alpha, 3 RGB, 4 RGBA. Gray RGB stays
        gray, and a single colour stays that colour. Alpha is upsampled separately (bicubic); clear pixels get the
        colour of the nearest visible one. tick(n): called after every n pixels of `image`. Raises UserError when out of
        memory or for more than 4 channels.
        """
        _, w, c = image.shape
        if c > 4:
            raise UserError(f'array {image.shape}: too many channels; give (h, w, C), C at most 4 (RGB and alpha)')
        peak = np.iinfo(image.dtype).max if image.dtype.kind == 'u' else 1
        n_colours, scale = 1 if c < 3 else 3, self.scale
        image = spread(image) if c in (2, 4) else image
        gray = n_colours == 1 or is_gray(image[:, :, :3])
        lq = Pixels(image[:, :, :1 if gray else 3], peak, self.rgb_range, self.device)
        band, top = None, 0  # rows of sr being filled, and the index of the first one
        for part, rows, columns in self._flat_parts(lq.array, peak) if is_flat(lq.array) else self._parts(lq):
            if band is None or rows.start >= top + len(band):
                if band is not None:
                    yield band
                    del band  # else it would be in memory beside the next one
                band, top = np.empty((rows.stop - rows.start, w * scale, c), image.dtype), rows.start
                band[:, :, n_colours:] = self._alpha(image[:, :, n_colours:], peak, top // scale, rows.stop // scale)
            part = part.mean(1, keepdim=True) if gray else part
            band[rows.start - top:rows.stop - top, columns, :n_colours] = _stored(part, peak, image.dtype)
            tick((rows.stop - rows.start) * (columns.stop - columns.start) // scale ** 2)
        yield band

    def _flat_parts(self, image: np.ndarray, peak: float) -> Iterator[tuple[Tensor, slice, slice]]:
        """The parts of an image (h, w, C) of a single colour, as of _parts: exactly that colour."""
        h, w, _ = image.shape
        colour = torch.from_numpy(image[0, 0].astype(np.float64) / peak).reshape(1, -1, 1, 1)
        for top in range(0, h, TILE):
            rows = slice(top * self.scale, min(top + TILE, h) * self.scale)
            yield colour.expand(1, 3, rows.stop - rows.start, w * self.scale), rows, slice(0, w * self.scale)

    def _alpha(self, alpha: np.ndarray, peak: float, top: int, bottom: int) -> np.ndarray:
        """Rows top:bottom of `alpha` (h, w, 0 or 1), upsampled: (s·(bottom - top), sw, 0 or 1).

        Bicubic upsampling keeps opaque and clear areas exact, unlike a network. Its radius is 2 pixels.
        """
        above = min(top, GRID)
        values = torch.from_numpy(alpha[top - above:bottom + GRID].astype(np.float32)).permute(2, 0, 1)[None] / peak
        if not values.shape[1]:
            return np.empty((self.scale * (bottom - top), alpha.shape[1] * self.scale, 0), alpha.dtype)
        upsampled = in_tiles(lambda part: resize(part, self.scale, downsample=False).clamp(0, 1), values, self.scale,
                             TILE, GRID)
        return _stored(upsampled[:, :, self.scale * above:self.scale * (above + bottom - top)], peak, alpha.dtype)


def _stored(part: Tensor, peak: float, dtype: np.dtype) -> np.ndarray:
    """(1, C, h, w) in [0, 1] → (h, w, C) of `dtype`, rounded for integers."""
    values = part[0].permute(1, 2, 0).cpu().numpy() * peak
    return (np.rint(values) if dtype.kind == 'u' else values).astype(dtype)


def _inside(place: slice, edge: int, side: int) -> tuple[slice, slice]:
    """The intersection of the slice `place` of an image with a border of `edge` pixels with the image itself, of `side`
    pixels: as a slice of the part at `place`, and of the image."""
    start = max(place.start, edge)
    stop = max(start, min(place.stop, edge + side))
    return slice(start - place.start, stop - place.start), slice(start - edge, stop - edge)
