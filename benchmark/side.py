"""One side of a case in a process of its own, which runs it on request and knows its own peak memory."""
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmark.cases import CASES, Size

SHORTEST = 0.2  # seconds: shorter calls are repeated until they take this long


class Side:
    """A process that holds the case `name` of `size` at `threads` threads, ours or plain, warmed up and idle."""

    def __init__(self, name: str, ours: bool, size: Size, threads: int) -> None:
        context = multiprocessing.get_context('spawn')
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, name, ours, size, threads), daemon=True)
        self.process.start()
        theirs.close()
        self.pipe.recv()  # it is ready: the other side does not start, nor is it timed, before

    def ask(self, what: str) -> float | tuple[int, int]:
        """'time': seconds of one call; 'work': its multiply-adds; 'memory': peak bytes so far, and those of Python and
        its libraries. Raises EOFError if the process has died."""
        self.pipe.send(what)
        return self.pipe.recv()

    def close(self) -> None:
        """End the process."""
        self.process.terminate()
        self.process.join()


def serve(pipe: Connection, name: str, ours: bool, size: Size, threads: int) -> None:
    """The process: answers ask() until it is ended."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    base = peak_memory(size.device)
    call = CASES[name][1 if ours else 2](size)
    call()  # warms up: caches, compilation
    repeat = max(1, round(SHORTEST / max(seconds(call, 1), 1e-5)))
    pipe.send('ready')
    while True:
        what = pipe.recv()
        if what == 'time':
            pipe.send(seconds(call, repeat))
        else:
            pipe.send(multiply_adds(call) if what == 'work' else (peak_memory(size.device), base))


def seconds(call: Callable, repeat: int) -> float:
    """Seconds of one call, the mean of `repeat` calls."""
    start = time.perf_counter()
    for _ in range(repeat):
        call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()  # a training step is asynchronous
    return (time.perf_counter() - start) / repeat


def multiply_adds(call: Callable) -> float:
    """Multiply-adds of all convolutions and matrix products in a call, including the backward pass."""
    def backward(grad_shape, x_shape, w_shape, *args, out_shape=None, **kwargs):
        # PyTorch's own formula treats a grouped convolution like a full one.
        output_mask = args[-1]
        once = 2 * grad_shape[0] * torch.Size(grad_shape[2:]).numel() * torch.Size(w_shape).numel()
        return once * sum(output_mask[:2])

    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: backward}) as counter:
        call()
    return counter.get_total_flops() / 2


def peak_memory(device: str) -> int:
    """The peak memory of this process so far, in bytes: on the GPU if there is one, otherwise in main memory."""
    if device != 'cpu' and torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    status = Path('/proc/self/status')
    if status.exists():  # Linux: ru_maxrss would count what the parent held when it forked
        return int(status.read_text().split('VmHWM:')[1].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024)


def matmul_peak(size: Size, threads: int) -> float:
    """Multiply-adds a second of the fastest of some matrix products in the precision of `size`."""
    torch.set_num_threads(threads)
    device = 'cuda' if size.device != 'cpu' and torch.cuda.is_available() else 'cpu'
    kind = {'single': torch.float32, 'bf16': torch.bfloat16, 'half': torch.float16}[size.precision]
    best = 0
    for n in (512, 1024, 2048, 4096) if device == 'cpu' else (4096, 8192):
        a, b = torch.rand(2, n, n, dtype=kind, device=device)
        for _ in range(3):
            best = max(best, n**3 / seconds(lambda a=a, b=b: (a @ b)[0, 0].item(), 1))
    return best
