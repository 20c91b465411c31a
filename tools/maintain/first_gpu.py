"""Checks and measurements for the first run on a GPU, within 30 minutes, written as JSON and Markdown.

    sh scripts/first_gpu.sh                                 every part
    sh scripts/first_gpu.sh --part steps --part student     some of them
    sh scripts/first_gpu.sh --device cpu --quick            a rehearsal in small sizes, without what needs CUDA

Each part runs in a separate process with a time limit; a failure is reported in one line and does not stop the others.
"""
import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from benchmark.gpu import PARTS
from benchmark.gpu.part import LeftOut, Report, Setting
from process.arguments import Parser
from process.command import command_line
from utility import VERSION, choose_device

ROOT = Path(__file__).resolve().parent.parent.parent


def main(argv: list[str] | None = None) -> int:
    """The command; returns 1 if a part failed."""
    args = parse(argv)
    if args.result:
        return work(args.part[0], Setting(choose_device(args.device), args.quick), Report(Path(args.result)))
    device = choose_device(args.device)
    args.out.mkdir(parents=True, exist_ok=True)
    card = torch.cuda.get_device_name() if device.type == 'cuda' else f'{os.cpu_count()} CPU cores'
    found = {'version': VERSION, 'device': f'{card}, PyTorch {torch.__version__}', 'quick': args.quick, 'parts': {}}
    for name in args.part or PARTS:
        print(f'{name} …', end=' ', flush=True)
        found['parts'][name] = part = call(name, args)
        print(f'{part["status"]}, {part["seconds"]:.0f} s', flush=True)
        (args.out / 'first_gpu.json').write_text(json.dumps(found, indent=1) + '\n', encoding='utf-8')
        (args.out / 'first_gpu.md').write_text(markdown(found), encoding='utf-8')
    print(f'{args.out}/first_gpu.md, {args.out}/first_gpu.json')
    return int(any(part['status'].startswith('failed') for part in found['parts'].values()))


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = Parser(prog='tools/maintain/first_gpu.py', description=__doc__,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--device', default='cuda', choices=('cuda', 'cpu'), help='what to measure (default cuda)')
    parser.add_argument('--quick', action='store_true', help='small sizes, few repetitions: a rehearsal')
    parser.add_argument('--part', action='append', choices=tuple(PARTS), help='one part only; may be given repeatedly')
    parser.add_argument('--out', type=Path, default=Path('experiment/first_gpu'), help='folder of the two files')
    parser.add_argument('--result', help=argparse.SUPPRESS)  # of the process of one part
    return parser.parse_args(argv)


def call(name: str, args: argparse.Namespace) -> dict:
    """Run a part in a separate process; returns its rows, notes, status and seconds."""
    start, limit = time.monotonic(), PARTS[name].seconds * (1 if args.device == 'cuda' else 4)
    with tempfile.TemporaryDirectory(prefix='first_gpu.') as folder:
        file = Path(folder) / 'result.json'
        command = [sys.executable, __file__, '--part', name, '--device', args.device, '--result', str(file)]
        process = subprocess.Popen(command + ['--quick'] * args.quick, cwd=ROOT, start_new_session=True)
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            status = None
        part = {'rows': [], 'notes': [], 'failed': []}
        if file.exists():
            part |= json.loads(file.read_text(encoding='utf-8'))
    if status is None:
        part['failed'].append(f'took more than {limit} s; the rows are those until then')
    elif status and not part['failed']:
        part['failed'].append(f'its process ended with status {status}')
    left_out = part.pop('left out', None)
    part['status'] = 'failed: ' + '; '.join(part['failed']) if part['failed'] else left_out or 'done'
    return part | {'seconds': round(time.monotonic() - start, 1)}


def work(name: str, setting: Setting, report: Report) -> int:
    """The main function of the process of a part; returns its exit status."""
    try:
        PARTS[name].run(setting, report)
    except LeftOut as reason:
        report.leave_out(str(reason))
    except Exception as error:
        traceback.print_exc()
        report.check(False, f'{type(error).__name__}: {(str(error).strip() or "no message").splitlines()[0]}')
    return int(bool(report.content['failed']))


def markdown(found: dict) -> str:
    """The whole report."""
    lines = ['# First run on a device', '', f'{found["device"]}; version {found["version"]}'
             + ('; a rehearsal in small sizes: ignore the numbers' if found['quick'] else ''), '',
             '| part | result | seconds |', '|---|---|--:|']
    lines += [f'| {name} | {part["status"]} | {part["seconds"]:.0f} |' for name, part in found['parts'].items()]
    for name, part in found['parts'].items():
        lines += ['', f'## {PARTS[name].title}', '', f'*{name}: {part["status"]}*']
        if part['rows']:
            columns = list(dict.fromkeys(column for row in part['rows'] for column in row))
            lines += ['', f'| {" | ".join(columns)} |', '|' + '---|' * len(columns)]
            lines += [f'| {" | ".join(str(row.get(column, "")) for column in columns)} |' for row in part['rows']]
        lines += ['', *(f'- {note}' for note in part['notes'])] if part['notes'] else []
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    sys.exit(command_line()(main)())
