"""One's own photos, enlarged by a student: no ground truth, no data-set layout, any kind of image.

    python upscale.py photos/ -o enlarged/        # --help lists the flags

or from Python: see load() and upscale().
"""
import signal
import sys
from collections import Counter
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

if __name__ == '__main__' and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while PyTorch loads ends without a word, as in main.py

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from tqdm import tqdm

from data.degradation import resize
from data.images import SUFFIXES, Photo, photo_of, read_photo, read_size, to_pillow, write_photo
from model import zoo
from model.inference import GRID, SMALLEST, TILE, enlarge, fitting
from option import Parser, checked, scale
from photo.targets import targets
from store.files import reserve
from utility import ROUNDED, UserError, arithmetic, choose_device, command_line, expand, place, shown

EDGE = 4  # pixels: with as many around it, plain white stays white up to the corners


def load(weights=None, device='auto', scale=None, precision='single', tile=None, self_ensemble=False):
    """A student that is ready to enlarge, an Enlarger.

    weights: a name in zoo/, a file of a plain state dict, or None for the default of zoo/; a file's family, size and
    scale are seen from its tensors. device: auto, cpu, cuda, mps or a torch.device. scale: refuse weights of another.
    precision: single, bf16 or half. tile: side of tiles in pixels of the small image; None leaves images up to a
    million pixels whole. self_ensemble: mean over the eight flips and rotations, 8 times slower.
    Raises UserError.

    >>> model = load()                                          # doctest: +SKIP
    >>> model = load('weights.pt', device='cpu')                # doctest: +SKIP
    """
    if scale not in (None, 2, 3, 4):
        raise UserError(f'scale {scale!r}: 2, 3, 4 or None is needed')
    if precision not in ROUNDED:
        raise UserError(f'precision {precision!r}: one of {", ".join(ROUNDED)} is needed')
    if tile is not None and not (isinstance(tile, int) and tile >= SMALLEST):
        raise UserError(f'tile {tile!r}: a whole number of pixels, {SMALLEST} or more, or None is needed')
    device = device if isinstance(device, torch.device) else choose_device(device)
    student, facts, notes = zoo.load_student(weights, scale)
    return Enlarger(student, facts['scale'], facts['rgb_range'], device, ROUNDED[precision], tile, self_ensemble, notes)


def upscale(image, model=None):
    """`image` enlarged, as the same kind: of h x w pixels, a result of s·h x s·w for weights of scale s.

    image: a path or a Pillow image → a Pillow image; colour profile kept, turned as its EXIF data says. Palettes become
        RGB, and so does CMYK; RGB of 16 bits is rounded to 8, which is all that Pillow has.
    a NumPy array (h, w) or (h, w, C), C = 1 gray, 2 gray + alpha, 3 RGB, 4 RGBA, of uint8, uint16 or of floats in
        [0, 1] → an array of the same dtype.
    a tensor (3, h, w) or (B, 3, h, w) of floats in [0, 1] → a tensor on the same device, of the same dtype.
    model: what load() returns, or its `weights`; these are then loaded once.
    Raises UserError if the image cannot be read, is of none of these kinds, or memory does not suffice.

    >>> upscale('photo.jpg').save('photo_x4.png')               # doctest: +SKIP
    >>> upscale(np.zeros((8, 6, 3), np.uint8)).shape            # doctest: +SKIP
    (32, 24, 3)
    >>> upscale(torch.rand(1, 3, 8, 6), load(device='cpu'))     # doctest: +SKIP
    """
    if not isinstance(model, Enlarger):
        model = _loaded(model)
    if isinstance(image, (str, Path, Image.Image)):
        photo = model.photo(photo_of(image) if isinstance(image, Image.Image) else read_photo(expand(image)))
        return to_pillow(photo.pixels, photo.icc)
    if isinstance(image, np.ndarray):
        if image.ndim not in (2, 3) or 0 in image.shape or not (
                image.dtype in (np.uint8, np.uint16) or np.issubdtype(image.dtype, np.floating)):
            raise UserError(f'array {image.shape} of {image.dtype}: (h, w) or (h, w, C) of uint8, uint16 or floats in '
                            '[0, 1] is needed')
        large = model.array(np.atleast_3d(image))
        return large[:, :, 0] if image.ndim == 2 else large
    if isinstance(image, torch.Tensor):
        if image.ndim not in (3, 4) or image.shape[-3] != 3 or 0 in image.shape or not image.is_floating_point():
            raise UserError(f'tensor {tuple(image.shape)} of {image.dtype}: (3, h, w) or (B, 3, h, w) of floats in '
                            '[0, 1] is needed')
        return model.tensor(image) if image.ndim == 4 else model.tensor(image[None])[0]
    raise UserError(f'{type(image).__name__}: a path, a Pillow image, a NumPy array or a tensor is needed')


