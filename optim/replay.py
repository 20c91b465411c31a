"""A step's forward and backward pass as one CUDA graph, which the host launches at once instead of kernel by kernel."""
from argparse import Namespace
from collections.abc import Callable

import torch
from torch import Tensor, nn

from optim.quantization import Quantized
from optim.update import Update
from process.group import Process
from utility import seeded

EAGER = 3  # first steps without a graph: they compile kernels and choose algorithms, which no graph can hold


class Replay:
    """Computes the losses of `stage`, a Stage of one update, and their gradient, with weights that `quantized` rounds.

    The batch is degraded outside of the graph, as that draws random numbers. The graph reads a copy of the images, and
    weights where they are, and writes losses and gradients always to the same places; shapes must not change. A step
    that cannot be captured is computed without a graph, and so are those after it. log: called with a line about that.
    """

    def __init__(self, stage: nn.Module, update: Update, quantized: Quantized, log: Callable[[str], object]) -> None:
        self.stage, self.update, self.quantized, self.log = stage, update, quantized, log
        self._stream, self._refused = None, False
        self._restart()

    def _restart(self):
        self._eager, self._encoder_only = EAGER, self.stage.encoder_only
        self._graph, self._images, self._losses, self._gradients = None, [], {}, []

    def __call__(self, hr: Tensor, seed: int) -> dict[str, Tensor]:
        """hr (B, 3, H, W), the seed of its degradation → {name: scalar}; the gradient is that of 'loss'."""
        if self.stage.encoder_only != self._encoder_only:  # other weights are trained from now on
            self._restart()
        generator = seeded(hr.device, seed)
        pairs = [self.stage.degrade(hr, generator) for _ in range(self.stage.draws)]    # of (B, 3, h, w), (B, 3, H, W)
        images = [hr, *(image for pair in pairs for image in pair)]
        if self._eager and not self._refused:
            self._eager -= 1
            return self._apart(images)
        if self._refused or not (self._graph or self._captured(images)):
            return self.compute(*images)
        torch._foreach_copy_(self._images, images)
        for parameter, gradient in zip(self.update.parameters, self._gradients, strict=True):
            parameter.grad = gradient
        self._graph.replay()
        return self._losses

    def compute(self, hr: Tensor, *images: Tensor) -> dict[str, Tensor]:
        """The same from hr and images that are degraded already, lq and up for each degradation."""
        self.stage.drawn = list(zip(images[::2], images[1::2], strict=True))
        with self.quantized.applied():
            losses = {name: loss.mean() for name, loss in self.stage.score(hr, None, self.update.name).items()}
            self.update.backward(losses['loss'])
        return {name: loss.detach() for name, loss in losses.items()}

    def _apart(self, images):
        """compute() on a stream of its own, as in a capture: what autograd sets up on first use belongs to a stream."""
        current = torch.cuda.current_stream()
        self._stream = self._stream or torch.cuda.Stream()  # one for all steps, as each keeps its own memory
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            losses = self.compute(*images)
        current.wait_stream(self._stream)
        return losses

    def _captured(self, images):
        """Whether _capture() succeeds; a capture runs nothing, so that a failure leaves the weights as they were."""
        stream = torch.cuda.current_stream()
        try:
            self._capture(images)
        except RuntimeError as error:
            torch.cuda.set_stream(stream)
            self._restart()
            self._refused, self.stage.drawn = True, []
            self.log(f'--compile: no CUDA graph, as a step cannot be captured: {str(error).splitlines()[0]}')
        return self._graph is not None

    def _capture(self, images):
        self._images, self._graph = [image.clone() for image in images], torch.cuda.CUDAGraph()
        # The loader's thread pins memory meanwhile, which only this mode permits.
        with torch.cuda.graph(self._graph, capture_error_mode='thread_local'):
            self._losses = self.compute(*self._images)
        self._gradients = [parameter.grad for parameter in self.update.parameters]


def replay(args: Namespace, stage: nn.Module, updates: dict[str, Update], quantized: Quantized,
           process: Process, log: Callable[[str], object]) -> Replay | None:
    """A Replay with --compile and without recomputing, which restores the states of generators, as no graph can; on one
    GPU, in stages of one update, whose steps the device judges."""
    suits = args.compile and not args.recompute and not args.train_lr and len(updates) == 1
    alone = process.device.type == 'cuda' and process.n_gpus == process.group.size == 1
    update = next(iter(updates.values()))
    return Replay(stage, update, quantized, log) if suits and alone and update.takes_veto else None
