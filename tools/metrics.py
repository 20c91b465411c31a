"""Compute metrics between two folders of images, with the definitions of this project's tests.

    python tools/metrics.py sr/ hr/ --border 4 --metrics psnr_y,ssim_y,psnr_rgb

Files are matched by their path below the folders, without suffix; in the first one names may end in x4, _x4, _SR or
_x4_SR.
"""
import argparse
import sys
from pathlib import Path
from statistics import fmean

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from data.images import MAX_PIXELS
from process.arguments import Parser, count, whole
from process.command import command_line
from process.extensions import import_extensions
from report.folders import pairs, score
from report.metric import DEFAULT, METRICS, definitions, logged, metric_names, prepare, title
from utility import expanded, shown


@command_line()
def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog='tools/metrics.py', description=__doc__,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('sr', type=expanded, help='super-resolved images: a folder, a glob or a file')
    parser.add_argument('hr', type=expanded, help='ground truth: a folder, a glob or a file')
    parser.add_argument('--border', type=whole, default=4, help='pixels shaved on each side, the scale (default: 4)')
    parser.add_argument('--max_pixels', type=count, default=MAX_PIXELS,
                        help=f'size limit of an image, in pixels (default: {MAX_PIXELS:,})')
    parser.add_argument('--metrics', type=metric_names, default=','.join(DEFAULT),
                        help=f'metrics, separated by commas: {", ".join(METRICS)} (default: the first two)')
    parser.add_argument('--extension', metavar='FILE', help='Python file to import first; it adds metrics')
    import_extensions(argv)
    args = parser.parse_args(argv)
    names = args.metrics.split(',')
    prepare(names)
    found = [(shown(name), score(sr, hr, args.border, names, args.max_pixels))
             for name, sr, hr in pairs(Path(args.sr), Path(args.hr))]
    found.append(('mean', {name: fmean(values[name] for _, values in found) for name in names}))
    width = max(len(name) for name, _ in found)
    print(f'{"image":{width}} ' + ' '.join(f'{title(name):>8}' for name in names))
    for image, values in found:
        print(f'{image:{width}} ' + ' '.join(f'{logged(name, value):>8}' for name, value in values.items()))
    print(f'Protocol: {definitions(names)}, of 8-bit images, {args.border} border pixels shaved')


if __name__ == '__main__':
    sys.exit(main())
