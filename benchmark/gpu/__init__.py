"""PARTS, the checks and measurements for a first run on a GPU: see tools/maintain/first_gpu.py."""
from collections.abc import Callable
from typing import NamedTuple

from benchmark.gpu import agreement, several, shortage, speed
from benchmark.gpu.part import Report, Setting


class Part(NamedTuple):
    """run(setting, report) fills the report within about `seconds` on a GPU; title: what it shows."""
    run: Callable[[Setting, Report], None]
    seconds: int
    title: str


PARTS = {
    'environment': Part(speed.environment, 60, 'The machine, and what its matrix products reach'),
    'goldens': Part(agreement.published, 120, 'Numbers of the public implementations, on the device'),
    'weights': Part(agreement.weights, 180, 'Weights after 20 steps of each stage, against those of the CPU'),
    'waits': Part(agreement.waits, 120, 'Steps in which nothing may wait for the device'),
    'shortage': Part(shortage.shortage, 90, 'Out of memory on purpose'),
    'plan': Part(shortage.plan, 120, 'Planned and measured memory of a training step'),
    'student': Part(speed.student, 60, 'The student on one image (published for MRDA_S on 180x320, x4: 42.61 ms)'),
    'degradations': Part(speed.degradations, 60, 'Degradations'),
    'graphs': Part(speed.graphs, 60, 'The adaptation loop as a CUDA graph'),
    'data': Part(several.data, 120, 'The share of a training that waits for data'),
    'several': Part(several.several, 150, 'Several GPUs, or one rank where there is one'),
    'steps': Part(speed.steps, 480, 'Training steps, against the direct implementation'),
    'compile': Part(speed.compiled, 180, 'Training steps with --compile'),
}
