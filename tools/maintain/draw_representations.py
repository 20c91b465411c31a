"""Draw the figure of representations in docs/evidence.md, from two maps that tools/maintain/draw_map.py computed.

    python tools/maintain/draw_representations.py
"""
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from photo.degradation_map import DegradationMap
from process.arguments import Parser
from process.command import command_line
from report.plots import palette_png, style
from store.files import write_bytes
from utility import UserError

NAMES = 'mrda_s_x4_iso', 'mrda_s_x4_anisonoise'
FILE = Path('assets/representations.png')


@command_line()
def main(argv: list[str] | None = None) -> None:
    """The command."""
    parser = Parser(prog='tools/maintain/draw_representations.py', description=__doc__.split('\n')[0])
    parser.add_argument('names', nargs='*', metavar='NAME', help=f'shipped weights (default: {" ".join(NAMES)})')
    write_bytes(FILE, figure(parser.parse_args(argv).names or NAMES))
    print(f'{FILE} drawn')


def figure(names: Sequence[str]) -> bytes:
    """A panel for each of the weights: photos under known degradations by their first two components, as a PNG file.

    Raises UserError if weights have no map.
    """
    with style():
        sheet = Figure(figsize=(4.75 * len(names), 3.6), layout='constrained')
        FigureCanvasAgg(sheet)
        panels = sheet.subplots(1, len(names), squeeze=False)[0]
        for axes, name in zip(panels, names, strict=True):
            known = DegradationMap.of(name)
            if known is None:
                raise UserError(f'{name}: no map of degradations; run python tools/maintain/draw_map.py {name}')
            levels = np.unique(known.noises)
            for level, marker in zip(levels, 'os^D', strict=False):
                some = known.noises == level
                points = axes.scatter(*known.points[some, :2].T, s=16, c=known.sizes[some], vmin=0, vmax=4,
                                      marker=marker, label=f'noise {level:g}')
            axes.set(title=name, xticks=[], yticks=[], xlabel=f'component 1: {known.shares[0]:.0%} of the variance',
                     ylabel=f'component 2: {known.shares[1]:.0%}')
            if len(levels) > 1:
                axes.legend(frameon=False)
        sheet.colorbar(points, ax=panels, label='blur, pixels')
        return palette_png(sheet, 110, 256)


if __name__ == '__main__':
    sys.exit(main())
