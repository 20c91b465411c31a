"""Super-resolution by a student: in tiles that share one representation of the whole image, and with self-ensemble, the
mean over the eight flips and rotations."""
from collections import deque
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from model.common import CONVOLUTIONS, DynamicConv
from utility import UserError, out_of_memory

TILE, SMALLEST = 512, 32  # pixels of lq
OVERLAP = 48  # pixels of lq: largest overlap; see overlap()
GRID = 4  # tiles begin at multiples of it, because of the encoders' strides
LARGE = 1_000_000  # pixels of lq above which tiles are automatic

Box = tuple[int, int, int, int]  # top, left, bottom, right in pixels of lq


def each_tile(compute: Callable, lq: Tensor, tile: int | None = None,
              overlap: int = OVERLAP) -> Iterator[tuple[Tensor, tuple[int, int], Box]]:
    """Yields (compute(part), (y, x), box) for every tile of lq (B, C, h, w), from top to bottom and left to right.

    part: the pixels of the tile's box and up to `overlap` more on each side; it begins at (y, x).
    tile: side of a tile in pixels, None for a single tile; when out of memory, the rest is computed in smaller and
    smaller ones. lq: a tensor, or an object with its shape, slicing, rot90 and flip. Raises UserError if memory is too
    small for tiles of SMALLEST pixels.
    """
    h, w = lq.shape[-2:]
    boxes = deque(_split((0, 0, h, w), tile or max(h, w)))
    while boxes:
        top, left, bottom, right = box = boxes[0]
        y, x = max(top - overlap, 0), max(left - overlap, 0)
        try:
            result = compute(lq[:, :, y:bottom + overlap, x:right + overlap])
        except Exception as error:
            if not out_of_memory(error):
                raise
            result = None
        # Here the error is released, and with it the feature maps that its traceback refers to.
        if result is not None:
            boxes.popleft()
            yield result, (y, x), box
            continue
        tile = _halved(tile) if tile else TILE
        while tile >= max(h, w):  # that would be the whole image again
            tile = _halved(tile)
        if tile < SMALLEST:
            raise _shortage(lq, f', even in tiles of {SMALLEST}x{SMALLEST}')
        boxes = deque(sorted(part for box in boxes for part in _split(box, tile)))


def _split(box: Box, tile: int) -> Iterator[Box]:
    top, left, bottom, right = box
    for y in range(top, bottom, tile):
        for x in range(left, right, tile):
            yield y, x, min(y + tile, bottom), min(x + tile, right)


def _halved(tile: int) -> int:
    return tile // (2 * GRID) * GRID


def parts(compute: Callable, lq: Tensor, scale: int, tile: int | None = None,
          overlap: int = OVERLAP) -> Iterator[tuple[Tensor, slice, slice]]:
    """Yields compute(lq) in parts (B, C', h', w'), each with its rows and columns in (B, C', s·h, s·w).

    Tiles and errors: see each_tile. Only one part need be in memory at a time. Together they equal compute(lq) if
    `overlap` covers the receptive field.
    """
    for part, (y, x), (top, left, bottom, right) in each_tile(compute, lq, tile, overlap):
        yield (part[:, :, (top - y) * scale:(bottom - y) * scale, (left - x) * scale:(right - x) * scale],
               slice(top * scale, bottom * scale), slice(left * scale, right * scale))


def joined(pieces: Iterator[tuple[Tensor, slice, slice]], height: int, width: int) -> Tensor:
    """The image (B, C', height, width) assembled from `pieces`, as yielded by parts()."""
    result = None
    for part, rows, columns in pieces:
        if result is None:
            result = part.new_empty(*part.shape[:2], height, width)
        result[:, :, rows, columns] = part
    return result


def in_tiles(compute: Callable, lq: Tensor, scale: int, tile: int | None = None, overlap: int = OVERLAP) -> Tensor:
    """compute(lq), (B, C, h, w) → (B, C', s·h, s·w), in tiles if `tile` is given or when out of memory: see parts."""
    h, w = lq.shape[-2:]
    return joined(parts(compute, lq, scale, tile, overlap), h * scale, w * scale)


def super_resolve(student: nn.Module, lq: Tensor, scale: int, tile: int | None = None,
                  ensemble: bool = False) -> Tensor:
    """The student's sr (B, 3, s·h, s·w) of lq (B, 3, h, w): see super_resolve_parts."""
    h, w = lq.shape[-2:]
    return joined(super_resolve_parts(student, lq, scale, tile, ensemble), h * scale, w * scale)


