"""Draw random samples of a degradation: one image, degraded many times, with the parameters of each below it.

    python tools/draw_degradations.py photo.jpg --degradation second_order --out sheet.png
    python tools/draw_degradations.py photo.jpg --blur_type aniso_gaussian --noise 25 --count 8

All other flags are main.py's. The same --seed gives the same samples.
"""
import argparse
import io
import sys
import textwrap
from argparse import Namespace
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from data.degradation import DEGRADATIONS, Pipeline
from data.images import read_rgb
from option import parse
from process.arguments import Parser, count
from process.command import command_line
from report.evaluation import to_uint8
from store.files import write_bytes
from utility import UserError, expanded, generator, shown

SIDE = 256  # pixels of the crop from the middle of the photo
COLUMNS = 4
WIDTH = 44  # characters of a line below an image


@command_line()
def main(argv: list[str] | None = None) -> None:
    own = Parser(prog='tools/draw_degradations.py', description=__doc__,
                 formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    own.add_argument('photo', type=expanded, help='image file')
    own.add_argument('--count', type=count, default=12, help='number of samples')
    own.add_argument('--out', type=expanded, default='degraded.png', help='figure to write: .png, .pdf or .svg')
    mine, rest = own.parse_known_args(argv)
    args = parse(['--stage', '2', *rest, '--test_only'])
    out = Path(mine.out)
    if out.suffix not in ('.png', '.pdf', '.svg'):
        raise UserError(f'--out {shown(out)}: the name must end in .png, .pdf or .svg')
    hr = crop(Path(mine.photo), args.scale)
    random = DEGRADATIONS[args.degradation](args, testing=False)
    write_bytes(out, sheet(hr, random, mine.count, args, out.suffix[1:]))
    print(f'{mine.count} samples of --degradation {args.degradation}, x1/{args.scale}, in {shown(out)}')


def crop(path: Path, scale: int) -> torch.Tensor:
    """The centre of a photo, (1, 3, H, W) in [0, 1], sides multiples of scale. Raises UserError if it is too small."""
    image = read_rgb(path)
    height, width = (min(side, SIDE) // scale * scale for side in image.shape[:2])
    if not height or not width:
        raise UserError(f'{shown(path)}: smaller than {scale}x{scale} pixels; give a larger photo')
    top, left = ((whole - part) // 2 for whole, part in zip(image.shape[:2], (height, width), strict=True))
    return torch.from_numpy(image[top:top + height, left:left + width]).permute(2, 0, 1)[None] / 255


def sheet(hr: torch.Tensor, random: Pipeline, count: int, args: Namespace, kind: str) -> bytes:
    """The figure as a file of `kind`: hr (1, 3, H, W), then `count` samples at the size of hr, LR pixels as squares."""
    rows = -(-(count + 1) // COLUMNS)
    figure = Figure(figsize=(3.2 * COLUMNS, 4.2 * rows), layout='constrained')
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, COLUMNS, squeeze=False).flat
    for i, axes in enumerate(panels):
        axes.set(xticks=[], yticks=[])
        axes.set_visible(i <= count)
        if i == 0:
            show(axes, hr, f'ground truth, {hr.shape[3]}x{hr.shape[2]}')
        elif i <= count:
            rng = generator('cpu', args.seed, 'sheet', i)
            drawn = random.draw(rng)
            show(axes, drawn(hr, rng)[0], describe(drawn))
    data = io.BytesIO()
    figure.savefig(data, format=kind, dpi=110)
    return data.getvalue()


def show(axes: Axes, image: torch.Tensor, words: str) -> None:
    """Show one image (1, 3, h, w) in [0, 1] with text below it."""
    axes.imshow(to_uint8(image, 1), interpolation='nearest')
    axes.set_xlabel(textwrap.fill(words, WIDTH), fontsize=7.5, loc='left', parse_math=False)


def describe(drawn: Pipeline) -> str:
    """Every step as text, with the size of a blur's kernel."""
    words = (f'{step} ({step.setting})' if step.setting and str(step) else str(step) or step.setting
             for step in drawn.steps)
    return ', '.join(filter(None, words))


if __name__ == '__main__':
    sys.exit(main())
