"""Enlarging by a student: in tiles, under one representation of the whole image, and as the mean over the eight flips
and rotations."""
from collections import deque

import torch
from torch import nn

from model.common import DynamicConv
from utility import UserError, out_of_memory

TILE, SMALLEST = 512, 32  # pixels of lq
OVERLAP = 48  # pixels of lq: the most that is computed around a tile; see enlarge
GRID = 4  # tiles begin at multiples of it, as the encoders' strides need
LARGE = 1_000_000  # pixels of lq: above this the student works in tiles without being asked


def each_tile(compute, lq, take, tile=None, overlap=OVERLAP):
    """take(compute(part), (y, x), (top, left, bottom, right)) for every tile of lq (B, C, h, w), in pixels of lq.

    part: the tile top:bottom, left:right and `overlap` more pixels around it where there are any; it begins at (y, x).
    Without `tile`, the side of a tile in pixels, lq is one; where memory runs out, what is left is done in ever smaller
    ones. Raises UserError if memory does not suffice for tiles of SMALLEST pixels.
    """
    h, w = lq.shape[-2:]
    boxes = deque(_split((0, 0, h, w), tile or max(h, w)))
    while boxes:
        top, left, bottom, right = box = boxes[0]
        y, x = max(top - overlap, 0), max(left - overlap, 0)
        try:
            take(compute(lq[:, :, y:bottom + overlap, x:right + overlap]), (y, x), box)
            boxes.popleft()
            continue
        except Exception as error:
            if not out_of_memory(error):
                raise
        # From here on the error is forgotten, and with it the feature maps that its traceback held.
        tile = _halved(tile) if tile else TILE
        while tile >= max(h, w):  # would be the whole image again
            tile = _halved(tile)
        if tile < SMALLEST:
            raise _shortage(lq, f', even in tiles of {SMALLEST}x{SMALLEST}')
        boxes = deque(part for box in boxes for part in _split(box, tile))


def _split(box, tile):
    top, left, bottom, right = box
    for y in range(top, bottom, tile):
        for x in range(left, right, tile):
            yield y, x, min(y + tile, bottom), min(x + tile, right)


def _halved(tile):
    return tile // (2 * GRID) * GRID


def fitting(compute, lq, scale, tile=None, overlap=OVERLAP, keep=None):
    """compute(lq), in tiles if `tile` is given or memory runs out: see each_tile.

    lq (B, C, h, w) → (B, C', s·h, s·w); or None where keep(part, rows, columns) takes each tile of it (B, C', h', w')
    and the slices where it belongs, so that no more than that need ever be in memory. It equals compute(lq) as far as
    `overlap` covers what a pixel depends on. Raises UserError as each_tile does.
    """
    result = None

    def take(part, origin, box):
        nonlocal result
        (y, x), (top, left, bottom, right) = origin, box
        part = part[:, :, (top - y) * scale:(bottom - y) * scale, (left - x) * scale:(right - x) * scale]
        rows, columns = slice(top * scale, bottom * scale), slice(left * scale, right * scale)
        if keep:
            keep(part, rows, columns)
            return
        if result is None:
            h, w = lq.shape[-2:]
            result = part.new_empty(*part.shape[:2], h * scale, w * scale)
        result[:, :, rows, columns] = part

    each_tile(compute, lq, take, tile, overlap)
    return result


def enlarge(student, lq, scale, tile=None, ensemble=False, keep=None):
    """The student's sr of lq (B, 3, h, w), as `fitting` returns or keeps it; in tiles of TILE where lq is large.

    ensemble: the mean over the eight flips and rotations, taken tile by tile. Either way one representation of the
    whole image (eight, with `ensemble`) serves all tiles. Around each, what the SR network can see is computed too, but
    OVERLAP pixels at most: further ones change nothing that could be seen. Raises UserError if memory does not suffice.
    """
    if tile is None and lq.shape[-2] * lq.shape[-1] > LARGE:
        tile = TILE
    reps = [represent(student.encoder, _turn(lq, k), tile) for k in range(8 if ensemble else 1)]  # (B, R) each

    def restore(part):
        if not ensemble:
            return student.G(part, reps[0])
        turned = iter(reps)
        return self_ensemble(lambda image: student.G(image, next(turned)), part)

    return fitting(restore, lq, scale, tile, min(reach(student.G)[0], OVERLAP), keep)


def represent(encoder, lq, tile=None):
    """The representation (B, R) of lq (B, 3, h, w), exactly that of the whole image with `tile` too.

    An encoder that is convolutions `E` under a global mean, and `read` above it, is computed in tiles if `tile` is
    given or memory runs out. Raises UserError if memory does not suffice.
    """
    if not hasattr(encoder, 'read'):
        return whole(encoder, lq)[0]
    layers = encoder.E[:-1]
    around, stride = reach(layers)
    total = 0

    def take(features, origin, box):
        nonlocal total
        (y, x), (top, left, bottom, right) = origin, box
        rows, columns = slice((top - y) // stride, _up(bottom - y, stride)), slice((left - x) // stride,
                                                                                  _up(right - x, stride))
        total = total + features[:, :, rows, columns].float().sum((2, 3)).cpu().double()   # (B, F)

    each_tile(layers, lq, take, tile and _up(tile, GRID) * GRID, _up(around, GRID) * GRID)
    count = _up(lq.shape[-2], stride) * _up(lq.shape[-1], stride)
    return encoder.read((total / count).to(lq))[0]


def _up(n, step):
    return -(-n // step)


def reach(net):
    """(pixels of its input around its own that a pixel of net's output depends on at most, input pixels a step of it).

    Counts convolutions one after the other, at the resolution of the input or below.
    """
    around, stride = 0, 1
    for module in net.modules():
        if isinstance(module, DynamicConv):
            around += stride
        elif isinstance(module, nn.Conv2d):
            around += stride * (module.kernel_size[0] // 2)
            stride *= module.stride[0]
    return around, stride


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
