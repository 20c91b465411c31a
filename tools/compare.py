"""Figures that compare methods: the ground truth, and a zoomed crop of each method with its scores.

    python tools/compare.py --methods bicubic=lr_up/ ours=experiment/RUN/results/SET --truth HR/ --out panels/

Writes a PNG and a PDF file for each image. The crop is where the methods differ most, unless --crop is given. Files are
matched by their path below the folders, without suffix; a method's names may end in x4, _x4, _SR or _x4_SR. Scores are
of the whole image.
"""
import argparse
import re
import sys
from argparse import Namespace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from data.images import MAX_PIXELS
from process.arguments import Parser, count, whole
from process.command import command_line
from process.extensions import import_extensions
from report.folders import pairs, read, score
from report.metric import DEFAULT, METRICS, metric_names, prepare, title, written
from report.plots import draw_zooms, telling_crop
from utility import UserError, expand, expanded, shown


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
                        help='folders of super-resolved images, in the order of the figure')
    parser.add_argument('--truth', type=expanded, required=True, help='folder of the ground truth')
    parser.add_argument('--out', type=expand, default=Path('panels'), help='folder of the figures (default: panels)')
    parser.add_argument('--images', nargs='+', help='names of the images to draw (default: all)')
    parser.add_argument('--crop', type=crop, help='top,left,side of the crop, in pixels (default: automatic)')
    parser.add_argument('--side', type=count, default=64, help='side of an automatic crop, in pixels (default: 64)')
    parser.add_argument('--border', type=whole, default=4, help='pixels shaved on each side, the scale (default: 4)')
    parser.add_argument('--max_pixels', type=count, default=MAX_PIXELS,
                        help=f'size limit of an image, in pixels (default: {MAX_PIXELS:,})')
    parser.add_argument('--metrics', type=metric_names, default=','.join(DEFAULT),
                        help=f'metrics to show, separated by commas: {", ".join(METRICS)} (default: the first two)')
    parser.add_argument('--extension', metavar='FILE', help='Python file to import first; it adds metrics')
    import_extensions(argv)
    args = parser.parse_args(argv)
    prepare(args.metrics.split(','))
    for name, truth, methods in collected(args):
        for path in draw(args, name, truth, methods):
            print(shown(path))


def collected(args: Namespace) -> list[tuple[str, Path, dict[str, Path]]]:
    """[(name of an image, its ground truth, {method: file})]. Raises UserError if a file has no match."""
    if len(dict(args.methods)) < len(args.methods):
        raise UserError('--methods: two have the same name; rename one')
    images = {}
    for label, folder in args.methods:
        for name, path, truth in pairs(Path(folder), Path(args.truth)):
            images.setdefault(name, (truth, {}))[1][label] = path
    missing = sorted(set(args.images or ()) - images.keys())
    if missing:
        raise UserError(f'--images {" ".join(missing)}: not found; choose from {", ".join(sorted(images)[:10])}')
    return [(name, *images[name]) for name in args.images or images]


def draw(args: Namespace, name: str, truth: Path, methods: dict[str, Path]) -> list[Path]:
    """Draw the figure of one image. methods: {method: file}. Returns the paths written. Raises UserError if sizes
    differ."""
    images = {label: read(path, args.max_pixels) for label, path in methods.items()}
    sizes = {image.shape for image in images.values()}
    if len(sizes) > 1:
        raise UserError(f'{shown(name)}: the images of the methods differ in size')
    height, width, _ = sizes.pop()
    whole = read(truth, args.max_pixels)[:height, :width]
    side = args.crop[2] if args.crop else args.side
    compared = list(images.values()) if len(images) > 1 else [*images.values(), whole]
    top, left = args.crop[:2] if args.crop else telling_crop(compared, side, side)
    if not 1 <= side <= min(height - top, width - left):
        raise UserError(f'{shown(name)} is {width}x{height} pixels: a crop of {side} is too large; change --crop or '
                        '--side')
    paths = [args.out / f'{name}.{kind}' for kind in ('png', 'pdf')]
    draw_zooms(paths, name, whole, images, captions(args, truth, methods), (top, left, side))
    return paths


def captions(args: Namespace, truth: Path, methods: dict[str, Path]) -> dict[str, str]:
    """{method: its scores of one image, 'ground truth': names of the metrics}. Raises UserError as score does."""
    names = args.metrics.split(',')
    found = {label: score(path, truth, args.border, names, args.max_pixels) for label, path in methods.items()}
    return {'ground truth': ' / '.join(map(title, names)),
            **{label: ' / '.join(written(*each) for each in values.items()) for label, values in found.items()}}


if __name__ == '__main__':
    sys.exit(main())
