"""Cut training images from large photos: their most detailed tiles, after a reduction that makes them sharp.

    python tools/cut_tiles.py my_photos --out datasets/Tiles
    python main.py --stage 4 --data_train DF2K+Tiles

Cameras interpolate colours and photos are compressed, so that full-size pixels hold little detail; a reduction removes
both. Of each photo the tiles of largest mean gradient are written, unless too much of them is plain, as OUT/HR/*.png.
Photos of almost the same picture are used once. Look at the result: drawings and logos are not recognised.
"""
import argparse
import sys
from argparse import Namespace
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from data.dataset import listed, watched
from data.images import ImageError, read_rgb, write_rgb
from photo.targets import find_photos
from process.arguments import Parser, count, within
from process.command import command_line
from store.files import digest
from utility import expand, shown

GRADIENT = 6.0   # least mean gradient of a tile, the sum of both directions, of 255 levels
PLAIN = 2.5      # standard deviation of luma below which a block of 8x8 is plain
MOST = 0.35      # largest share of plain blocks of a tile
ALIKE = 5        # most differing bits, of 64, of pictures that are almost the same


class Tile(NamedTuple):
    """A tile of a reduced photo: its mean gradient, and the position of its upper left corner in pixels."""
    gradient: float
    top: int
    left: int


@command_line()
def main(argv: list[str] | None = None) -> int:
    """The command; returns 1 if no tile was written."""
    parser = Parser(prog='tools/cut_tiles.py', description=__doc__,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('photos', nargs='+', metavar='FOLDER', help='folders of photos, with their sub-folders')
    parser.add_argument('--out', type=expand, required=True, help='the new data set: tiles are written into OUT/HR')
    parser.add_argument('--size', type=within(int, 8, 4096), default=480,
                        help='side of a tile, 8 to 4096 pixels (default: 480)')
    parser.add_argument('--reduce', type=within(float, 1, 16), default=1.7,
                        help='least reduction of the photos, 1 to 16 (default: 1.7)')
    parser.add_argument('--longest', type=count, default=1920,
                        help='longest side of a reduced photo, in pixels (default: 1920)')
    parser.add_argument('--per_photo', type=count, default=4, help='most tiles of a photo (default: 4)')
    args = parser.parse_args(argv)
    files = list(dict.fromkeys(file for source in args.photos for file in find_photos(source, 'FOLDER')))
    with ThreadPoolExecutor(4) as pool:
        cut = list(watched(pool.map(lambda file: looked_at(file, args), files), 'looking at photos', len(files)))
    unread = [error for error in cut if isinstance(error, str)]
    chosen = list(different(zip(files, cut, strict=True)))
    written = sum(write(file, tiles, args) for file, tiles in watched(iter(chosen), 'writing tiles', len(chosen)))
    print(f'{shown(args.out)}/HR: {written:,} tiles of {len(chosen):,} of {len(files):,} photos')
    if unread:
        print(f'{len(unread)} photos were left out: {listed(unread)}')
    return int(not written)


def reduced(file: Path, args: Namespace) -> np.ndarray:
    """A photo, uint8 (H, W, 3), reduced by args.reduce or to args.longest, whichever is smaller. Raises ImageError."""
    photo = read_rgb(file)
    factor = max(args.reduce, max(photo.shape[:2]) / args.longest)
    height, width = (round(side / factor) for side in photo.shape[:2])
    return cv2.resize(photo, (max(width, 1), max(height, 1)), interpolation=cv2.INTER_AREA)


def looked_at(file: Path, args: Namespace) -> tuple[np.ndarray, list[Tile]] | str:
    """(64 bits of the picture, its best tiles), or why it cannot be read."""
    try:
        photo = reduced(file, args)
    except ImageError as error:
        return str(error)
    small = cv2.resize(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY), (9, 8), interpolation=cv2.INTER_AREA).astype(int)
    return (small[:, 1:] > small[:, :-1]).ravel(), best_tiles(photo, args.size)[:args.per_photo]


def best_tiles(photo: np.ndarray, size: int) -> list[Tile]:
    """The detailed tiles of a photo (H, W, 3), best first: of a grid of squares in its middle."""
    luma = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY).astype(np.float32)                      # (H, W)
    rows, columns = luma.shape[0] // size, luma.shape[1] // size
    top, left = (luma.shape[0] - rows * size) // 2, (luma.shape[1] - columns * size) // 2
    tiles = []
    for row in range(top, top + rows * size, size):
        for column in range(left, left + columns * size, size):
            tile = luma[row:row + size, column:column + size]                              # (S, S)
            side = size // 8 * 8
            blocks = tile[:side, :side].reshape(side // 8, 8, side // 8, 8).std((1, 3))    # (S/8, S/8)
            gradient = sum(float(np.abs(np.diff(tile, axis=axis)).mean()) for axis in (0, 1))
            if gradient > GRADIENT and (blocks < PLAIN).mean() < MOST:
                tiles.append(Tile(gradient, row, column))
    return sorted(tiles, reverse=True)


def different(photos: Iterator[tuple[Path, tuple[np.ndarray, list[Tile]] | str]]) -> Iterator[tuple[Path, list[Tile]]]:
    """(file, tiles) of the photos that have tiles and are not almost the same as an earlier one."""
    seen = []
    for file, found in photos:
        if not isinstance(found, str) and found[1] and all((found[0] != bits).sum() > ALIKE for bits in seen):
            seen.append(found[0])
            yield file, found[1]


def write(file: Path, tiles: list[Tile], args: Namespace) -> int:
    """Write tiles of a photo, which is read again rather than kept; returns their number. Raises UserError."""
    photo, name = reduced(file, args), f'{file.parent.name}_{file.stem}_{digest(str(file))}'  # of no other photo
    for tile in tiles:
        crop = photo[tile.top:tile.top + args.size, tile.left:tile.left + args.size]
        write_rgb(args.out / 'HR' / f'{name}_{tile.top}_{tile.left}.png', crop)
    return len(tiles)


if __name__ == '__main__':
    sys.exit(main())
