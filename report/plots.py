"""Figures: curves of a run, and panels that compare images. Names are shown literally, without mathtext or warnings."""
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from itertools import cycle
from math import isfinite
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import get_font_names
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogFormatterSciNotation, MaxNLocator
from PIL import Image

from report import metric
from store.files import write_bytes
from utility import shown

LIGHT = ('#1f5fa8', '#b3541e', '#2c7a4b', '#8a3f8f', '#7a6a00', '#a3263f')  # line colours on a white background
DARK = ('#7fb2f0', '#f0a070', '#7fcf9b', '#d69adb', '#d8c65a', '#f08a9f')   # on a black background
STROKES = '-', '--', ':', '-.'
LONGEST = 40  # characters of a name in a figure
CJK = ('Noto Sans CJK SC', 'Noto Sans CJK JP', 'WenQuanYi Zen Hei', 'Microsoft YaHei', 'PingFang SC')  # where installed
Curves = dict[str, list[float]]  # {name: [one per epoch, nan where there is none]}


def plain(name: str) -> str:
    """A name as text for matplotlib, without mathtext, non-UTF-8 bytes escaped, at most LONGEST characters."""
    text = shown(name)
    return (text if len(text) <= LONGEST else text[:LONGEST - 1] + '…').replace('$', r'\$')


@contextmanager
def style(dark: bool = False) -> Iterator[None]:
    """The settings of every figure; characters missing from the fonts give no warning. dark: for a black background."""
    ink = '#e6e8eb' if dark else 'black'
    settings = {'text.usetex': False, 'svg.fonttype': 'none', 'svg.hashsalt': 'mrda',
                'font.family': ['sans-serif', *(name for name in CJK if name in get_font_names())],
                'axes.prop_cycle': matplotlib.cycler(color=DARK if dark else LIGHT)}
    colours = dict.fromkeys(('text.color', 'axes.edgecolor', 'axes.labelcolor', 'xtick.color', 'ytick.color'), ink)
    with matplotlib.rc_context({**settings, **colours}), warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'Glyph .* missing from')
        yield


def draw_curves(folder: Path, history: dict[str, Curves], log: Callable[[str], None] = print) -> None:
    """Plot loss, psnr, ssim, ... over the epochs, each as PNG and PDF in `folder`. history: content of a History.

    A figure that cannot be drawn or written is reported by log(); it does not stop the training.
    """
    for name, series in history.items():
        losses = name == 'losses'
        stem, label = ('loss', 'training loss') if losses else (metric.title(name).lower(), metric.label(name))
        _keep(folder / stem, lambda label=label, series=series, losses=losses: curves(label, series, losses), log)


def draw_rate(folder: Path, rates: dict[float, float], log: Callable[[str], None] = print) -> None:
    """Plot the learning rates {epochs done: rate} as lr.png and lr.pdf in `folder`, like draw_curves."""
    if rates:
        _keep(folder / 'lr', lambda: _rate(rates), log)


def _keep(path, draw, log):
    """Write the figure of draw() as PNG and PDF. Errors are logged: a figure must not stop a run."""
    try:
        with style():
            figure = draw()
            for suffix in '.png', '.pdf':
                _write(figure, path.with_suffix(suffix), 150)
    except Exception as error:
        log(f'{shown(path)}: could not be drawn ({error}); the numbers are in log.jsonl')


def curves(label: str, series: Curves, losses: bool = False) -> Figure:
    """A figure of curves over the epochs; `losses` of different sizes get a logarithmic axis. Needs style()."""
    figure, axes = empty_chart(label)
    strokes, markers = cycle(STROKES), cycle('osD^v')
    lines = [axes.plot(range(1, len(values) + 1), values, next(strokes), linewidth=1.5, markersize=4,
                       marker=next(markers) if len(values) < 30 else None)[0] for values in series.values()]
    finite = [value for values in series.values() for value in values if isfinite(value)]
    if losses and finite and min(finite) > 0 and max(finite) > 10 * min(finite):
        axes.set_yscale('log')
        axes.yaxis.set_minor_formatter(LogFormatterSciNotation(minor_thresholds=(2, 0.6)))
    _legend(figure, lines, [plain(name) for name in series])
    return figure


def _rate(rates):
    figure, axes = empty_chart('learning rate')
    axes.plot(list(rates), list(rates.values()), linewidth=1.5, drawstyle='steps-pre',  # constant between rows
              marker='o' if len(rates) == 1 else None, markersize=4)
    axes.set_ylim(bottom=0)
    axes.ticklabel_format(axis='y', style='sci', scilimits=(0, 0))
    return figure


def empty_chart(label: str, over: str = 'epoch') -> tuple[Figure, Axes]:
    """An empty chart of `label` over epochs, or over what `over` names. Needs style()."""
    figure = Figure(figsize=(5.4, 3.6), layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_xlabel(over)
    axes.set_ylabel(plain(label))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.3)
    axes.spines[['top', 'right']].set_visible(False)
    return figure, axes


