"""Upscale your own photos, images of any kind, with a trained student.

    python upscale.py photos/ -o upscaled/        # --help lists the flags

or from Python: see load() and upscale().
"""
import argparse
import re
import signal
import sys
import warnings
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

if __name__ == '__main__' and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while PyTorch loads prints nothing, as in main.py

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from data.images import SUFFIXES
from model import zoo
from model.inference import SMALLEST
from option import scale
from photo.batch import upscale_files
from photo.choice import Automatic, Choice
from photo.image import MAX_PIXELS, photo_of, read_photo, to_pillow
from photo.output import FORMATS, Output
from photo.targets import left_out, targets
from photo.upscaler import Upscaler
from process.arguments import Parser, checked
from process.command import command_line
from process.extensions import import_files
from store.files import reserve
from utility import PRECISIONS, UserError, choose_device, expand, rounding, shown

SLACK = 1e-3  # floats may exceed [0, 1] by this much; they are clipped
AnyImage = str | Path | Image.Image | np.ndarray | torch.Tensor


def load(weights: str | Path | dict | None = None, device: str | torch.device = 'auto', scale: int | None = None,
         precision: str = 'auto', tile: int | None = None, self_ensemble: bool = False) -> Upscaler | Automatic:
    """A student, ready to upscale.

    weights: a name in zoo/, a plain state dict or a file of one; family, sizes and scale are read from the tensors.
    None: for x4 two students of zoo/, of which each image is upscaled by the one that suits its noise and JPEG
    artefacts; for other scales the first of zoo/. device: auto, cpu, cuda, mps or a torch.device. scale: 2, 3 or 4;
    weights of another scale are an error. precision: single, bf16, half, or auto: bf16 on a CPU with instructions for
    it, else single. tile: side of tiles in LR pixels; None: tiles only above a million pixels. self_ensemble: mean over
    the eight flips and rotations, 8 times slower.
    Raises UserError if the weights or an argument cannot be used.

    >>> model = load()                                          # doctest: +SKIP
    >>> model = load('weights.pt', device='cpu')                # doctest: +SKIP
    """
    if scale not in (None, 2, 3, 4):
        raise UserError(f'scale {scale!r}: give 2, 3, 4 or None')
    if precision not in PRECISIONS:
        raise UserError(f'precision {precision!r}: choose from {", ".join(PRECISIONS)}')
    if tile is not None and not (isinstance(tile, int) and tile >= SMALLEST):
        raise UserError(f'tile {tile!r}: give a whole number of pixels, {SMALLEST} or more, or None')
    choice = Choice.shipped() if weights is None else None
    if choice and choice.degraded == zoo.default(scale):
        return Automatic(choice, {name: load(name, device, scale, precision, tile, self_ensemble)
                                  for name in (choice.clean, choice.degraded)})
    device = device if isinstance(device, torch.device) else choose_device(device)
    student, facts, notes = zoo.load_student(weights, scale)
    rounded = rounding(precision, device)
    if rounded and precision == 'auto':
        notes = [*notes, 'arithmetic in bf16, mostly within a level of 8 bits of --precision single']
    return Upscaler(student, facts['scale'], facts['rgb_range'], device, rounded, tile, self_ensemble, notes)


def upscale(image: AnyImage, model: Upscaler | Automatic | str | Path | dict | None = None) -> AnyImage:
    """`image` of h x w pixels upscaled to s·h x s·w pixels, for weights of scale s; the result has the type of `image`.

    image: a path or a Pillow image → a Pillow image, rotated as its EXIF data says; `info` holds the colour profile,
        EXIF data, XMP and dpi, for save(). Palettes and CMYK become RGB; RGB of 16 bits is rounded to 8 bits, as Pillow
        supports no other.
    a NumPy array (h, w) or (h, w, C), C = 1 gray, 2 gray + alpha, 3 RGB, 4 RGBA, of uint8, uint16 or of floats in
        [0, 1] → an array of the same dtype.
    a tensor (3, h, w) or (B, 3, h, w) of floats in [0, 1] → a tensor on the same device, of the same dtype.
    model: what load() returns, or its `weights`; a name or a file is then loaded once.
    Raises UserError if the image cannot be read or is of another type, or when out of memory.

    >>> upscale('photo.jpg').save('photo_x4.png')               # doctest: +SKIP
    >>> upscale(np.zeros((8, 6, 3), np.uint8)).shape            # doctest: +SKIP
    (32, 24, 3)
    >>> upscale(torch.rand(1, 3, 8, 6), load(device='cpu'))     # doctest: +SKIP
    """
    if not isinstance(model, (Upscaler, Automatic)):
        model = load(model) if isinstance(model, dict) else _loaded(model)
    if isinstance(image, (str, Path, Image.Image)):
        photo = photo_of(image) if isinstance(image, Image.Image) else read_photo(expand(image))
        for note in photo.notes:
            warnings.warn(f'{image}: {note}', stacklevel=2)
        if photo.metadata.encoding:
            warnings.warn(f'{image}: a Pillow image cannot hold the encoding of its colours, '
                          f'{photo.metadata.encoding}; use the command line to keep it', stacklevel=2)
        large = model.array(photo.pixels)
        return to_pillow(large, photo.metadata.resized(large.shape[1], large.shape[0]))
    if isinstance(image, np.ndarray):
        if image.ndim not in (2, 3) or 0 in image.shape or not (
                image.dtype in (np.uint8, np.uint16) or np.issubdtype(image.dtype, np.floating)):
            raise UserError(f'array {image.shape} of {image.dtype}: give (h, w) or (h, w, C) of uint8, uint16, or '
                            'floats in [0, 1]')
        _check_range(image, 'array')
        large = model.array(np.atleast_3d(image))
        return large[:, :, 0] if image.ndim == 2 else large
    if isinstance(image, torch.Tensor):
        if image.ndim not in (3, 4) or image.shape[-3] != 3 or 0 in image.shape or not image.is_floating_point():
            raise UserError(f'tensor {tuple(image.shape)} of {image.dtype}: give (3, h, w) or (B, 3, h, w) of floats '
                            'in [0, 1]')
        _check_range(image, 'tensor')
        return model.tensor(image) if image.ndim == 4 else model.tensor(image[None])[0]
    raise UserError(f'{type(image).__name__}: give a path, a Pillow image, a NumPy array or a tensor')


