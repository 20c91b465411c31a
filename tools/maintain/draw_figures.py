"""Draw the figures of the documentation into assets/: a comparison, the four stages, the RDA convolution, the kernels.

    python tools/maintain/draw_figures.py
"""
import sys
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from skimage import data as photos

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from draw_kernels import draw, kernels

from data import protocol
from data.degradation import IsoGaussian, classic
from report.metric import METRICS
from report.plots import draw_panel, palette_png, webp
from store.files import write_bytes
from upscale import load

FOLDER = Path('assets')
INK, PALE = '#1f2933', '#6b7785'
STYLES = {  # fill, edge, text
    'trained': ('#2b6cb0', '#2b6cb0', 'white'), 'frozen': ('#e4e8ee', '#9aa5b1', INK),
    'copy': ('#dbeafe', '#2b6cb0', INK), 'loss': ('#fbd38d', '#dd8b20', INK), 'step': ('white', '#9aa5b1', INK),
}


COLUMNS = 4.5, 6.9, 9.25, 11.45, 13.9  # centres of columns in the figure of the stages
OUT = COLUMNS[0] + 0.43  # where arrows leave the inputs


class Sheet:
    """A white page of `width` x `height` units, 1 unit = 0.68 inch; (0, 0) is at the lower left."""

    def __init__(self, width: float, height: float) -> None:
        self.figure = Figure(figsize=(0.68 * width, 0.68 * height), facecolor='white')
        FigureCanvasAgg(self.figure)
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, width), ylim=(0, height))
        self.axes.set_axis_off()

    def box(self, x: float, y: float, text: str, kind: str, width: float = 1.9, height: float = 0.72) -> None:
        """A box around (x, y), kind: of STYLES."""
        fill, edge, colour = STYLES[kind]
        rounding = height / 2 if kind == 'loss' else 0.1
        self.axes.add_patch(FancyBboxPatch(
            (x - width / 2, y - height / 2), width, height, boxstyle=f'round,pad=0,rounding_size={rounding}',
            facecolor=fill, edgecolor=edge, linewidth=1.3, linestyle='--' if kind == 'copy' else '-', zorder=3))
        self.text(x, y, text, colour=colour, zorder=4)

    def text(self, x: float, y: float, text: str, size: float = 9.5, colour: str = INK, zorder: int = 5,
             **options: object) -> None:
        self.axes.text(x, y, text, **{'ha': 'center', 'va': 'center', 'fontsize': size, 'color': colour,
                                      'zorder': zorder, 'linespacing': 1.15, **options})

    def arrow(self, *points: tuple[float, float], label: str = '', where: tuple[float, float] | None = None,
              dashed: bool = False) -> None:
        """An arrow along `points`, its label beside `where` (default: above the middle of the last leg)."""
        for (x1, y1), (x2, y2) in pairwise(points[:-1]):
            self.axes.plot((x1, x2), (y1, y2), color=PALE, linewidth=1.3, linestyle='--' if dashed else '-', zorder=2,
                           solid_capstyle='round')
        self.axes.add_patch(FancyArrowPatch(points[-2], points[-1], arrowstyle='-|>', mutation_scale=11, color=PALE,
                                            linewidth=1.3, linestyle='--' if dashed else '-', shrinkA=0, shrinkB=0,
                                            zorder=2))
        if label:
            (x1, y1), (x2, y2) = points[-2:]
            self.text(*(where or ((x1 + x2) / 2, (y1 + y2) / 2 + 0.2)), label, size=9)

    def image(self, x: float, y: float, array: np.ndarray, label: str, side: float = 0.86) -> None:
        """A picture around (x, y), with its name at the left."""
        self.axes.imshow(array, extent=(x - side / 2, x + side / 2, y - side / 2, y + side / 2),
                         interpolation='nearest', zorder=3, aspect='auto')
        self.axes.add_patch(Rectangle((x - side / 2, y - side / 2), side, side, fill=False, edgecolor=INK,
                                      linewidth=0.8, zorder=4))
        self.text(x - side / 2 - 0.1, y, label, size=11, ha='right')

    def band(self, bottom: float, top: float, number: int, title: str, text: str) -> None:
        """The background of a stage, and what it is, at the left."""
        width = self.axes.get_xlim()[1]
        self.axes.add_patch(FancyBboxPatch((0.15, bottom), width - 0.3, top - bottom, facecolor='#f7f9fb',
                                           boxstyle='round,pad=0,rounding_size=0.15', edgecolor='#d5dbe2', zorder=0))
        middle = (bottom + top) / 2
        self.text(0.45, middle + 0.33, f'Stage {number}', size=13, ha='left', weight='bold')
        self.text(0.45, middle - 0.02, title, size=10.5, ha='left')
        self.text(0.45, middle - 0.22, text, size=8.5, ha='left', va='top', colour=PALE)

    def png(self, colours: int = 64) -> bytes:
        """The page as PNG bytes, of a palette."""
        return palette_png(self.figure, 180, colours)