def _legend(figure, lines, names):
    """A legend below the chart. Names are set last: matplotlib hides those that begin with an underscore."""
    columns = max(1, min(len(names), 60 // (max(map(len, names), default=1) + 6)))
    legend = figure.legend(lines, ['name'] * len(names), loc='outside lower center', ncols=columns, frameon=False)
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(name)


def palette_png(figure: Figure, dpi: int, colours: int = 64) -> bytes:
    """A figure as PNG bytes with a palette: a third of the size."""
    full, small = BytesIO(), BytesIO()
    figure.savefig(full, format='png', dpi=dpi, facecolor='white')
    Image.open(full).convert('RGB').quantize(colours, dither=Image.Dither.NONE).save(small, 'PNG', optimize=True)
    return small.getvalue()


def webp(image: Path | BytesIO) -> bytes:
    """An image file as WebP bytes, small rather than faithful, for figures of photos."""
    small = BytesIO()
    Image.open(image).convert('RGB').save(small, 'WebP', quality=45, method=6)
    return small.getvalue()


def svg(figure: Figure) -> bytes:
    """The figure as an SVG file with a transparent background and text as text."""
    file = BytesIO()
    figure.savefig(file, format='svg', transparent=True, metadata={'Date': None})
    return file.getvalue()


def _write(figure, path, dpi):
    file = BytesIO()
    figure.savefig(file, format=path.suffix[1:], dpi=dpi)
    write_bytes(path, file.getbuffer())


def draw_panel(path: Path, images: dict[str, np.ndarray], crop: tuple[int, int, int]) -> None:
    """Write a figure of images side by side, each above its zoomed crop.

    images: {title: uint8 array (H, W, 3)}, all of one size; crop: (top, left, side) in pixels. Raises UserError if the
    file cannot be written.
    """
    top, left, side = crop
    height, width = next(iter(images.values())).shape[:2]
    column = 3.6
    with style():
        figure = Figure(figsize=(column * len(images), column * height / width + column + 0.35), layout='constrained')
        FigureCanvasAgg(figure)
        axes = figure.subplots(2, len(images), height_ratios=(height / width, 1), squeeze=False)
        for (title, image), whole, zoom in zip(images.items(), *axes, strict=True):
            whole.imshow(image)
            whole.set_title(plain(title), fontsize=10)
            whole.add_patch(Rectangle((left, top), side, side, fill=False, edgecolor='#ffcc00', linewidth=1.5))
            zoom.imshow(image[top:top + side, left:left + side], interpolation='nearest')
            for axis in (whole, zoom):
                axis.set_axis_off()
        _write(figure, path, 130)


def telling_crop(images: list[np.ndarray], height: int, width: int) -> tuple[int, int]:
    """(top, left) of the height x width window in which `images`, arrays (H, W, 3), differ most.

    Windows are limited to the size of the images.
    """
    spread = np.stack([image.mean(2, dtype=np.float64) for image in images]).std(0)     # (H, W)
    height, width = min(height, spread.shape[0]), min(width, spread.shape[1])
    total = np.pad(spread.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    sums = total[height:, width:] - total[:-height, width:] - total[height:, :-width] + total[:-height, :-width]
    top, left = np.unravel_index(sums.argmax(), sums.shape)
    return int(top), int(left)


def draw_zooms(paths: list[Path], name: str, truth: np.ndarray, images: dict[str, np.ndarray],
               captions: dict[str, str], crop: tuple[int, int, int]) -> None:
    """Write a figure of the ground truth with a framed crop, beside that crop of each image and of the ground truth.

    paths: files to write, PNG or PDF; truth: uint8 array (H, W, 3); images: {label: the same}; captions: {label or
    'ground truth': text below it}; crop: (top, left, side) in pixels. Raises UserError if a file cannot be written.
    """
    top, left, side = crop
    zooms = [*images.items(), ('ground truth', truth)]
    with style():
        figure, whole, grid = _mosaic(truth.shape[1] / truth.shape[0], len(zooms))
        whole.imshow(truth)
        whole.add_patch(Rectangle((left, top), side, side, fill=False, edgecolor='#ff3b30', linewidth=1.6))
        whole.set_xlabel(plain(name), fontsize=9)
        for axes, (title, image) in zip(grid, zooms, strict=False):
            axes.imshow(image[top:top + side, left:left + side], interpolation='nearest')
            axes.set_xlabel(f'{plain(title)}\n{plain(captions[title])}', fontsize=8)
        for axes in (whole, *grid):
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        for path in paths:
            _write(figure, path, 200)


def _mosaic(aspect, count):
    """(figure, axes of one image, axes of at least `count` zooms in one or two rows). aspect: width / height."""
    rows = 1 if count < 4 else 2
    columns = -(-count // rows)
    tile, label = 1.75, 0.42                                                # inches: side of a zoom, height of its text
    tall = rows * (tile + label) - label
    wide = min(tall * aspect, 2.2 * tall)
    figure = Figure(figsize=(wide + columns * tile * 1.06 + 0.1, tall + label + 0.05), layout='constrained')
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01)
    left, right = figure.subfigures(1, 2, width_ratios=(wide, columns * tile * 1.06))
    whole = left.subplots()
    whole.set_anchor('N')
    return figure, whole, list(right.subplots(rows, columns, squeeze=False).flat)