@lru_cache(maxsize=1)
def _loaded(weights):
    return load(weights)


class Enlarger:
    """A student that enlarges `scale` times on `device`, with white being `rgb_range` inside it.

    rounded, tile, ensemble: see load(); notes: what was loaded, in words.
    """

    def __init__(self, student, scale, rgb_range, device, rounded=None, tile=None, ensemble=False, notes=()):
        self.student = place(student, device, rounded)
        self.scale, self.rgb_range, self.device = scale, rgb_range, device
        self.rounded, self.tile, self.ensemble, self.notes = rounded, tile, ensemble, notes

    @torch.no_grad()
    def _parts(self, lq, keep):
        """lq (B, 3, h, w) in [0, 1]; keep(part, rows, columns) gets sr in parts (B, 3, h', w'), float32 in [0, 1].

        The border is repeated EDGE pixels outwards for it: what convolutions see beyond, zeros, would darken corners.
        """
        height, width = lq.shape[-2:]

        def keep_inside(part, rows, columns):
            own_rows, rows = _inside(rows, EDGE * self.scale, height * self.scale)
            own_columns, columns = _inside(columns, EDGE * self.scale, width * self.scale)
            part = part[:, :, own_rows, own_columns]                                            # (B, 3, h', w')
            if part.numel():
                keep((part.float() / self.rgb_range).clamp_(0, 1), rows, columns)
        with arithmetic(self.device, self.rounded):
            lq = F.pad(lq.to(self.device, torch.float32) * self.rgb_range, 4 * [EDGE], 'replicate')
            enlarge(self.student, lq, self.scale, self.tile, self.ensemble, keep_inside)

    def tensor(self, lq):
        """Floats (B, 3, h, w) in [0, 1] → (B, 3, sh, sw) on the same device, of the same dtype."""
        *leading, h, w = lq.shape
        sr = lq.new_empty(*leading, h * self.scale, w * self.scale)

        def keep(part, rows, columns):
            sr[:, :, rows, columns] = part
        self._parts(lq, keep)
        return sr

    def array(self, image, tick=None):
        """(h, w, C) of uint8, uint16 or floats in [0, 1] → (sh, sw, C) of the same dtype; C = 1 gray, 2 gray + alpha,
        3 RGB, 4 RGBA. tick(n): called for every n pixels of `image` that are done."""
        h, w, c = image.shape
        if c > 4:
            raise UserError(f'array {image.shape}: at most 4 channels are needed, RGB and alpha, and they come last')
        white = np.iinfo(image.dtype).max if image.dtype.kind == 'u' else 1
        n_colours = 1 if c < 3 else 3
        # Only this array grows with the enlarged image: parts are put into it as soon as they are made.
        large = np.empty((h * self.scale, w * self.scale, c), image.dtype)

        def put(part, rows, columns, channels):
            values = part[0].permute(1, 2, 0).cpu().numpy() * white                             # (h', w', c')
            large[rows, columns, channels] = np.rint(values) if image.dtype.kind == 'u' else values

        def keep(part, rows, columns):
            put(part.mean(1, keepdim=True) if n_colours == 1 else part, rows, columns, slice(n_colours))
            if tick:
                tick((rows.stop - rows.start) * (columns.stop - columns.start) // self.scale ** 2)

        values = torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)[None] / white      # (1, C, h, w)
        self._parts(values[:, :n_colours].expand(-1, 3, -1, -1), keep)
        if c > n_colours:
            # Bicubic keeps opaque and clear areas exactly so, which no network does. It sees 2 pixels around.
            fitting(lambda part: resize(part, self.scale, shrink=False).clamp(0, 1), values[:, n_colours:], self.scale,
                    TILE, GRID, lambda part, *where: put(part, *where, slice(n_colours, c)))
        return large

    def photo(self, photo, tick=None):
        """A Photo, enlarged: its transparency separately, gray as gray, depth and colour profile kept."""
        return Photo(self.array(photo.pixels, tick), photo.icc)

    def targets(self, sources, folder, role=''):
        """{photo: its result}: see data.photos.targets."""
        return targets(sources, folder, self.scale, role)

    def files(self, photos, overwrite, log):
        """Enlarge photos, {file: its result} as targets() makes them, showing what is done and the time left.

        A file that cannot be read, or whose result is there already, is skipped. Raises UserError with the list of
        these at the end.
        """
        failed, sizes = [], Counter()
        for path in photos:
            with suppress(UserError):  # is told when its turn comes
                height, width = read_size(path)
                sizes[path] = height * width
        with tqdm(total=sizes.total(), unit='pixel', unit_scale=True, disable=None) as bar:
            for path, target in photos.items():
                bar.set_description(shown(path.name))
                begun = bar.n
                try:
                    if _exists(target) and not overwrite:
                        raise UserError(f'{shown(target)}: exists already; --overwrite replaces it')
                    height, width = self._file(path, target, bar.update)
                except UserError as error:
                    bar.update(begun + sizes[path] - bar.n)
                    failed.append(str(error))
                    continue
                log(f'{shown(path)} ({width}x{height}) -> {shown(target)} ({width * self.scale}x{height * self.scale})')
        if failed:
            raise UserError(f'{len(failed)} of {len(photos)} photos were not enlarged: ' + '; '.join(failed))

    def _file(self, path, target, tick):
        """(height, width) of the photo `path`, whose result is now in `target`. Raises UserError that names a file."""
        photo = read_photo(path)
        try:
            large = self.photo(photo, tick)
        except (UserError, MemoryError) as error:  # that memory runs out: only here is it known on what file
            raise UserError(f'{shown(path)}: {error}') from error
        try:
            write_photo(target, large)
        except MemoryError as error:
            raise UserError(f'{shown(path)}: memory does not suffice to write its result') from error
        return photo.pixels.shape[:2]