def _check_range(values: np.ndarray | torch.Tensor, what: str) -> None:
    """Raises UserError if values are floats outside [0, 1] by more than SLACK."""
    if 'float' in str(values.dtype) and not (values.min() >= -SLACK and values.max() <= 1 + SLACK):  # NaN too
        raise UserError(f'{what} with values from {float(values.min()):g} to {float(values.max()):g}: floats must lie '
                        'in [0, 1]; divide by 255 or clip')


@lru_cache(maxsize=1)
def _loaded(weights: str | Path | None) -> Upscaler | Automatic:
    return load(weights)


def build_parser() -> Parser:
    percent = checked(int, lambda n: 1 <= n <= 100, 'a whole number from 1 to 100')
    parser = Parser(prog='upscale.py', usage='python upscale.py PHOTO ... [-o FOLDER] [flags]', allow_abbrev=False,
                    description='Upscale photos.')
    parser.add_version()
    parser.add_argument('photos', nargs='+', help='files, folders with their sub-folders, or quoted globs')
    result = parser.add_argument_group('results')
    result.add_argument('-o', '--out', default='upscaled', metavar='FOLDER',
                        help='folder of the results, <name>_x<scale>.png (default: upscaled/)')
    result.add_argument('--outscale', type=checked(float, lambda f: 0.1 <= f <= 16, 'a number from 0.1 to 16'),
                        metavar='F', help="size of results as a factor of the photo's, 0.1 to 16: upscaled by the "
                                          'weights, then resampled (Lanczos)')
    result.add_argument('--size', type=_size, metavar='WxH',
                        help='size of results in pixels: 3840x2160: the largest that fits; 3840x, x2160: one side')
    result.add_argument('--format', choices=(*FORMATS, 'same'), default='png',
                        help="format of results; same: the photo's, else png (default: png)")
    result.add_argument('--quality', type=percent, default=95, metavar='N',
                        help='quality of jpg and webp, 1 to 100 (default: 95)')
    result.add_argument('--strip', action='store_true', help='drop metadata (EXIF, XMP, dpi, text) except profiles')
    result.add_argument('--overwrite', action='store_true', help='replace existing results')
    network = parser.add_argument_group('network')
    network.add_argument('--weights', metavar='NAME_OR_FILE',
                         help='shipped weights, or a file of your own (default for x4: chosen for each photo)')
    network.add_argument('--scale', type=scale, metavar='N', help='2, 3 or 4: use shipped weights of this scale')
    network.add_argument('--extension', metavar='FILE', type=import_files,
                         help='Python file to import first; it adds the network family of your weights')
    network.add_argument('--self_ensemble', '--self-ensemble', action='store_true',
                         help='mean over the 8 flips and rotations; 8 times slower')
    computing = parser.add_argument_group('device and memory')
    computing.add_argument('--device', choices=('auto', 'cpu', 'cuda', 'mps'), default='auto',
                           help='auto: CUDA, else MPS, else CPU (default: auto)')
    computing.add_argument('--precision', choices=PRECISIONS, default='auto',
                           help='arithmetic: single (float32), bf16, half, or auto: bf16 on a CPU with instructions '
                                'for it, else single (default: auto)')
    computing.add_argument('--tile', metavar='N', type=checked(int, lambda n: n >= SMALLEST, f'{SMALLEST} or more'),
                           help='side of tiles, LR pixels (default: only above a million pixels or when out of memory)')
    computing.add_argument('--max_pixels', metavar='N', default=MAX_PIXELS,
                           type=checked(float, lambda n: 1 <= n < 1e12, 'a number of pixels'),
                           help=f'size limit of a photo, in pixels (default: {MAX_PIXELS:,})')
    return parser


def _size(text: str) -> tuple[int | None, int | None]:
    """(width, height) of --size; None for a side that is free."""
    found = re.fullmatch(r'(\d{0,6})x(\d{0,6})', text.strip().lower())
    sides = [int(side) if side else None for side in found.groups()] if found else [None, None]
    if not any(sides) or 0 in sides:
        raise argparse.ArgumentTypeError(f'{text!r} is not a size such as 3840x2160, 3840x or x2160')
    return tuple(sides)


@command_line()
def main(argv: Sequence[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    folder = expand(args.out)
    if folder.is_file() or folder.suffix.lower() in SUFFIXES:
        raise UserError(f'--out {shown(folder)}: not a folder; give a folder, results are named after their photos')
    if args.outscale and args.size:
        raise UserError('--outscale and --size contradict each other; give one of them')
    model = load(args.weights, args.device, args.scale, args.precision, args.tile, args.self_ensemble)
    output = Output(model.scale, args.format, args.quality, args.strip, args.outscale, *(args.size or ()),
                    overwrite=args.overwrite)
    photos = targets(args.photos, folder, output)
    reserve(folder, 'results')
    for note in model.notes:
        print(note)
    upscale_files(model, photos, output, tqdm.write, int(args.max_pixels), left_out(args.photos))


if __name__ == '__main__':
    sys.exit(main())