def super_resolve_parts(student: nn.Module, lq: Tensor, scale: int, tile: int | None = None,
                        ensemble: bool = False) -> Iterator[tuple[Tensor, slice, slice]]:
    """The student's sr of lq (B, 3, h, w), in parts as parts() yields them; in tiles of TILE where lq is large.

    ensemble: the mean over the eight flips and rotations, computed tile by tile. All tiles share one representation of
    the whole image (eight, with `ensemble`). A student without an overlap, such as one with attention, gets the whole
    image even if `tile` is given. Raises UserError when out of memory.
    """
    if tile is None and lq.shape[-2] * lq.shape[-1] > LARGE:
        tile = TILE
    reps = [represent(student.encoder, _turn(lq, k), tile) for k in range(8 if ensemble else 1)]  # (B, R) each

    def compute(part: Tensor) -> Tensor:
        if not ensemble:
            return student.G(part, reps[0])
        turned = iter(reps)
        return self_ensemble(lambda image: student.G(image, next(turned)), part)

    around = overlap(student)
    if around is None:
        h, w = lq.shape[-2:]
        return ((whole(compute, lq), slice(0, h * scale), slice(0, w * scale)) for _ in range(1))
    return parts(compute, lq, scale, tile, around)


def represent(encoder: nn.Module, lq: Tensor, tile: int | None = None) -> Tensor:
    """The representation (B, R) of lq (B, 3, h, w); with `tile` exactly that of the whole image, too.

    An encoder that consists of convolutions and a global mean, `E`, and of `read`, is computed in tiles if `tile` is
    given or when out of memory. Raises UserError if memory is still too small.
    """
    if not hasattr(encoder, 'read'):
        return whole(encoder, lq)[0]
    layers = encoder.E[:-1]
    around, stride = reach(layers)
    total = 0
    for features, (y, x), (top, left, bottom, right) in each_tile(layers, lq, tile and _up(tile, GRID) * GRID,
                                                                  _up(around, GRID) * GRID):
        rows = slice((top - y) // stride, _up(bottom - y, stride))
        columns = slice((left - x) // stride, _up(right - x, stride))
        total = total + features[:, :, rows, columns].float().sum((2, 3)).cpu().double()   # (B, F)
    count = _up(lq.shape[-2], stride) * _up(lq.shape[-1], stride)
    return encoder.read((total / count).to(next(encoder.parameters())))[0]


def _up(n: int, step: int) -> int:
    return -(-n // step)


def overlap(student: nn.Module) -> int | None:
    """The overlap of tiles for the SR network in pixels of lq, None if it needs the whole image.

    That of the student's family; for CONVOLUTIONS the receptive field, at most OVERLAP: pixels further away have no
    visible effect.
    """
    return min(reach(student.G)[0], OVERLAP) if student.overlap == CONVOLUTIONS else student.overlap


def reach(net: nn.Module) -> tuple[int, int]:
    """(radius of the receptive field, stride) of a network, in input pixels.

    Adds up convolutions as a sequence, at the resolution of the input or below.
    """
    around, stride = 0, 1
    for module in net.modules():
        if isinstance(module, DynamicConv):
            around += stride
        elif isinstance(module, nn.Conv2d):
            around += stride * (module.kernel_size[0] // 2)
            stride *= module.stride[0]
    return around, stride


def whole(compute: Callable, lq: Tensor) -> Tensor:
    """compute(lq) of the whole image. Raises UserError when out of memory."""
    try:
        return compute(lq[:, :, :, :])
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise _shortage(lq, ', which the network cannot process in tiles') from error


def _shortage(lq: Tensor, when: str) -> UserError:
    return UserError(f'out of memory on an image of {lq.shape[-1]}x{lq.shape[-2]} pixels{when}; '
                     'free some memory, or crop the image into parts')


def self_ensemble(compute: Callable, *images: Tensor | None) -> Tensor:
    """Mean of compute(*images) over the eight flips and rotations of all `images`, each undone (EDSR, section 3.3)."""
    results = []
    for k in range(8):
        turned = [image if image is None else _turn(image, k) for image in images]
        results.append(_turn_back(compute(*turned), k))
    return torch.stack(results).mean(dim=0)


def _turn(image: Tensor, k: int) -> Tensor:
    if k % 4:
        image = image.rot90(k % 4, (2, 3))
    return image.flip(3) if k >= 4 else image


def _turn_back(image: Tensor, k: int) -> Tensor:
    image = image.flip(3) if k >= 4 else image
    return image.rot90(-(k % 4), (2, 3))
