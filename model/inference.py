"""Enlarging with any callable: in tiles, and as the mean over the eight flips and rotations."""
import torch

from utility import UserError, out_of_memory

TILE, SMALLEST, OVERLAP = 256, 32, 24  # pixels of lq
LARGE = 1_000_000  # pixels of lq: above this the student works in tiles without being asked


def tiled(enlarge, lq, scale, tile=TILE, overlap=OVERLAP):
    """enlarge(lq) computed in tiles, for images that do not fit into memory at once.

    lq (B, 3, h, w) → (B, C, s·h, s·w). Each tile is enlarged with `overlap` more pixels around it, which are then cut
    off: the result equals the whole one's as far as `overlap` covers what a pixel depends on.
    """
    _, _, h, w = lq.shape
    rows = []
    for top in range(0, h, tile):
        row = []
        for left in range(0, w, tile):
            y, x = max(top - overlap, 0), max(left - overlap, 0)
            part = enlarge(lq[:, :, y:top + tile + overlap, x:left + tile + overlap])
            bottom, right = min(top + tile, h), min(left + tile, w)
            row.append(part[:, :, (top - y) * scale:(bottom - y) * scale, (left - x) * scale:(right - x) * scale])
        rows.append(torch.cat(row, dim=3))
    return torch.cat(rows, dim=2)


def fitting(enlarge, lq, scale, tile=None):
    """enlarge(lq), in tiles of `tile` pixels if given; where memory runs out, in ever smaller ones.

    lq (B, 3, h, w) → (B, C, s·h, s·w). Raises UserError if memory does not suffice for tiles of SMALLEST pixels.
    """
    height, width = lq.shape[-2:]
    while True:
        try:
            return tiled(enlarge, lq, scale, tile) if tile else enlarge(lq)
        except Exception as error:
            if not out_of_memory(error):
                raise
        # From here on the error is forgotten, and with it the feature maps that its traceback held.
        tile = tile // 2 if tile else TILE
        while tile >= max(height, width):  # would be the whole image again
            tile //= 2
        if tile < SMALLEST:
            raise _shortage(lq, f', even in tiles of {SMALLEST}x{SMALLEST}')


def whole(compute, lq):
    """compute(lq), which must see all of the image. Raises UserError if memory does not suffice."""
    try:
        return compute(lq)
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise _shortage(lq, ', before any tile of it is enlarged') from error


def _shortage(lq, when):
    return UserError(f'memory runs out on an image of {lq.shape[-1]}x{lq.shape[-2]} pixels{when}; '
                     'enlarge it in parts, or where more memory is free')


def self_ensemble(restore, *images):
    """Mean of restore(*images) over the eight flips and rotations of all `images`, each undone (EDSR, section 3.3)."""
    results = []
    for k in range(8):
        turned = [image if image is None else _turn(image, k) for image in images]
        results.append(_turn_back(restore(*turned), k))
    return torch.stack(results).mean(dim=0)


def _turn(image, k):
    image = torch.rot90(image, k % 4, dims=(2, 3))
    return image.flip(3) if k >= 4 else image


def _turn_back(image, k):
    image = image.flip(3) if k >= 4 else image
    return torch.rot90(image, -(k % 4), dims=(2, 3))
