"""One side of a case in a process of its own, which runs it whenever it is told to and knows its own peak memory."""
import multiprocessing
import resource
import sys
import time
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmark.cases import CASES

SHORTEST = 0.2  # seconds: shorter calls are repeated until they take this long


class Side:
    """A process that holds the case `name` of `size` at `threads` threads, ours or plain, warmed up and idle."""

    def __init__(self, name, ours, size, threads):
        context = multiprocessing.get_context('spawn')
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, name, ours, size, threads), daemon=True)
        self.process.start()
        theirs.close()
        self.pipe.recv()  # it is ready: the other side does not start, nor is it timed, before

    def ask(self, what):
        """'time' → seconds of one call; 'work' → its multiply-adds; 'memory' → peak bytes so far, and how many of them
        Python and its libraries take.

        Raises EOFError if the process has died."""
        self.pipe.send(what)
        return self.pipe.recv()

    def close(self):
        self.process.terminate()
        self.process.join()


def serve(pipe, name, ours, size, threads):
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


def seconds(call, repeat):
    start = time.perf_counter()
    for _ in range(repeat):
        call()
    return (time.perf_counter() - start) / repeat


def multiply_adds(call):
    """Those of all convolutions and matrix products, backwards too, as they are run."""
    def backward(grad_shape, x_shape, w_shape, *args, out_shape=None, **kwargs):
        # PyTorch's own formula takes a grouped convolution for a full one.
        output_mask = args[-1]
        once = 2 * grad_shape[0] * torch.Size(grad_shape[2:]).numel() * torch.Size(w_shape).numel()
        return once * sum(output_mask[:2])

    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: backward}) as counter:
        call()
    return counter.get_total_flops() / 2


def peak_memory(device):
    """Most bytes that this process has held so far: on the GPU if there is one, otherwise in main memory."""
    if device != 'cpu' and torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    status = Path('/proc/self/status')
    if status.exists():  # Linux: ru_maxrss would count what the parent held when it forked
        return int(status.read_text().split('VmHWM:')[1].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024)


def matmul_peak(size, threads):
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
