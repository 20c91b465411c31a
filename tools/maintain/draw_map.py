"""Compute the map of known degradations that app.py shows, for shipped weights: zoo/NAME.map.json.

    python tools/maintain/draw_map.py mrda_s_x4_iso
    python tools/maintain/draw_map.py                       # for all of zoo/

Photos that come inside scikit-image are degraded in every way of the grid that tools/map_degradations.py takes by
default, over the ranges that the weights were trained on; the student's representations become principal components.
Then each photo is left out once, to measure how well the map tells its degradation. Run it again for new weights.
"""
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import skimage
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from data.degradation import Pipeline
from data.images import read_rgb
from data.pairs import Degraded
from model import zoo
from model.inference import represent
from option import parse
from photo.degradation_map import DegradationMap, path_of
from photo.upscaler import Pixels, Upscaler
from process.arguments import Parser
from process.command import command_line
from store.files import write_bytes
from tools.map_degradations import blur_and_noise, degradations
from upscale import load
from utility import UserError

PHOTOS = ('astronaut.png', 'chelsea.png', 'coffee.png', 'rocket.jpg', 'camera.png', 'motorcycle_left.png', 'brick.png',
          'grass.png', 'gravel.png', 'retina.jpg', 'hubble_deep_field.jpg', 'ihc.png', 'coins.png')
LARGEST = 480, 640  # height, width: what of a photo is degraded, from its top left
OPTIONS = ('scale', 'blur_type', 'sig_min', 'sig_max', 'lambda_min', 'lambda_max', 'noise', 'mode')
BYTES = 200_000  # that a map may have


@command_line()
def main(argv: list[str] | None = None) -> None:
    """The command."""
    parser = Parser(prog='tools/maintain/draw_map.py', description='Compute maps of degradations for app.py.')
    parser.add_argument('names', nargs='*', metavar='NAME', help='shipped weights (default: all)')
    for name in parser.parse_args(argv).names or zoo.index():
        found = draw(name)
        data = found.text().encode()
        if len(data) > BYTES:
            raise UserError(f'{path_of(name)}: {len(data):,} bytes; {BYTES:,} is the most')
        write_bytes(path_of(name), data)
        print(f'{path_of(name).name}: {len(found.points)} points, {len(data):,} bytes; photos left out: blur off by '
              f'{found.blur_error:.2f} px (guessing: {found.blur_guess:.2f}), noise by {found.noise_error:.1f} '
              f'({found.noise_guess:.1f})')


def draw(name: str) -> DegradationMap:
    """The map of the shipped weights `name`. Raises UserError if there are none."""
    facts = zoo.index().get(name)
    if not facts:
        raise UserError(f'{name}: no shipped weights; {zoo.shipped()}')
    args = parse(['--stage', '4', *(word for option in OPTIONS if option in facts
                                    for word in (f'--{option}', str(facts[option])))])
    grid = degradations(Namespace(sigmas=None, kernels=None, noises=None), args)
    model = load(name)
    rows = np.stack(list(representations(model, grid)))                         # (photos · grid, R)
    numbers = np.array([blur_and_noise(each) for each in grid])                 # (grid, 4)
    numbers = np.tile(numbers, (len(rows) // len(grid), 1))
    found = DegradationMap.fit(rows, numbers[:, :3], numbers[:, 3], facts['sha256'])
    measure(found, rows, np.arange(len(rows)) // len(grid))
    return found


def representations(model: Upscaler, grid: list[Pipeline]) -> Iterator[np.ndarray]:
    """The student's representation (R,) of each photo under each degradation, as upscale.py computes it."""
    pair = Degraded(seed=1)
    for photo in PHOTOS:
        image = read_rgb(Path(skimage.__file__).parent / 'data' / photo)
        h, w = (min(side, most) // model.scale * model.scale
                for side, most in zip(image.shape[:2], LARGEST, strict=True))
        hr = torch.from_numpy(np.ascontiguousarray(image[:h, :w])).permute(2, 0, 1)[None] / 255     # (1, 3, H, W)
        for degradation in grid:
            lq, _ = pair('scikit-image', photo, hr, degradation)                # (1, 3, h, w)
            pixels = (lq[0].permute(1, 2, 0) * 255).round().byte().numpy()
            with torch.no_grad():
                rep = represent(model.student.encoder, Pixels(pixels, 255, model.rgb_range, model.device))  # (1, R)
            yield rep[0].double().cpu().numpy()


def measure(found: DegradationMap, rows: np.ndarray, photos: np.ndarray) -> None:
    """Put into `found` how well maps of rows (n, R) without each of `photos` (n,) tell its degradations."""
    errors = []
    for photo in np.unique(photos):
        known, own = photos != photo, photos == photo
        other = DegradationMap.fit(rows[known], found.blurs[known], found.noises[known], '')
        told = np.array([other.estimate(other.place(row)) for row in rows[own]])
        errors.append(np.abs(told - np.stack([found.sizes[own], found.noises[own]], 1)))
    found.blur_error, found.noise_error = (float(f'{error:.3g}') for error in np.concatenate(errors).mean(0))
    found.blur_guess, found.noise_guess = (float(f'{np.abs(values - np.median(values)).mean():.3g}')
                                           for values in (found.sizes, found.noises))


if __name__ == '__main__':
    sys.exit(main())
