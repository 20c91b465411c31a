"""Draw the sheet of docs/photos.md: photos upscaled by each of the weights shipped for x4.

    python tools/maintain/draw_photos.py

The photos come inside scikit-image; they are CC0 or in the public domain.
"""
import io
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from skimage import data as photos

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from data.degradation import resize
from model import zoo
from photo.choice import Choice
from report.plots import style, webp
from store.files import write_bytes
from upscale import load, upscale

SIZE = 84, 63  # width and height of the crops, pixels
FILE = Path('assets/photos.webp')


def compressed(photo: np.ndarray, quality: int, reduction: int = 1) -> np.ndarray:
    """A photo (H, W, 3) at 1 / reduction of its size, after JPEG."""
    image, file = Image.fromarray(photo).convert('RGB'), io.BytesIO()
    image.resize((image.width // reduction, image.height // reduction), Image.Resampling.LANCZOS).save(
        file, 'JPEG', quality=quality)
    return np.array(Image.open(file))


def noisy(photo: np.ndarray, level: float) -> np.ndarray:
    """A photo (H, W, 3) with Gaussian noise of this level, 0-255 scale."""
    noise = np.random.default_rng(1).normal(0, level, photo.shape)
    return (photo + noise).round().clip(0, 255).astype(np.uint8)


def samples() -> Iterator[tuple[str, np.ndarray, tuple[int, int]]]:
    """(description, photo (H, W, 3), left and top of the crop)."""
    yield 'as it is', photos.chelsea(), (90, 80)
    yield 'half size, JPEG 75', compressed(photos.astronaut(), 75, 2), (70, 25)
    yield 'half size, JPEG 40', compressed(photos.coffee(), 40, 2), (120, 40)
    yield 'noise 10, JPEG 75', compressed(noisy(photos.chelsea(), 10), 75), (90, 80)
    yield 'JPEG from a camera', photos.rocket(), (250, 190)
    yield 'text, JPEG 60', compressed(photos.page(), 60), (20, 20)


def sheet() -> bytes:
    """Crops in rows, methods in columns, as WebP bytes."""
    width, height = SIZE
    names = [name for name, facts in zoo.index().items() if facts['scale'] == 4]
    models = {name: load(name, device='cpu') for name in names}
    rows, choice = list(samples()), Choice.shipped()
    with style():
        figure = Figure(figsize=(2.9 * (1 + len(names)), 2.4 * len(rows)), layout='constrained')
        FigureCanvasAgg(figure)
        for axes, (words, photo, (left, top)) in zip(figure.subplots(len(rows), 1 + len(names)), rows, strict=True):
            crop = np.ascontiguousarray(photo[top:top + height, left:left + width])
            images = {'bicubic': bicubic(crop), **{name: upscale(crop, model) for name, model in models.items()}}
            chosen = choice and choice.name(np.atleast_3d(photo))
            for axis, (name, image) in zip(axes, images.items(), strict=True):
                axis.imshow(image, interpolation='nearest')
                axis.set(xticks=[], yticks=[])
                axis.spines[:].set(visible=name == chosen, color='tab:orange', linewidth=3)
                if words == rows[0][0]:
                    axis.set_title(name, fontsize=9)
            axes[0].set_ylabel(words, fontsize=9)
        file = io.BytesIO()
        figure.savefig(file, format='png', dpi=120)
    return webp(file)


def bicubic(image: np.ndarray) -> np.ndarray:
    """uint8 (h, w, 3) → (4h, 4w, 3)."""
    planes = torch.from_numpy(image).permute(2, 0, 1)[None] / 255                               # (1, 3, h, w)
    large = resize(planes, 4, downsample=False).clamp(0, 1)                                     # (1, 3, 4h, 4w)
    return (large[0] * 255).round().byte().permute(1, 2, 0).numpy()


def main() -> None:
    """The command."""
    write_bytes(FILE, sheet())
    print(f'{FILE} drawn')


if __name__ == '__main__':
    main()
