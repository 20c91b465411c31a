"""Pictures: curves of a run, and panels that compare images."""
import io
from itertools import cycle
from math import isfinite

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogFormatterSciNotation, MaxNLocator

from report import metric
from store.files import write_bytes


def draw_curves(folder, history):
    """loss, psnr, ssim, ... over the epochs, each as PNG and PDF in `folder`; history: as Trainer keeps it."""
    _curves(folder, 'loss', 'training loss', history['losses'])
    for name in [name for name in history if name != 'losses']:
        _curves(folder, metric.title(name).lower(), metric.label(name), history[name])


def _curves(folder, name, label, series):
    figure = Figure(figsize=(6, 4), layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    markers = cycle('osD^v')
    for entry, values in series.items():
        axes.plot(range(1, len(values) + 1), values, marker=next(markers) if len(values) < 30 else None,
                  markersize=4, linewidth=1.5, label=entry)
    axes.set_xlabel('epoch')
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    finite = [value for values in series.values() for value in values if isfinite(value)]
    if name == 'loss' and finite and min(finite) > 0 and max(finite) > 10 * min(finite):
        axes.set_yscale('log')  # the losses of the last stage are of different sizes
        axes.yaxis.set_minor_formatter(LogFormatterSciNotation(minor_thresholds=(2, 0.6)))
    axes.grid(alpha=0.3)
    axes.spines[['top', 'right']].set_visible(False)
    axes.legend(frameon=False)
    for suffix in ('png', 'pdf'):
        _write(figure, folder / f'{name}.{suffix}', 150)


def _write(figure, path, dpi):
    file = io.BytesIO()
    figure.savefig(file, format=path.suffix[1:], dpi=dpi)
    write_bytes(path, file.getbuffer())


def draw_panel(path, images, crop):
    """Images side by side, each whole above its zoomed crop.

    images: {title: uint8 array (H, W, 3)}, all of one size; crop: (top, left, side) in pixels.
    """
    top, left, side = crop
    height, width = next(iter(images.values())).shape[:2]
    column = 3.6
    figure = Figure(figsize=(column * len(images), column * height / width + column + 0.35), layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(images), height_ratios=(height / width, 1))
    for (title, image), whole, zoom in zip(images.items(), axes[0], axes[1], strict=True):
        whole.imshow(image)
        whole.set_title(title, fontsize=10)
        whole.add_patch(Rectangle((left, top), side, side, fill=False, edgecolor='#ffcc00', linewidth=1.5))
        zoom.imshow(image[top:top + side, left:left + side], interpolation='nearest')
        for axis in (whole, zoom):
            axis.set_axis_off()
    _write(figure, path, 130)


def telling_crop(images, height, width):
    """(top, left) of the height x width window in which images, a list of arrays (H, W, 3), differ most.

    Windows larger than the images begin at 0.
    """
    spread = np.stack([image.mean(2, dtype=np.float64) for image in images]).std(0)     # (H, W)
    height, width = min(height, spread.shape[0]), min(width, spread.shape[1])
    total = np.pad(spread.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    sums = total[height:, width:] - total[:-height, width:] - total[height:, :-width] + total[:-height, :-width]
    return tuple(int(place) for place in np.unravel_index(sums.argmax(), sums.shape))


def draw_zooms(paths, name, truth, images, captions, crop):
    """The ground truth with a frame around a crop, beside that crop of the truth and of each image.

    paths: files of the same picture, PNG or PDF; truth: uint8 array (H, W, 3); images: {label: the same};
    captions: {label or 'ground truth': what stands beneath it}; crop: (top, left, side) in pixels.
    """
    top, left, side = crop
    height, width = truth.shape[:2]
    rows = 1 if len(images) < 3 else 2
    zooms = [*images.items(), ('ground truth', truth)]
    columns = -(-len(zooms) // rows)
    tile, label = 1.75, 0.42                                                # inches: side of a zoom, height of its text
    tall = rows * (tile + label) - label
    wide = min(tall * width / height, 2.2 * tall)
    figure = Figure(figsize=(wide + columns * tile * 1.06 + 0.1, tall + label + 0.05), layout='constrained')
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01)
    left_part, right_part = figure.subfigures(1, 2, width_ratios=(wide, columns * tile * 1.06))
    whole = left_part.subplots()
    whole.set_anchor('N')
    whole.imshow(truth)
    whole.add_patch(Rectangle((left, top), side, side, fill=False, edgecolor='#ff3b30', linewidth=1.6))
    whole.set_xlabel(name, fontsize=9, parse_math=False)
    grid = list(right_part.subplots(rows, columns, squeeze=False).flat)
    for axes, (title, image) in zip(grid, zooms, strict=False):
        axes.imshow(image[top:top + side, left:left + side], interpolation='nearest')
        axes.set_xlabel(f'{title}\n{captions[title]}', fontsize=8, parse_math=False)
    for axes in (whole, *grid):
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for path in paths:
        _write(figure, path, 200)
