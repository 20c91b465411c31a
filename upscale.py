"""Upscale your own photos by a student: no ground truth, no data-set layout, any kind of image.

    python upscale.py photos/ -o enlarged/        # --help lists the flags

or from Python: see load() and upscale().
"""
import signal
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

if __name__ == '__main__' and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while PyTorch loads ends without a word, as in main.py

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from data.images import SUFFIXES
from model import zoo
from model.inference import SMALLEST
from option import Parser, checked, scale
from photo.batch import upscale_files
from photo.image import photo_of, read_photo, to_pillow
from photo.targets import targets
from photo.upscaler import Upscaler
from store.files import reserve
from utility import ROUNDED, UserError, choose_device, command_line, expand, import_files, shown

AnyImage = str | Path | Image.Image | np.ndarray | torch.Tensor


def load(weights: str | Path | None = None, device: str | torch.device = 'auto', scale: int | None = None,
         precision: str = 'single', tile: int | None = None, self_ensemble: bool = False) -> Upscaler:
    """A student that is ready to upscale.

    weights: a name in zoo/, a file of a plain state dict, or None for the default of zoo/; a file's family, size and
    scale are seen from its tensors. device: auto, cpu, cuda, mps or a torch.device. scale: refuse weights of another.
    precision: single, bf16 or half. tile: side of tiles in pixels of the LR image; None leaves images up to a
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
    return Upscaler(student, facts['scale'], facts['rgb_range'], device, ROUNDED[precision], tile, self_ensemble, notes)


def upscale(image: AnyImage, model: Upscaler | str | Path | None = None) -> AnyImage:
    """`image` super-resolved, as the same kind: of h x w pixels, a result of s·h x s·w for weights of scale s.

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
    if not isinstance(model, Upscaler):
        model = _loaded(model)
    if isinstance(image, (str, Path, Image.Image)):
        photo = photo_of(image) if isinstance(image, Image.Image) else read_photo(expand(image))
        return to_pillow(model.array(photo.pixels), photo.icc)
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
def _loaded(weights: str | Path | None) -> Upscaler:
    return load(weights)


def build_parser() -> Parser:
    parser = Parser(prog='upscale.py', description='Upscale photos.', allow_abbrev=False)
    parser.add_argument('photos', nargs='+', help='files, folders with their sub-folders, or quoted globs')
    parser.add_argument('-o', '--out', default='enlarged', metavar='FOLDER',
                        help='where results go, as <name>_x<scale>.png (default: enlarged/)')
    parser.add_argument('--weights', metavar='NAME_OR_FILE', help='shipped weights, or a file of your own')
    parser.add_argument('--extension', metavar='FILE', type=import_files,
                        help='Python file to import first, which adds the family of your weights')
    parser.add_argument('--scale', type=scale, help='2, 3 or 4: take shipped weights of this scale')
    parser.add_argument('--tile', metavar='N', type=checked(int, lambda n: n >= SMALLEST, f'{SMALLEST} or more'),
                        help='work in tiles of N LR pixels (default: only above a million pixels, or where memory '
                             'runs out)')
    parser.add_argument('--self_ensemble', '--self-ensemble', action='store_true',
                        help='mean over the 8 flips and rotations; 8 times slower')
    parser.add_argument('--device', choices=('auto', 'cpu', 'cuda', 'mps'), default='auto')
    parser.add_argument('--precision', choices=tuple(ROUNDED), default='single',
                        help='arithmetic: single (float32), bf16 or half (default: single)')
    parser.add_argument('--overwrite', action='store_true', help='replace results that are there already')
    return parser


@command_line()
def main(argv: Sequence[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    folder = expand(args.out)
    if folder.is_file() or folder.suffix.lower() in SUFFIXES:
        raise UserError(f'--out {shown(folder)}: a folder is needed; results are named after their photos')
    model = load(args.weights, args.device, args.scale, args.precision, args.tile, args.self_ensemble)
    photos = targets(args.photos, folder, model.scale)
    reserve(folder, 'results')
    for note in model.notes:
        print(note)
    upscale_files(model, photos, args.overwrite, tqdm.write)


if __name__ == '__main__':
    sys.exit(main())
