"""How fast one student is in different inference engines, on the CPU.

    python tools/engines.py                           # the default weights of zoo/ on an LR image of 180x320
    python tools/engines.py --weights weights.pt --lq 360x640 --threads 4

Every engine runs in a process of its own and is called in turn, so that a machine that slows down slows all. The graph
is that of tools/export_onnx.py. Engines that are not installed are left out, with a line: pip install onnxruntime
onnxscript openvino.
"""
import argparse
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmark.__main__ import duration, height_and_width, machine
from model import zoo
from process.arguments import Parser, count
from process.command import command_line
from tools.export_onnx import exportable, graph
from utility import UserError, generator

SINGLE = 'PyTorch, single'  # what the others are compared with


def torch_engine(weights: str | None, threads: int, precision: torch.dtype | None = None) -> Callable:
    """The student in PyTorch, without gradients; `precision`: autocast to it, None for float32."""
    torch.set_num_threads(threads)
    student, facts, _ = zoo.load_student(weights)
    network = exportable(student, facts['scale'], facts['rgb_range']).to(memory_format=torch.channels_last)

    def run(lq):
        with torch.no_grad(), torch.autocast('cpu', precision, enabled=precision is not None):
            return network(torch.from_numpy(lq)).float().numpy()
    return run


def onnxruntime_engine(weights: str | None, threads: int) -> Callable:
    """The exported graph in onnxruntime."""
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry('session.intra_op.allow_spinning', '0')  # idle, it leaves the cores to the others
    session = onnxruntime.InferenceSession(exported(weights), options, providers=['CPUExecutionProvider'])
    return lambda lq: session.run(['sr'], {'lq': lq})[0]


def openvino_engine(weights: str | None, threads: int, precision: str) -> Callable:
    """The exported graph in OpenVINO, compiled for the size that it is first called with."""
    import openvino
    core, data = openvino.Core(), exported(weights)
    network, compiled = core.read_model(data, b''), {}

    def run(lq):
        if lq.shape not in compiled:
            network.reshape(list(lq.shape))
            compiled[lq.shape] = core.compile_model(network, 'CPU', {
                'INFERENCE_NUM_THREADS': threads, 'PERFORMANCE_HINT': 'LATENCY',
                'INFERENCE_PRECISION_HINT': precision})
        return next(iter(compiled[lq.shape](lq).values()))
    return run


@lru_cache(maxsize=1)
def exported(weights: str | None) -> bytes:
    """The student as the bytes of an ONNX graph."""
    student, facts, _ = zoo.load_student(weights)
    return graph(student, facts).SerializeToString()


ENGINES = {  # name: (packages that it needs, what makes it of (weights, threads), more arguments)
    SINGLE: ((), torch_engine, {}),
    'PyTorch, bf16': ((), torch_engine, {'precision': torch.bfloat16}),
    'onnxruntime, single': (('onnx', 'onnxscript', 'onnxruntime'), onnxruntime_engine, {}),
    'OpenVINO, single': (('onnx', 'onnxscript', 'openvino'), openvino_engine, {'precision': 'f32'}),
    'OpenVINO, bf16': (('onnx', 'onnxscript', 'openvino'), openvino_engine, {'precision': 'bf16'}),
}


def missing(name: str) -> list[str]:
    """The packages that an engine needs and that are not installed."""
    return [package for package in ENGINES[name][0] if find_spec(package) is None]


class Engine:
    """A process that holds the engine `name`, warmed up on lq (1, 3, h, w) and idle."""

    def __init__(self, name: str, weights: str | None, threads: int, lq: np.ndarray) -> None:
        context = multiprocessing.get_context('spawn')
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, name, weights, threads, lq), daemon=True)
        self.process.start()
        theirs.close()
        try:
            self.sr = self.pipe.recv()
        except EOFError:
            raise UserError(f'{name}: ended early (see above); if memory ran out, take a smaller --lq') from None

    def seconds(self) -> float:
        """Of one call."""
        self.pipe.send('time')
        return self.pipe.recv()

    def close(self) -> None:
        """End the process."""
        self.pipe.send('')
        self.process.join(5)
        self.process.kill()


def serve(pipe: Connection, name: str, weights: str | None, threads: int, lq: np.ndarray) -> None:
    """The process: sends sr, then times a call whenever it is asked."""
    _, make, more = ENGINES[name]
    run = make(weights, threads, **more)
    run(lq)
    pipe.send(run(lq))
    while pipe.recv():
        start = time.perf_counter()
        run(lq)
        pipe.send(time.perf_counter() - start)


@command_line()
def main(argv: list[str] | None = None) -> None:
    """The command."""
    parser = Parser(prog='tools/engines.py', description=__doc__, allow_abbrev=False,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--weights', metavar='NAME_OR_FILE', help='shipped weights, or a file of your own')
    parser.add_argument('--lq', type=height_and_width, default=(180, 320),
                        help='height x width of the LR image (default: 180x320)')
    parser.add_argument('--rounds', type=count, default=7, help='calls of each engine (default: 7)')
    parser.add_argument('--threads', type=count, default=torch.get_num_threads(), help='CPU threads of each engine')
    args = parser.parse_args(argv)
    lq = torch.rand(1, 3, *args.lq, generator=generator('cpu', 'benchmark')).numpy()
    _, facts, _ = zoo.load_student(args.weights)
    engines = {}
    print(f'{machine(args.threads)}; {facts["model"]} x{facts["scale"]}, {facts.get("n_blocks", "")} blocks, LR image '
          f'of {args.lq[0]}x{args.lq[1]}; median of {args.rounds} calls in turn\n')
    try:
        for name in ENGINES:
            if absent := missing(name):
                print(f'left out: {name} (not installed: {", ".join(absent)})')
            else:
                engines[name] = Engine(name, args.weights, args.threads, lq)
        times = {name: [] for name in engines}
        for _ in range(args.rounds):
            for name, engine in engines.items():
                times[name].append(engine.seconds())
    finally:
        for engine in engines.values():
            engine.close()
    print('| engine | time | against PyTorch, single | largest difference from it |\n|---|--:|--:|--:|')
    for name, engine in engines.items():
        ratio = statistics.median(a / b for a, b in zip(times[name], times[SINGLE], strict=True))
        print(f'| {name} | {duration(statistics.median(times[name]))} | {ratio:.2f} | '
              f'{np.abs(engine.sr - engines[SINGLE].sr).max():.1e} |')


if __name__ == '__main__':
    sys.exit(main())
