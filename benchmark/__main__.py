"""Compare speed and memory with a direct implementation of the method (reference/).

    python -m benchmark                      a table within 10 minutes on two CPU cores
    python -m benchmark --paper              the paper's batch and patches: 35 minutes
    python -m benchmark stage4 student       some cases only

Both implementations of a case run in separate processes and are called alternately, so that a slowdown of the machine
affects both.
"""
import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmark.cases import CASES, Size, write_photos
from benchmark.side import Side, matmul_peak
from process.command import command_line
from utility import UserError, choose_device

PAPER = {'batch': 16, 'patch': 64}


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    args = parse(argv)
    size = Size(**{name: value for name, value in vars(args).items() if name in Size._fields and value is not None})
    choose_device(size.device)
    for name in args.cases:  # a mistake is reported before anything is started
        size.options(int(name.removeprefix('stage')) if name.startswith('stage') else 4)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix='benchmark.') as folder:
        size = size._replace(folder=folder)
        if 'data' in args.cases:
            write_photos(Path(folder))
        peak = matmul_peak(size, args.threads)
        result = {'machine': machine(args.threads), 'matmul_peak_gmacs': peak / 1e9,
                  'size': {name: value for name, value in size._asdict().items() if name != 'folder'}, 'cases': []}
        print(heading(result), flush=True)
        for name in args.cases:
            result['cases'].append(measure(name, size, args, peak))
            print(table_row(result['cases'][-1]), flush=True)
    print(f'{(time.monotonic() - start) / 60:.1f} minutes')
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=1) + '\n', encoding='utf-8')
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The options; `cases` holds every case to run."""
    parser = argparse.ArgumentParser(prog='python -m benchmark', description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('cases', nargs='*', help=f'of {", ".join(CASES)}; default: all')
    parser.add_argument('--paper', action='store_true', help='batch 16 and patches of 64 pixels')
    parser.add_argument('--rounds', type=int, default=3, help='calls of both sides, alternately (default 3)')
    parser.add_argument('--threads', type=int, default=torch.get_num_threads(), help='CPU threads of each side')
    parser.add_argument('--json', help='JSON file to write the result to')
    parser.add_argument('--batch', type=int, help='patches per batch (default 4)')
    parser.add_argument('--patch', type=int, help='side of a patch, in LR pixels (default 48)')
    parser.add_argument('--lq', type=height_and_width,
                        help='height x width of the LR image to super-resolve (default 180x320)')
    parser.add_argument('--n_feats', type=int, help='channels of the MLN (default 128)')
    parser.add_argument('--n_blocks', type=int, help='blocks of the SR network (default 27)')
    parser.add_argument('--scale', type=int, choices=(2, 3, 4), help='scale factor (default 4)')
    parser.add_argument('--model', choices=('mrda', 'kdsr'), help='family; kdsr has no stages 1 and 2 (default mrda)')
    parser.add_argument('--device', help='auto, cpu or cuda (default auto)')
    parser.add_argument('--precision', choices=('single', 'bf16', 'half'), help='of our side (default single)')
    parser.add_argument('--compile', action='store_true', help='our side with --compile')
    args = parser.parse_args(argv)
    known = [name for name in CASES if args.model != 'kdsr' or name not in ('stage1', 'stage2')]
    args.cases = args.cases or known
    if unknown := set(args.cases) - set(known):
        parser.error(f'no such case: {", ".join(sorted(unknown))}; choose from {", ".join(known)}')
    if min(args.rounds, args.threads) < 1:
        parser.error('--rounds and --threads take whole numbers, 1 or more')
    for name, value in PAPER.items() if args.paper else ():
        setattr(args, name, getattr(args, name) or value)
    return args


def height_and_width(text: str) -> tuple[int, int]:
    """An argparse type: 180x320."""
    height, width = map(int, text.split('x'))  # argparse reports a ValueError
    return height, width


def measure(name: str, size: Size, args: argparse.Namespace, peak: float) -> dict:
    """One row of the table: medians of both sides, called alternately. peak: multiply-adds per second of matmuls."""
    sides = []
    try:
        for mine in (True, False):
            sides.append(Side(name, mine, size, args.threads))
        ours, plain = sides
        times = [(ours.ask('time'), plain.ask('time')) for _ in range(args.rounds)]
        memory, base = zip(*(side.ask('memory') for side in sides), strict=True)
        work = ours.ask('work')
    except (EOFError, ConnectionError):
        raise UserError(f'{name}: one side ended early, perhaps out of memory; lower --batch') from None
    finally:
        for side in sides:
            side.close()
    seconds = [statistics.median(column) for column in zip(*times, strict=True)]
    return {'case': name, 'call': CASES[name][0], 'seconds': seconds[0], 'plain_seconds': seconds[1],
            'ratio': statistics.median(b / a for a, b in times), 'times': times,
            'memory_mib': memory[0] / 2**20, 'plain_memory_mib': memory[1] / 2**20, 'libraries_mib': base[0] / 2**20,
            'gmacs': work / 1e9, 'share_of_peak': work / seconds[0] / peak}


def machine(threads: int) -> str:
    """A description of the machine, without its name."""
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    else:
        device = f'{os.cpu_count()} CPU cores ({platform.machine()}, {torch.backends.cpu.get_cpu_capability()})'
    return f'{device}, {threads} threads, PyTorch {torch.__version__.split("+")[0]}'


def heading(result: dict) -> str:
    """The heading of the table."""
    size = result['size']
    return f"""{result['machine']}; matrix products reach {result['matmul_peak_gmacs']:.0f} G multiply-adds a second
{size['model']} x{size['scale']}, {size['precision']}, batch {size['batch']} of {size['patch']}x{size['patch']} LR \
pixels, student on {size['lq'][0]}x{size['lq'][1]}; memory without that of the libraries

| case | one call is a | plain | ours | ratio | peak memory, plain | ours | ratio | of the peak |
|---|---|--:|--:|--:|--:|--:|--:|--:|"""


def table_row(row: dict) -> str:
    """One case as a line of Markdown."""
    memory = [row[key] - row['libraries_mib'] for key in ('plain_memory_mib', 'memory_mib')]
    memory = [f'{memory[0]:,.0f} MiB', f'{memory[1]:,.0f} MiB', f'{memory[1] / memory[0]:.2f}']
    cells = [row['case'], row['call'], duration(row['plain_seconds']), duration(row['seconds']),
             f'**{row["ratio"]:.1f}**', *(memory if row['plain_memory_mib'] - row['libraries_mib'] > 32 else [''] * 3),
             f'{row["share_of_peak"]:.0%}' if row['gmacs'] else '']
    return f'| {" | ".join(cells)} |'


def duration(seconds: float) -> str:
    """A time as text, in seconds or milliseconds."""
    return f'{seconds:.2f} s' if seconds >= 0.1 else f'{seconds * 1e3:.1f} ms'


if __name__ == '__main__':
    sys.exit(command_line()(main)())
