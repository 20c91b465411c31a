"""Pictures that compare methods: the ground truth, and a zoomed crop of each method with its scores.

    python tools/compare.py --methods bicubic=lr_up/ ours=experiment/RUN/results/SET --truth HR/ --out panels/

A PNG and a PDF file for each image. The crop is where the methods differ most, unless --crop says where. Files pair up
by name without suffix; `_x<scale>` or `_SR` may follow a method's. Scores are of the whole image.
"""
import argparse
import re
import sys
from argparse import Namespace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from metrics import pairs, score

from data.images import read_rgb
from option import Parser, count, whole
from report.metric import DEFAULT, METRICS, metric_names, prepare, title, written
from report.plots import draw_zooms, telling_crop
from utility import UserError, command_line, expand, expanded, shown


def method(text: str) -> tuple[str, str]:
    """'name=folder' → (name, folder)."""
    name, equals, folder = text.partition('=')
    if not (name and equals and folder):
        raise argparse.ArgumentTypeError(f'{text!r} is not of the form name=folder')
    return name, expanded(folder)


def crop(text: str) -> tuple[int, int, int]:
    """'top,left,side' → three whole numbers."""
    match = re.fullmatch(r'(\d+),(\d+),([1-9]\d*)', text)
    if not match:
        raise argparse.ArgumentTypeError(f'{text!r} is not of the form top,left,side, in pixels')
    return tuple(map(int, match.groups()))


@command_line()
def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog='tools/compare.py', description=__doc__,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--methods', nargs='+', type=method, required=True, metavar='NAME=FOLDER',
                        help='folders of restored images, in the order of the picture')
    parser.add_argument('--truth', type=expanded, required=True, help='folder of the ground truth')
    parser.add_argument('--out', type=expand, default=Path('panels'), help='where the pictures go (default panels)')
    parser.add_argument('--images', nargs='+', help='names of the images to draw (default: all)')
    parser.add_argument('--crop', type=crop, help='top,left,side of the crop, in pixels (default: chosen)')
    parser.add_argument('--side', type=count, default=64, help='side of a crop that is chosen, in pixels (default 64)')
    parser.add_argument('--border', type=whole, default=4, help='pixels that scores leave out at every side: the scale')
    parser.add_argument('--metrics', type=metric_names, default=','.join(DEFAULT),
                        help=f'scores of the picture, joined by commas: {", ".join(METRICS)} (default: the first two)')
    args = parser.parse_args(argv)
    prepare(args.metrics.split(','))
    for name, truth, restored in collected(args):
        for path in draw(args, name, truth, restored):
            print(shown(path))


def collected(args: Namespace) -> list[tuple[str, Path, dict[str, Path]]]:
    """[(name of an image, its ground truth, {method: file})]. Raises UserError if a file or a partner is missing."""
    if len(dict(args.methods)) < len(args.methods):
        raise UserError('--methods: two have the same name')
    images = {}
    for label, folder in args.methods:
        for name, path, truth in pairs(folder, args.truth):
            images.setdefault(name, (truth, {}))[1][label] = path
    missing = sorted(set(args.images or ()) - images.keys())
    if missing:
        raise UserError(f'--images {" ".join(missing)}: not there; there are {", ".join(sorted(images)[:10])}')
    return [(name, *images[name]) for name in args.images or images]


def draw(args: Namespace, name: str, truth: Path, restored: dict[str, Path]) -> list[Path]:
    """Draw the panel of one image; returns the paths of its files. Raises UserError if it does not fit."""
    images = {label: read_rgb(path) for label, path in restored.items()}
    names = args.metrics.split(',')
    captions = {label: ' / '.join(written(*each) for each in score(path, truth, args.border, names).items())
                for label, path in restored.items()}
    captions['ground truth'] = ' / '.join(map(title, names))
    sizes = {image.shape for image in images.values()}
    if len(sizes) > 1:
        raise UserError(f'{name}: the methods gave images of different sizes')
    height, width, _ = sizes.pop()
    side = args.crop[2] if args.crop else args.side
    whole = read_rgb(truth)[:height, :width]
    compared = list(images.values()) if len(images) > 1 else [*images.values(), whole]
    top, left = args.crop[:2] if args.crop else telling_crop(compared, side, side)
    if not 1 <= side <= min(height - top, width - left):
        raise UserError(f'{name} is {width}x{height} pixels: a crop of {side} does not fit; change --crop or --side')
    paths = [args.out / f'{name}.{kind}' for kind in ('png', 'pdf')]
    draw_zooms(paths, name, whole, images, captions, (top, left, side))
    return paths


if __name__ == '__main__':
    sys.exit(main())