def example(sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """A crop of Chelsea, blurred and downsampled, and that crop: LR, HR, both uint8 (side, side, 3)."""
    crop = photos.chelsea()[80:176, 120:216].copy()
    hr = torch.from_numpy(crop).permute(2, 0, 1)[None] / 255
    lq, _ = classic(IsoGaussian(sigma), 4)(hr)
    return (lq[0].permute(1, 2, 0) * 255).byte().numpy(), crop


def comparison() -> None:
    """Write comparison.webp: LR input, bicubic, the shipped student and the ground truth of a photo it has not seen."""
    photo = photos.chelsea()[:300, :448].copy()
    hr = torch.from_numpy(photo).permute(2, 0, 1)[None] / 255                       # (1, 3, H, W)
    lq, up = classic(IsoGaussian(2.6), 4)(hr)                                       # (1, 3, h, w), (1, 3, H, W)
    sr = load('mrda_s_x4_iso').tensor(lq)                                           # (1, 3, H, W)
    images = {'LR input': lq.repeat_interleave(4, 2).repeat_interleave(4, 3)}
    for name, image in (('bicubic', up), ('student', sr.clamp(0, 1))):
        images[f'{name}, {METRICS["psnr_y"].function(image, hr, 4):.2f} dB'] = image
    pixels = {name: (image[0].permute(1, 2, 0) * 255).round().byte().numpy() for name, image in images.items()}
    with TemporaryDirectory() as folder:
        draw_panel(Path(folder, 'comparison.png'), {**pixels, 'ground truth': photo}, (85, 125, 100))
        write_bytes(FOLDER / 'comparison.webp', webp(Path(folder, 'comparison.png')))


def inputs(sheet: Sheet, top: float, lr: np.ndarray, hr: np.ndarray) -> None:
    """The two images that a stage begins with: HR at `top`, LR below it."""
    sheet.image(COLUMNS[0], top, hr, '$I_{HR}$')
    sheet.image(COLUMNS[0], top - 1.0, lr, '$I_{LR}$')


def left(column: int) -> float:
    """The left side of a box of the usual width."""
    return COLUMNS[column] - 0.95


def right(column: int) -> float:
    """The right side of one."""
    return COLUMNS[column] + 0.95


def stages() -> bytes:
    """The data flow of the four stages."""
    sheet, (lr, hr) = Sheet(15.2, 12.35), example(2.6)
    stage1(sheet, hr)
    stage2(sheet, lr)
    stage3(sheet, lr, hr)
    stage4(sheet, lr, hr)
    for x, kind, text in ((4.5, 'trained', 'trained'), (6.9, 'frozen', 'frozen'), (9.3, 'copy', 'adapted copy'),
                          (11.7, 'loss', 'loss')):
        sheet.box(x - 0.45, 0.5, '', kind, 0.5, 0.32)
        sheet.text(x - 0.05, 0.5, text, ha='left')
    return sheet.png(128)


def stage1(sheet: Sheet, hr: np.ndarray) -> None:
    sheet.band(9.9, 12.15, 1, 'pre-train MLN', 'bicubic pairs, no blur')
    inputs(sheet, 11.52, example(0)[0], hr)
    sheet.box(COLUMNS[1], 10.52, 'MLN', 'trained')
    sheet.box(COLUMNS[2], 10.52, '$I_{SR}$', 'step', 1.5)
    sheet.box(COLUMNS[3], 10.52, 'L1', 'loss', 1.3)
    sheet.arrow((OUT, 10.52), (left(1), 10.52))
    sheet.arrow((right(1), 10.52), (COLUMNS[2] - 0.75, 10.52))
    sheet.arrow((COLUMNS[2] + 0.75, 10.52), (COLUMNS[3] - 0.65, 10.52))
    sheet.arrow((OUT, 11.52), (COLUMNS[3], 11.52), (COLUMNS[3], 10.88))


def stage2(sheet: Sheet, lr: np.ndarray) -> None:
    sheet.band(7.2, 9.75, 2, 'meta-learn MLN', 'first-order MAML,\na random degradation\nfor each task')
    sheet.image(COLUMNS[0], 8.75, lr, 'support\n$I_{LR},\\ I_{HR}$')
    sheet.image(COLUMNS[0], 7.75, lr, "query\n$I'_{LR},\\ I'_{HR}$")
    sheet.box(COLUMNS[1], 8.75, 'MLN, $\\theta$', 'trained', 1.6)
    sheet.box(COLUMNS[2] + 0.3, 8.75, 'MLN, $\\theta_t$', 'copy', 1.6)
    sheet.box(COLUMNS[3] + 0.2, 8.75, "$I'_{SR}$", 'step', 1.4)
    sheet.box(COLUMNS[4], 8.75, "L1 to $I'_{HR}$", 'loss', 1.4)
    sheet.arrow((OUT, 8.75), (COLUMNS[1] - 0.8, 8.75))
    sheet.arrow((COLUMNS[1] + 0.8, 8.75), (COLUMNS[2] - 0.5, 8.75), label='5 steps')
    sheet.arrow((OUT, 7.75), (COLUMNS[2] + 0.3, 7.75), (COLUMNS[2] + 0.3, 8.39))
    sheet.arrow((COLUMNS[2] + 1.1, 8.75), (COLUMNS[3] - 0.5, 8.75))
    sheet.arrow((COLUMNS[3] + 0.9, 8.75), (COLUMNS[4] - 0.7, 8.75))
    sheet.arrow((COLUMNS[4], 9.11), (COLUMNS[4], 9.45), (COLUMNS[1], 9.45), (COLUMNS[1], 9.11), dashed=True)
    sheet.text(COLUMNS[3] - 1.1, 9.45, 'gradient at $\\theta_t$, applied to $\\theta$', size=9,
               bbox={'facecolor': '#f7f9fb', 'edgecolor': 'none', 'pad': 2})


def stage3(sheet: Sheet, lr: np.ndarray, hr: np.ndarray) -> None:
    sheet.band(4.4, 7.0, 3, 'train the teacher', 'its encoder takes the features\nof the adapted MLN')
    inputs(sheet, 6.4, lr, hr)
    sheet.box(COLUMNS[1], 6.15, 'MLN, adapted\nto this batch', 'frozen')
    sheet.box(COLUMNS[2], 6.15, "teacher's\nencoder", 'trained', 1.7)
    sheet.box(COLUMNS[3], 6.15, "teacher's\nSR network", 'trained', 1.7)
    sheet.box(COLUMNS[4], 6.15, 'L1 to $I_{HR}$', 'loss', 1.4)
    sheet.arrow((OUT, 6.15), (left(1), 6.15))
    sheet.arrow((OUT, 5.65), (left(1) - 0.55, 5.65), (left(1) - 0.55, 6.0), (left(1), 6.0))
    sheet.arrow((right(1), 6.15), (COLUMNS[2] - 0.85, 6.15))
    sheet.arrow((COLUMNS[2] + 0.85, 6.15), (COLUMNS[3] - 0.85, 6.15), label="$D'_T$")
    sheet.arrow((COLUMNS[3] + 0.85, 6.15), (COLUMNS[4] - 0.7, 6.15), label='$I_{SR}$')
    sheet.arrow((OUT, 5.2), (COLUMNS[3], 5.2), (COLUMNS[3], 5.79), label='$I_{LR}$', where=(COLUMNS[1], 5.37))


def stage4(sheet: Sheet, lr: np.ndarray, hr: np.ndarray) -> None:
    sheet.band(0.95, 4.2, 4, 'distil the student', 'it takes the LR image only')
    inputs(sheet, 3.55, lr, hr)
    sheet.box(COLUMNS[1], 3.55, 'MLN, adapted\nto this batch', 'frozen')
    sheet.box(COLUMNS[2], 3.55, "teacher's\nencoder", 'frozen', 1.7)
    sheet.box(COLUMNS[3], 3.55, 'KL + 0.1 L1', 'loss', 1.75)
    sheet.box(COLUMNS[2], 2.4, "student's\nencoder", 'trained', 1.7)
    sheet.box(COLUMNS[3], 2.4, "student's\nSR network", 'trained', 1.7)
    sheet.box(COLUMNS[4], 2.4, 'L1 to $I_{HR}$', 'loss', 1.4)
    sheet.arrow((OUT, 3.55), (left(1), 3.55))
    sheet.arrow((OUT, 2.85), (left(1) - 0.55, 2.85), (left(1) - 0.55, 3.4), (left(1), 3.4))
    sheet.arrow((right(1), 3.55), (COLUMNS[2] - 0.85, 3.55))
    sheet.arrow((COLUMNS[2] + 0.85, 3.55), (COLUMNS[3] - 0.87, 3.55), label="$D'_T$")
    sheet.arrow((OUT, 2.4), (COLUMNS[2] - 0.85, 2.4), label='$I_{LR}$', where=(COLUMNS[1], 2.57))
    sheet.arrow((COLUMNS[2] + 0.85, 2.4), (COLUMNS[3] - 0.85, 2.4), label="$D'_S$", where=(10.32, 2.2))
    sheet.arrow((10.35, 2.4), (10.35, 3.0), (COLUMNS[3], 3.0), (COLUMNS[3], 3.19))
    sheet.arrow((COLUMNS[3] + 0.85, 2.4), (COLUMNS[4] - 0.7, 2.4), label='$I_{SR}$')
    sheet.arrow((OUT, 2.25), (OUT + 0.5, 2.25), (OUT + 0.5, 1.45), (COLUMNS[3], 1.45), (COLUMNS[3], 2.04),
                label='$I_{LR}$', where=(COLUMNS[1], 1.62))


def block() -> bytes:
    """The region degradation aware convolution, and the block that contains it."""
    sheet = Sheet(13.6, 6.5)
    sheet.text(0.5, 6.15, 'Region degradation aware (RDA) convolution', size=12, ha='left', weight='bold')
    sheet.text(0.95, 5.4, '$D$', size=14)
    sheet.text(0.95, 5.08, '64', size=8.5, colour=PALE)
    sheet.box(3.1, 5.4, 'linear 64 → 64\nLeakyReLU', 'trained', 2.1)
    sheet.box(5.9, 5.4, 'linear 64 → 64·9', 'trained', 2.1)
    for i in range(3):
        sheet.axes.add_patch(Rectangle((7.95 + 0.12 * i, 5.22 - 0.12 * i), 0.5, 0.5, facecolor='white', edgecolor=INK,
                                       linewidth=0.9, zorder=3))
    for i in (1, 2):
        sheet.axes.plot((8.19 + i / 6, 8.19 + i / 6), (4.98, 5.48), color=INK, linewidth=0.6, zorder=4)
        sheet.axes.plot((8.19, 8.69), (4.98 + i / 6, 4.98 + i / 6), color=INK, linewidth=0.6, zorder=4)
    sheet.text(8.95, 5.35, 'a 3x3 kernel for each\nsample and channel', size=9, ha='left')
    sheet.arrow((1.2, 5.4), (2.05, 5.4))
    sheet.arrow((4.15, 5.4), (4.85, 5.4))
    sheet.arrow((6.95, 5.4), (7.85, 5.4))
    sheet.text(0.95, 3.9, '$F$', size=14)
    sheet.text(0.95, 3.58, '64 x h x w', size=8.5, colour=PALE)
    sheet.box(8.3, 3.9, 'depthwise conv\nLeakyReLU', 'copy', 2.0)
    sheet.box(4.5, 2.95, 'convolution 1x1\nsigmoid', 'trained', 2.1)
    sheet.arrow((8.3, 4.9), (8.3, 4.26))
    sheet.arrow((1.3, 3.9), (7.3, 3.9))
    sheet.arrow((9.3, 3.9), (10.72, 3.9), label='$F_1$', where=(10.0, 4.12))
    sheet.arrow((2.2, 3.9), (2.2, 2.95), (3.45, 2.95))
    sheet.arrow((5.55, 2.95), (10.95, 2.95), (10.95, 3.67), label='mask $M$, 1 x h x w', where=(7.6, 3.13))
    sheet.arrow((2.2, 3.2), (2.2, 2.4), (12.05, 2.4), (12.05, 3.67))
    for x, sign in ((10.95, '×'), (12.05, '+')):
        sheet.text(x, 3.9, sign, size=15, bbox={'boxstyle': 'circle,pad=0.12', 'facecolor': 'white',
                                                'edgecolor': INK})
    sheet.arrow((11.18, 3.9), (11.82, 3.9))
    sheet.arrow((12.28, 3.9), (12.8, 3.9))
    sheet.text(13.1, 3.9, '$F_2$', size=14)

    chain(sheet)
    return sheet.png()


def chain(sheet: Sheet) -> None:
    """The block, at the bottom of the sheet."""
    sheet.text(0.5, 1.88, 'Block, 27 of them in a row', size=12, ha='left', weight='bold')
    names = ('RDA conv\nLeakyReLU', 'conv 3x3\nLeakyReLU', 'RDA conv\nLeakyReLU', 'conv 3x3')
    for i, name in enumerate(names):
        sheet.box(3.1 + 2.35 * i, 1.1, name, 'trained', 1.75)
        sheet.arrow((1.2 if i == 0 else 1.62 + 2.35 * i, 1.1), (2.22 + 2.35 * i, 1.1))
    sheet.arrow((11.03, 1.1), (11.82, 1.1))
    sheet.text(12.05, 1.1, '+', size=15, bbox={'boxstyle': 'circle,pad=0.12', 'facecolor': 'white', 'edgecolor': INK})
    sheet.arrow((1.7, 1.1), (1.7, 0.4), (12.05, 0.4), (12.05, 0.87))
    sheet.arrow((12.28, 1.1), (12.9, 1.1))


def blurs() -> bytes:
    """The kernels of gaussian8 and mrda9, x4."""
    sheet = Sheet(15.2, 5.6)
    figure = sheet.figure
    for row, name in enumerate(('gaussian8', 'mrda9')):
        found = kernels(name, 4)
        bottom = 0.54 - 0.5 * row
        figure.text(0.012, bottom + (0.4 if row else 0.36), protocol.label(name) + ', x4', fontsize=10, color=INK,
                    weight='bold')
        for number, blur in enumerate(found, 1):
            axes = figure.add_axes((0.012 + (number - 1) * 0.1095, bottom, 0.1, 0.29))
            draw(axes, number, blur)
            axes.set_title(axes.get_title().replace('   θ', '\nθ').replace(':  ', ': '), fontsize=8.5)
    return sheet.png(128)


def main() -> None:
    """The command."""
    comparison()
    for name, picture in (('stages', stages), ('block', block), ('kernels', blurs)):
        write_bytes(FOLDER / f'{name}.png', picture())
    print(f'figures drawn in {FOLDER}/')


if __name__ == '__main__':
    main()
