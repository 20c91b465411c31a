"""Pictures: curves of a run, and panels that compare images."""
import io
from itertools import cycle

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from store import write_bytes


def draw_curves(folder, history):
    """loss and psnr over the epochs, each as PNG and PDF in `folder`."""
    _curves(folder, 'loss', 'training loss', history['losses'])
    _curves(folder, 'psnr', 'luma PSNR (dB)', history['psnr'])


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
