"""An upscaler at work on one photo that can be watched and cancelled."""
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import nn

from model.inference import LARGE, SMALLEST, TILE
from photo.network import EDGE
from photo.preview import Preview
from photo.upscaler import Upscaler

PROBE = SMALLEST - 2 * EDGE  # pixels: side of the image on which layers are counted, in one tile


class Cancelled(Exception):
    """Nobody wants the result any longer."""


class Watched:
    """An Upscaler for one photo, used in one thread.

    stop: looked at before every convolution; once it is set, Cancelled is raised. Other threads read `done`, the share
    of the work that is done, and `rep`, the representation (1, R) of the photo, None before it is known and for images
    of one colour, which never reach the network. `preview` collects the result.
    """

    def __init__(self, upscaler: Upscaler, stop: threading.Event) -> None:
        self.upscaler, self.stop, self.scale = upscaler, stop, upscaler.scale
        self.done, self.rep, self.preview = 0.0, None, None

    def bands(self, image: np.ndarray, tick: Callable[[int], object]) -> Iterator[np.ndarray]:
        """Upscaler.bands, watched."""
        height, width, _ = image.shape
        self.preview = Preview(height, width, self.scale)
        progress = Progress(height * width, self.upscaler)

        def ticked(pixels: int) -> None:
            self.done = max(self.done, progress.part_done(pixels))
            tick(pixels)

        with self._hooked(progress):
            for band in self.upscaler.bands(image, ticked):
                self.preview.add(band)
                yield band

    @contextmanager
    def _hooked(self, progress: 'Progress') -> Iterator[None]:
        """Hooks on the student; what other threads compute with it is not seen."""
        student, thread = self.upscaler.student, threading.get_ident()

        def check(module, inputs):
            if threading.get_ident() == thread and self.stop.is_set():
                raise Cancelled

        def count(module, inputs):
            if threading.get_ident() == thread:
                self.done = max(self.done, progress.layer_done())  # a tile at the border is smaller

        def note(module, inputs):
            if threading.get_ident() == thread and self.rep is None:
                self.rep = inputs[1].detach().float().cpu()

        with hooked(convolutions(student), check), hooked(convolutions(student.G), count), hooked([student.G], note):
            yield


class Progress:
    """The share of a photo of so many pixels that is done: whole parts, and convolutions of the part at work."""

    def __init__(self, pixels: int, upscaler: Upscaler) -> None:
        tile = upscaler.tile or (TILE if pixels > LARGE else None)
        self.pixels, self.part = pixels, min(tile**2, pixels) if tile else pixels
        self.layers = max(1, count_convolutions(upscaler))
        self.pixels_done, self.layers_done = 0, 0

    def part_done(self, pixels: int) -> float:
        """After a part of so many pixels: the share."""
        self.pixels_done, self.layers_done = self.pixels_done + pixels, 0
        return self.pixels_done / self.pixels

    def layer_done(self) -> float:
        """After another convolution: the share."""
        self.layers_done += 1
        return min(1, (self.pixels_done + self.part * min(1, self.layers_done / self.layers)) / self.pixels)


def convolutions(module: nn.Module) -> list[nn.Module]:
    """Those that `module` holds."""
    return [each for each in module.modules() if isinstance(each, nn.Conv2d)]


@contextmanager
def hooked(modules: list[nn.Module], hook: Callable) -> Iterator[None]:
    """While the block runs, hook(module, inputs) is called before each of `modules`."""
    with ExitStack() as handles:
        for module in modules:
            handles.callback(module.register_forward_pre_hook(hook).remove)
        yield


def count_convolutions(upscaler: Upscaler) -> int:
    """How often the SR network calls a convolution for one part."""
    calls = []
    with hooked(convolutions(upscaler.student.G), lambda module, inputs: calls.append(module)):
        upscaler.tensor(torch.zeros(1, 3, PROBE, PROBE))
    return len(calls)
