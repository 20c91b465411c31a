"""Fit the rule by which upscale.py chooses between shipped weights for each photo: zoo/choice.json.

    python tools/maintain/fit_choice.py --data_train DF2K --data_test B100+Set14 --dir_data datasets

Crops of the training images are degraded at random: by blur, often also by noise and JPEG, some by second_order. Both
students upscale them; the rule is a logistic regression for which of them has the higher PSNR, that of the clean
weights reduced by MARGIN, in which images weigh as much as the two differ; odds of SURE choose them. It is then
measured on crops of the test images, by the higher PSNR alone. Run it again for new weights. An interrupted fit starts
anew.
"""
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import minimize
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from data.dataset import find_images
from data.degradation import JPEG, Downsample, IsoGaussian, Noise, Pipeline, Round, second_order
from data.images import read_rgb
from model import zoo
from photo.choice import FILE, SMALLEST, Choice, statistics
from photo.upscaler import Upscaler
from process.arguments import Parser, count
from process.command import command_line
from report.evaluation import to_float
from report.metric import psnr_y
from store.files import write_bytes
from upscale import load
from utility import UserError, shown

CROP = 384  # pixels: side of the HR crops
DECAY = 1e-4  # of the coefficients
MARGIN = 0.2  # dB: artefacts that the clean weights sharpen look worse than their PSNR
SURE = 0.7  # log-odds from which the clean weights are chosen: two to one, for the same reason


@command_line()
def main(argv: list[str] | None = None) -> None:
    """The command."""
    parser = Parser(prog='tools/maintain/fit_choice.py', description=__doc__.split('\n')[0])
    parser.add_argument('--clean', default='mrda_s_x4_iso', help='shipped weights for clean images')
    parser.add_argument('--degraded', default='mrda_s_x4_real', help='for noise and JPEG artefacts')
    parser.add_argument('--dir_data', default='datasets', help='folder of the images')
    parser.add_argument('--data_train', default='DF2K', help='images that the rule is fitted to')
    parser.add_argument('--data_test', default='B100+Set14', help='images that it is measured on')
    parser.add_argument('--samples', type=count, default=1200, help='training crops; tests take a third as many')
    parser.add_argument('--device', default='auto')
    args = parser.parse_args(argv)
    pair = [load(name, args.device) for name in (args.clean, args.degraded)]
    if pair[0].scale != pair[1].scale:
        raise UserError(f'--clean {args.clean} and --degraded {args.degraded} have different scales')
    train, test = (find_images(args.dir_data, names, training) for names, training in
                   ((args.data_train, True), (args.data_test, False)))
    rule = Choice(args.clean, args.degraded, *fit(*crops(train, args.samples, 1, pair)), {})
    rule.measured.update(measure(rule, *crops(test, args.samples // 3, 2, pair)))
    write_bytes(zoo.ZOO / FILE, (json.dumps(asdict(rule), indent=1) + '\n').encode())
    print(*(f'{name}: {value:g}' for name, value in rule.measured.items()), sep='\n')


def crops(files: list[Path], n: int, seed: int, pair: list[Upscaler]) -> tuple[np.ndarray, np.ndarray]:
    """(statistics (n, S), PSNR of both upscalers (n, 2)) of n crops of `files`, degraded at random."""
    rng = np.random.default_rng(seed)
    found = [measured(hr, steps, int(rng.integers(2**31)), pair) for hr, steps in
             tqdm(drawn(files, n, rng, pair[0].scale), total=n, disable=None)]
    return tuple(map(np.array, zip(*found, strict=True)))


def drawn(files: list[Path], n: int, rng: np.random.Generator, scale: int) -> Iterator[tuple[np.ndarray, Pipeline]]:
    """n crops (H, W, 3), each with its degradation. Raises UserError for images too small to have statistics."""
    for _ in range(n):
        path = files[rng.integers(len(files))]
        image = read_rgb(path)
        h, w = (min(side, CROP) // scale * scale for side in image.shape[:2])
        if min(h, w) < SMALLEST * scale:
            raise UserError(f'{shown(path)}: {w}x{h} pixels; give images of at least {SMALLEST * scale} a side')
        top, left = rng.integers(image.shape[0] - h + 1), rng.integers(image.shape[1] - w + 1)
        yield image[top:top + h, left:left + w], degradation(rng, scale)


def degradation(rng: np.random.Generator, scale: int) -> Pipeline:
    """second_order for 15 % of the images; else blur, noise for half of these, and JPEG for two in three."""
    if rng.random() < 0.15:
        return second_order(scale)
    steps = [IsoGaussian(rng.uniform(0.2, 3), 21), Downsample(scale)]
    if rng.random() < 0.5:
        steps.append(Noise(rng.uniform(0, rng.choice([4, 15]))))
    if rng.random() < 0.65:
        steps.append(JPEG(rng.uniform(*((40, 95), (80, 98))[rng.integers(2)])))
    return Pipeline('photo', scale, (*steps, Round()))


def measured(hr: np.ndarray, steps: Pipeline, seed: int, pair: list[Upscaler]) -> tuple[np.ndarray, list[float]]:
    """(statistics (S,) of a degraded crop (H, W, 3), PSNR of both upscalers)."""
    truth = torch.from_numpy(np.ascontiguousarray(hr)).permute(2, 0, 1)[None] / 255             # (1, 3, H, W)
    lq, _ = steps(truth, torch.Generator().manual_seed(seed))                                   # (1, 3, h, w)
    image = (lq[0].permute(1, 2, 0) * 255).round().byte().numpy()                               # (h, w, 3)
    cpu = torch.device('cpu')
    return statistics(image), [psnr_y(to_float(torch.from_numpy(each.array(image)).permute(2, 0, 1)[None], 1, cpu),
                                      truth, each.scale) for each in pair]


def fit(found: np.ndarray, psnr: np.ndarray) -> tuple[list[float], float]:
    """(coefficients (S,), threshold) of the rule, from statistics (n, S) and PSNR (n, 2)."""
    gain = psnr[:, 0] - MARGIN - psnr[:, 1]
    mean, deviation = found.mean(0), found.std(0)
    inputs = np.c_[(found - mean) / deviation, np.ones(len(found))]                             # (n, S + 1)

    def loss(values):
        margin = inputs @ values * np.sign(gain)
        return (np.abs(gain) * np.logaddexp(0, -margin)).mean() + DECAY * (values[:-1]**2).sum()

    *scaled, constant = minimize(loss, np.zeros(inputs.shape[1])).x
    coefficients = np.array(scaled) / deviation
    return [float(f'{each:.4g}') for each in coefficients], float(f'{mean @ coefficients - constant + SURE:.4g}')


def measure(rule: Choice, found: np.ndarray, psnr: np.ndarray) -> dict[str, float]:
    """How often the rule is right, in how many of the images the clean weights are better, and mean PSNR of both, of
    the rule, and of always taking the better one."""
    chosen = np.where(rule.prefers_clean(found), 0, 1)
    best = psnr.argmax(1)
    mean = {'psnr_clean': psnr[:, 0], 'psnr_degraded': psnr[:, 1], 'psnr_rule': psnr[range(len(psnr)), chosen],
            'psnr_better': psnr.max(1)}
    return {'images': len(psnr), 'right': round(float((chosen == best).mean()), 3),
            'clean_better': round(float((best == 0).mean()), 3),
            **{name: round(float(values.mean()), 3) for name, values in mean.items()}}


if __name__ == '__main__':
    sys.exit(main())
