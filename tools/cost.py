"""What a network costs: parameters, multiply-adds, time and peak memory of one forward pass; memory of a training step.

    python tools/cost.py --stage 4                      the student at a 180x320 lq
    python tools/cost.py --stage 3 --model kdsr --size 64x64
    python tools/cost.py --stage 3 --batch_size 16      the memory of a training step, planned without running it

--stage chooses the network: 1, 2: the MLN, 3: the teacher, 4: the student. All flags of main.py that shape it apply.
"""
import argparse
import re
import statistics
import sys
import time
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from model import build
from model.tail import Tail
from option import parse
from process.arguments import Parser, count
from process.command import command_line
from run.plan import training_plan
from store.journal import peak_memory
from utility import UserError, choose_device, memory_format

ROLES = {1: 'mln', 2: 'mln', 3: 'teacher', 4: 'student', 5: 'student'}
PUBLISHED = {('mrda', 'student', 4, 27): '5.84 M parameters, 172.13 G multiply-adds, 42.61 ms (MRDA, TIP 2023)'}


def inputs(net: torch.nn.Module, role: str, args: argparse.Namespace, height: int, width: int,
           device: torch.device) -> tuple[torch.Tensor, ...]:
    """The inputs of the network's forward for one lq of height x width."""
    lq = torch.rand(1, args.n_colors, height, width, device=device)
    if role == 'mln':
        return lq, torch.rand(1, args.n_colors, height * args.scale, width * args.scale, device=device)
    if role == 'teacher':
        first = next(module for module in net.encoder.modules() if isinstance(module, torch.nn.Conv2d))
        return lq, torch.rand(1, first.in_channels, height, width, device=device)
    return (lq,)


def multiply_adds(net: torch.nn.Module, images: tuple[torch.Tensor, ...]) -> float:
    """Multiply-adds of one forward pass as counted by PyTorch, without biases and element-wise operations."""
    with FlopCounterMode(display=False) as counter:
        net(*images)
    return counter.get_total_flops() / 2


def plain_multiply_adds(net: torch.nn.Module, images: tuple[torch.Tensor, ...]) -> float:
    """The same with separate layers as in the paper, without fusing the upsampling tail into one convolution."""
    tails = [module for module in net.modules() if isinstance(module, Tail)]
    for tail in tails:
        tail.forward = lambda x, fused=None, tail=tail: tail.plain(x)
    count = multiply_adds(net, images)
    for tail in tails:
        del tail.forward
    return count


def measure(net: torch.nn.Module, images: tuple[torch.Tensor, ...], device: torch.device,
            runs: int) -> tuple[float, int | None]:
    """Median seconds of a forward pass, and the peak memory in bytes of the process (on CUDA: of the device)."""
    times = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        net(*images)
        if device.type == 'cuda':
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:]), peak_memory(device)


def plan_text(args: argparse.Namespace, device: torch.device) -> str:
    """The planned memory of a training step of the stage, as lines."""
    plan = training_plan(args, device, args.batch_size)
    mib = [f'{each / 2**20:,.0f} MiB' for each in plan]
    return (f'training step         batch {args.batch_size} of {args.patch_size}x{args.patch_size} LR pixels, '
            f'{args.precision}, --recompute {args.recompute}\n'
            f'  all weights         {mib[0]}\n  optimisation        {mib[1]}: gradients, moments, average\n'
            f'  kept activations    {mib[2]}\n  peak of tensors     {mib[3]}')


@command_line()
@torch.no_grad()
def main(argv: list[str] | None = None) -> None:
    """The command."""
    own = Parser(prog='tools/cost.py', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    own.add_argument('--size', default='180x320', help='height x width of lq, pixels (default 180x320)')
    own.add_argument('--runs', type=count, default=5, help='timed passes, after one warm-up (default 5)')
    mine, rest = own.parse_known_args(argv)
    args = parse(rest)
    if {'batch_size', 'patch_size'} & args.given and args.stage != 'all':
        print(plan_text(args, choose_device(args.device)))
        return
    if args.stage == 'all' or not re.fullmatch(r'[1-9]\d*x[1-9]\d*', mine.size):
        raise UserError('cost.py needs one --stage, and --size HEIGHTxWIDTH such as 180x320')
    height, width = map(int, mine.size.split('x'))
    device, role = choose_device(args.device), ROLES[args.stage]
    net = build(args, role).to(device, memory_format=memory_format(device))
    images = inputs(net, role, args, height, width, device)
    seconds, peak = measure(net, images, device, mine.runs)
    parameters = sum(p.numel() for p in net.parameters())
    print(f'{args.model} {role} x{args.scale}, lq {height}x{width}, {device.type}'
          + (f', {torch.get_num_threads()} threads' if device.type == 'cpu' else ''))
    print(f'parameters            {parameters:,} ({parameters / 1e6:.2f} M)')
    print(f'multiply-adds         {plain_multiply_adds(net, images) / 1e9:.2f} G with the separate layers of the paper')
    print(f'                      {multiply_adds(net, images) / 1e9:.2f} G as run (fused tail)')
    print(f'time                  {seconds * 1e3:.1f} ms, median of {mine.runs}')
    print(f'peak memory           {peak / 2 ** 20:.0f} MiB '
          + ('on the device' if device.type == 'cuda' else 'of the whole process'))
    published = PUBLISHED.get((args.model, role, args.scale, args.n_blocks))
    if published and mine.size == '180x320':
        print(f'published             {published}')


if __name__ == '__main__':
    sys.exit(main())
