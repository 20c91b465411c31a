"""The weights that zoo/ ships, by the product's own command line: as many steps a stage as fit into the time given.

A plan is made first, by timing some steps of each stage on this device, and kept in experiment/<name>/plan.json, so
that a second run goes on with the same one. The runs are experiment/<name>_stage1 … <name>_stage4.
"""
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import main as program
from option import Parser, parse
from stages import STAGES
from store.files import write_bytes
from utility import UserError, choose_device, command_line, derive_seed, shown

SIZES = {
    'small': ['--n_blocks', '8', '--n_feats', '48', '--batch_size', '8', '--patch_size', '40', '--n_threads', '1',
              '--meta_batch_size', '3'],
    'full': ['--n_blocks', '27', '--n_feats', '128', '--batch_size', '32', '--patch_size', '64', '--n_threads', '8'],
}
# Stage: its share of the time, epochs, their flags. What is left over is for the tests after each epoch. Rates fall
# exponentially, by --gamma_sr after each epoch: from few steps more is learnt so than by the paper's rare halvings.
PHASES = {
    1: (0.03, 4, ['--lr_sr', '5e-4', '--lr_decay_sr', '1', '--gamma_sr', '0.5']),
    2: (0.04, 4, ['--lr_sr', '2e-4', '--lr_decay_sr', '1', '--gamma_sr', '0.5']),
    3: (0.33, 18, ['--lr_sr', '6e-4', '--lr_decay_sr', '1', '--gamma_sr', '0.85']),
    4: (0.53, 24, ['--lr_sr', '5e-4', '--lr_decay_sr', '1', '--gamma_sr', '0.82', '--epochs_encoder', '3',
                   '--lr_encoder', '5e-4']),
}


@command_line('; the same command goes on')
def main(argv=None):
    own = Parser(prog='tools/maintain/train_zoo.py',
                 usage='sh scripts/train_zoo.sh [small|full] [--minutes N] [flags of main.py]', allow_abbrev=False)
    own.add_argument('size', nargs='?', choices=SIZES, default='small')
    own.add_argument('--minutes', type=float, default=90)
    own.add_argument('--name', default=None)
    asked, flags = own.parse_known_args(argv)
    name = asked.name or f'mrda_s_x4_iso{"_small" * (asked.size == "small")}'
    flags = [*SIZES[asked.size], *flags]
    plan = make_plan(Path('experiment') / name / 'plan.json', asked.size, flags, asked.minutes)
    for stage in PHASES:
        print(f'\n=== Stage {stage} of {len(PHASES)} ===', flush=True)
        status = program.main([*stage_flags(stage, flags), '--save', f'{name}_stage{stage}', *plan[str(stage)]])
        if status:
            return status
    return 0


def stage_flags(stage, flags):
    """The command line of a stage, but for its name and what the plan adds."""
    _, epochs, own = PHASES[stage]
    return ['--stage', str(stage), '--epochs_sr', str(epochs), '--print_every', '100', *own, *flags]


def make_plan(path, size, flags, minutes):
    """{stage: flags that fit it into its share of the minutes}, from `path` if it is there. Raises UserError."""
    if path.exists():
        return read_plan(path)
    plan = {'size': size, 'minutes': minutes, 'started': time.time(), 'commit': commit(), 'flags': flags}
    for stage, (share, epochs, _) in PHASES.items():
        line = stage_flags(stage, flags)
        device = choose_device(parse(line).device)
        seconds = {precision: seconds_a_step([*line, '--precision', precision], device)
                   for precision in precisions(device)}
        precision = min(seconds, key=seconds.get)
        batches = max(1, round(share * minutes * 60 / seconds[precision] / epochs))
        plan['device'] = device_text(device)
        print(f'stage {stage}: {seconds[precision]:.3f} s a step in {precision}, {epochs} epochs of {batches}',
              flush=True)
        plan[str(stage)] = ['--test_every', str(batches), '--precision', precision]
    write_bytes(path, (json.dumps(plan, indent=1) + '\n').encode())
    return plan


def read_plan(path):
    """The plan in the file `path`. Raises UserError if it is not there or damaged."""
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise UserError(f'{shown(path)}: no plan of a training ({error}); run scripts/train_zoo.sh, and remove this '
                        'file first if it is damaged') from error


def precisions(device):
    """--precision in the order of preference: whichever is fastest is taken."""
    if device.type == 'cpu' or (device.type == 'cuda' and torch.cuda.get_device_capability(device)[0] >= 8):
        return 'single', 'bf16'
    return 'single', 'half'  # GPUs that are older than bfloat16


def seconds_a_step(line, device):
    """Median time of a training step of the stage that the command line asks for, on patches of noise."""
    args = parse(line)
    stage = STAGES[args.stage](args).place(device)
    stage.begin_epoch(args.epochs_sr)
    optimizer = torch.optim.Adam(stage.trained.parameters())
    side = args.patch_size * args.scale
    draw = torch.Generator().manual_seed(derive_seed(args.seed, 'timing'))
    hr = torch.rand(args.batch_size, 3, side, side, generator=draw).to(device) * args.rgb_range
    times = []
    for step in range(6):
        start = time.monotonic()
        optimizer.zero_grad()
        loss = stage(hr, {hr.device: step}, 'sr')['loss'].sum()
        loss.backward()
        optimizer.step()
        loss.item()  # waits for the device
        times.append(time.monotonic() - start)
    return sorted(times[1:])[2]


def device_text(device):
    """The device in words."""
    if device.type == 'cuda':
        return f'{torch.cuda.get_device_name(device)}, PyTorch {torch.__version__}'
    threads = torch.get_num_threads()
    return f'{device.type.upper()}, {threads} thread{"s" * (threads > 1)}, PyTorch {torch.__version__}'


def commit():
    """The commit of the code, or 'unknown' outside a repository."""
    if not shutil.which('git'):
        return 'unknown'
    root = Path(__file__).resolve().parent
    found = subprocess.run(['git', '-C', root, 'rev-parse', 'HEAD'], capture_output=True, text=True, check=False)
    return found.stdout.strip() or 'unknown'


if __name__ == '__main__':
    sys.exit(main())