def _inside(place, edge, side):
    """What of the slice `place` lies inside an image of `side` pixels, of which it counts `edge` more on either end: as
    a slice of the part at `place`, and of the image."""
    start = max(place.start, edge)
    stop = max(start, min(place.stop, edge + side))
    return slice(start - place.start, stop - place.start), slice(start - edge, stop - edge)


def _exists(target):
    try:
        return target.exists()
    except OSError as error:  # a name too long, a folder that must not be looked into
        raise UserError(f'{shown(target)}: {error.strerror}; rename the photo or choose another place') from error


def build_parser():
    parser = Parser(prog='upscale.py', description='Enlarge photos.', allow_abbrev=False)
    parser.add_argument('photos', nargs='+', help='files, folders with their sub-folders, or quoted globs')
    parser.add_argument('-o', '--out', default='enlarged', metavar='FOLDER',
                        help='where results go, as <name>_x<scale>.png (default: enlarged/)')
    parser.add_argument('--weights', metavar='NAME_OR_FILE', help='shipped weights, or a file of your own')
    parser.add_argument('--scale', type=scale, help='2, 3 or 4: take shipped weights of this scale')
    parser.add_argument('--tile', metavar='N', type=checked(int, lambda n: n >= SMALLEST, f'{SMALLEST} or more'),
                        help='work in tiles of N small pixels (default: only above a million pixels, or where memory '
                             'runs out)')
    parser.add_argument('--self_ensemble', '--self-ensemble', action='store_true',
                        help='mean over the 8 flips and rotations; 8 times slower')
    parser.add_argument('--device', choices=('auto', 'cpu', 'cuda', 'mps'), default='auto')
    parser.add_argument('--precision', choices=tuple(ROUNDED), default='single', help='arithmetic: 32-bit, or rounded')
    parser.add_argument('--overwrite', action='store_true', help='replace results that are there already')
    return parser


@command_line()
def main(argv=None):
    args = build_parser().parse_args(argv)
    folder = expand(args.out)
    if folder.is_file() or folder.suffix.lower() in SUFFIXES:
        raise UserError(f'--out {shown(folder)}: a folder is needed; results are named after their photos')
    model = load(args.weights, args.device, args.scale, args.precision, args.tile, args.self_ensemble)
    photos = model.targets(args.photos, folder)
    reserve(folder, 'enlarged photos')
    for note in model.notes:
        print(note)
    model.files(photos, args.overwrite, tqdm.write)


if __name__ == '__main__':
    sys.exit(main())
