"""Times and memory: matrix products, steps of each stage, layouts, --compile, CUDA graphs, degradations, a student."""
import math
import os
import platform
from functools import partial

import torch

from benchmark.cases import (
    CASES,
    Size,
    our_degradation,
    our_second_order,
    our_step,
    our_super_resolution,
    plain_super_resolution,
)
from benchmark.gpu.part import LAYOUTS, Clock, Report, Setting, layout, own_layout, tf32, timed
from benchmark.side import matmul_peak, multiply_adds
from model.adapt import adapt, step_sizes
from model.mln import MLN
from utility import out_of_memory, place

STEPS = {'stage1': (1, False), 'stage2': (2, False), 'stage3': (3, False), 'stage4': (4, False), 'encoder': (4, True)}
WINS = 1.1  # of a CUDA graph, to be worth an option


def environment(setting: Setting, report: Report) -> None:
    """Versions, the card, and the peak of its matrix products in each arithmetic."""
    facts = {'Python': platform.python_version(), 'PyTorch': torch.__version__, 'CUDA': torch.version.cuda,
             'cuDNN': torch.backends.cudnn.version(), 'CPU cores': os.cpu_count(), 'GPUs': torch.cuda.device_count()}
    if setting.device.type == 'cuda':
        card = torch.cuda.get_device_properties(0)
        facts |= {'card': card.name, 'memory, MiB': card.total_memory // 2**20,
                  'processors': card.multi_processor_count, 'compute capability': f'{card.major}.{card.minor}',
                  'architectures': ' '.join(torch.cuda.get_arch_list())}
    for name, value in facts.items():
        report.add(what=name, value=value)
    for name, peak in peaks(setting).items():
        report.add(what=f'matrix products, {name}', value=f'{peak / 1e12:.3f} T multiply-adds a second')


def peaks(setting: Setting) -> dict[str, float]:
    """Multiply-adds a second of matrix products, by arithmetic."""
    found = {}
    for name, (precision, allowed) in setting.arithmetic.items():
        if setting.quick and name != 'float32':
            continue  # CPUs take minutes for large products in 16 bits
        with tf32(allowed):
            found[name] = matmul_peak(setting.size._replace(precision=precision), torch.get_num_threads())
    return found


def steps(setting: Setting, report: Report) -> None:
    """Each stage: the plain method, and ours in each arithmetic and layout."""
    peak, times, clock = peaks(setting), {}, Clock(440)
    for name, (number, encoder_only) in STEPS.items():
        make = partial(our_step, number=number, encoder_only=encoder_only)
        work = multiply_adds(make(setting.size))
        plain = {each: row(report, setting, name, 'plain', each, '', CASES[name][2], work, peak, None)
                 for each in setting.arithmetic if each in ('float32', 'TF32')}
        for each in setting.timed:
            for arranged in LAYOUTS:
                if clock.over():
                    report.note(f'the time was over at {name}, {each}')
                    return
                times[name, each, arranged] = row(report, setting, name, 'ours', each, arranged, make, work, peak,
                                                  plain.get(each, plain['float32']))
    for each in setting.timed:
        choose(report, setting, each, times)


def row(report: Report, setting: Setting, case: str, side: str, arithmetic: str, arranged: str, make: partial,
        work: float, peak: dict[str, float], plain: float | None) -> float:
    """Measure one configuration and report it; returns its seconds, inf where memory ran out. plain: seconds of the
    plain method in the same arithmetic, in float32 for 16 bits."""
    precision, allowed = setting.arithmetic[arithmetic]
    size = setting.size._replace(precision=precision)
    try:
        with tf32(allowed), layout(arranged or 'contiguous'):
            mean, memory = timed(partial(make, size), setting)
    except Exception as error:
        if 'out of memory' not in str(error) and not out_of_memory(error):
            raise
        mean, memory = math.inf, None
    top = peak.get(arithmetic)
    report.add(**{'case': case, 'side': side, 'arithmetic': arithmetic, 'layout': arranged,
                  'ms': round(mean * 1e3, 2) if mean < math.inf else 'out of memory',
                  'times as fast as plain': round(plain / mean, 2) if plain else '',
                  'peak, MiB': round(memory) if memory else '',
                  'of the peak': f'{work / mean / top:.0%}' if top and mean else ''})
    return mean


