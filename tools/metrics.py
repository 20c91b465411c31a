"""Scores between two folders of images, by the definitions that this project tests with.

    python tools/metrics.py restored/ ground_truth/ --border 4 --metrics psnr_y,ssim_y,psnr_rgb

Files pair up by name without suffix; in the first folder `_x<scale>` or `_SR` may follow it.
"""
import argparse
import re
import sys
from pathlib import Path
from statistics import fmean

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from data.images import read_rgb
from option import Parser, whole
from photo.targets import find_photos
from report.metric import DEFAULT, METRICS, WINDOW, definitions, logged, metric_names, prepare, scores, title
from utility import UserError, command_line, expanded, shown


def pairs(restored, truth):
    """[(name, restored file, ground-truth file)]. Raises UserError with the names that have no partner, or several."""
    truths, found, lonely = _named((path.stem, path) for path in find_photos(truth, 'the second folder')), [], []
    for path in find_photos(restored, 'the first folder'):
        name = next((stem for stem in (path.stem, re.sub(r'_(x\d|SR)$', '', path.stem)) if stem in truths), None)
        found.append((name, path, truths[name])) if name else lonely.append(path.name)
    lonely += sorted(truths.keys() - {name for name, *_ in found})
    _named((name, path) for name, path, _ in found)
    if lonely:
        raise UserError(f'no partner in the other folder for {", ".join(map(shown, lonely[:10]))}'
                        + (f' and {len(lonely) - 10} more' if len(lonely) > 10 else ''))
    return found


def _named(files):
    """{name: file} of pairs of these. Raises UserError if two files have one name."""
    found = {}
    for name, path in files:
        if found.setdefault(name, path) != path:
            raise UserError(f'{shown(found[name])} and {shown(path)} are both of the image {shown(name)}; '
                            'leave one of them out')
    return found


def score(restored: Path, truth: Path, border: int, metrics: list[str]) -> dict[str, float]:
    """{metric: value} of two image files; the ground truth is cropped to the super-resolved image where it is larger.

    Raises UserError if their sizes do not fit, or --border leaves too few pixels.
    """
    sr, hr = (torch.from_numpy(read_rgb(path)).permute(2, 0, 1)[None] / 255 for path in (restored, truth))
    height, width = sr.shape[-2:]
    if not all(0 <= large - small < 4 for small, large in zip(sr.shape[-2:], hr.shape[-2:], strict=True)):
        raise UserError(f'{shown(restored)} is {width}x{height} pixels and {shown(truth)} '
                        f'{hr.shape[-1]}x{hr.shape[-2]}; the ground truth may be at most 3 pixels larger, which are '
                        'cut off at the right and below')
    if min(height, width) < 2 * border + WINDOW:
        raise UserError(f'{shown(restored)} is {width}x{height} pixels: --border {border} leaves too few for the '
                        f'{WINDOW}x{WINDOW} window of SSIM; give a lower one')
    return scores(metrics, sr, hr[..., :height, :width], border)


@command_line()
def main(argv=None):
    parser = Parser(prog='tools/metrics.py', description=__doc__,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('restored', type=expanded)
    parser.add_argument('ground_truth', type=expanded)
    parser.add_argument('--border', type=whole, default=4, help='pixels cut off at every side: the scale (default 4)')
    parser.add_argument('--metrics', type=metric_names, default=','.join(DEFAULT),
                        help=f'joined by commas: {", ".join(METRICS)} (default: the first two)')
    args = parser.parse_args(argv)
    names = args.metrics.split(',')
    prepare(names)
    found = [(shown(name), score(sr, hr, args.border, names))
             for name, sr, hr in pairs(args.restored, args.ground_truth)]
    found.append(('mean', {name: fmean(values[name] for _, values in found) for name in names}))
    width = max(len(name) for name, _ in found)
    print(f'{"image":{width}} ' + ' '.join(f'{title(name):>8}' for name in names))
    for image, values in found:
        print(f'{image:{width}} ' + ' '.join(f'{logged(name, value):>8}' for name, value in values.items()))
    print(f'Protocol: {definitions(names)}, of 8-bit images, {args.border} border pixels shaved')


if __name__ == '__main__':
    sys.exit(main())