def choose(report: Report, setting: Setting, arithmetic: str, times: dict) -> None:
    """Note which layout is faster over all stages, and whether the product takes it."""
    cases = {case for case, each, _ in times if each == arithmetic}
    ratio = math.prod(times[case, arithmetic, 'contiguous'] / times[case, arithmetic, 'channels last']
                      for case in cases) ** (1 / len(cases))
    own = own_layout(setting.device, setting.arithmetic[arithmetic][0])
    faster = 'channels last' if ratio > 1 else 'contiguous'
    report.note(f'{arithmetic}: {faster} is {max(ratio, 1 / ratio):.2f} times as fast over {len(cases)} cases; '
                f'the product takes {own}' + (', the slower one: see utility.memory_format' if own != faster else ''))


def compiled(setting: Setting, report: Report) -> None:
    """Stages 3 and 4: plain, with --compile, and with --compile and --recompute False, which replays a CUDA graph."""
    sides = {'plain': (False, True), '--compile': (True, True), '--compile --recompute False': (True, False)}
    for number in (3,) if setting.quick else (3, 4):
        for arithmetic in ('float32',) if setting.quick else ('TF32', 'bf16'):
            precision, allowed = setting.arithmetic[arithmetic]
            found = []
            for side, (compile, recompute) in sides.items():
                size = setting.size._replace(precision=precision, compile=compile)
                with tf32(allowed):
                    mean, memory = timed(partial(our_step, size, number, more=[f'--recompute={recompute}']), setting)
                found.append(mean)
                report.add(**{'stage': number, 'arithmetic': arithmetic, 'flags': side, 'ms': round(mean * 1e3, 2),
                              'peak, MiB': round(memory) if memory else ''})
            report.note(f'stage {number}, {arithmetic}: {found[0] / found[1]:.2f} times as fast with --compile, '
                        f'{found[0] / found[2]:.2f} times without recomputing, too')


def degradations(setting: Setting, report: Report) -> None:
    """Batches and HR patches a second that are degraded, each waited for."""
    cases = {'isotropic': partial(our_degradation, isotropic=True),
             'anisotropic': partial(our_degradation, isotropic=False), 'second order, one each': our_second_order}
    for name, make in cases.items():
        mean, _ = timed(partial(make, setting.size), setting)
        report.add(**{'degradation': name, 'ms a batch': round(mean * 1e3, 2),
                      'images/s': round(setting.size.batch / mean)})


def student(setting: Setting, report: Report) -> None:
    """One image at a time, its result on the host."""
    size: Size = setting.size._replace(patch=8)
    sides = {'plain': (plain_super_resolution, ('float32', 'TF32')), 'ours': (our_super_resolution, setting.timed)}
    for side, (make, wanted) in sides.items():
        for arithmetic in (each for each in wanted if each in setting.arithmetic):
            precision, allowed = setting.arithmetic[arithmetic]
            for arranged in LAYOUTS if side == 'ours' else ('contiguous',):
                with tf32(allowed), layout(arranged):
                    mean, _ = timed(partial(make, size._replace(precision=precision)), setting)
                report.add(side=side, arithmetic=arithmetic, layout=arranged, image=f'{size.lq[0]}x{size.lq[1]}',
                           ms=round(mean * 1e3, 2))


def graphs(setting: Setting, report: Report) -> None:
    """The adaptation loop of stages 3 and 4 launched kernel by kernel, and replayed as one CUDA graph."""
    setting.needs_cuda('other devices have no graphs of kernels')
    size = setting.size
    mln = place(MLN(size.n_feats, size.scale).requires_grad_(False), setting.device)
    lq = torch.rand(size.batch, 3, size.patch, size.patch, device=setting.device)
    up, hr = torch.rand(2, size.batch, 3, *(size.scale * side for side in lq.shape[-2:]), device=setting.device)
    for frozen in False, True:
        work = partial(adapt, mln, lq, up, hr, step_sizes(5), frozen)
        eager, _ = timed(lambda work=work: work, setting)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                expected = work()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = work()
        replayed, _ = timed(lambda graph=graph: graph.replay, setting)
        apart = max(float((captured[name] - each).abs().max()) for name, each in expected.items())
        report.add(**{'tail frozen': frozen, 'ms, kernel by kernel': round(eager * 1e3, 2),
                      'ms, replayed': round(replayed * 1e3, 2), 'times as fast': round(eager / replayed, 2),
                      'weights apart': f'{apart:.1e}', 'worth an option': eager / replayed >= WINS})
