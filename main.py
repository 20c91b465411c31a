"""Train or test the four stages of MRDA, or enlarge one's own photos: see README.md and python main.py --help."""
import sys
from functools import partial
from pathlib import Path

import torch

from checkpoint import Run, run_folder
from data import make_loaders
from data.pairs import Degraded, Files
from evaluation import Evaluator
from model.inference import self_ensemble
from option import config_text, parse, retired_warning, stage_options, stages
from pretrained import initialise
from protocol import degradations
from report import TestRun, table_text, write_tables
from trainer import Trainer
from trainer_stage1 import Stage1
from trainer_stage2 import Stage2
from trainer_stage3 import Stage3
from trainer_stage4 import Stage4
from upscale import Enlarger
from utility import UserError, choose_device

STAGES = {1: Stage1, 2: Stage2, 3: Stage3, 4: Stage4}


def main(argv=None):
    """Returns the exit status: 0, 2 for a mistake in what was given, 130 for an interruption."""
    try:
        args = parse(argv)
        if args.retired:
            print(f'warning: {retired_warning(args)}', file=sys.stderr)
        for stage in stages(args):
            run_stage(stage_options(argv, stage))
    except UserError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('\ninterrupted; the same command goes on from the last finished epoch', file=sys.stderr)
        return 130
    return 0


def run_stage(args):
    """Build everything for one stage, then enlarge photos, test or train."""
    device = choose_device(args.device)
    run = Run(run_folder(args.run_name, args) if args.load == '.' else Path('experiment') / args.load, args.stage)
    stage = STAGES[args.stage](args)
    photos_only = args.dir_demo is not None
    series = degradations(args.protocol, args.scale, stage.test_degradation)
    pairs = Files(args.test_lr, args.scale, args.rgb_range) if args.test_lr else Degraded(stage.degrader, args.seed)
    train, tests = (None, []) if photos_only else make_loaders(args)
    state = None if args.test_only or photos_only else run.start(args.resume, args.reset)
    notes = []                                       # nothing is written before all that was given is known to be good
    if not state:
        initialise(stage, args, notes.append)
    stage.to(device)
    run.open(config_text(args))
    if args.chop and args.stage != 4:
        notes.append('--chop has no effect here: only the student works in tiles, the other stages adapt to whole images')
    for note in notes:
        run.log(note)
    if photos_only:
        enlarge_photos(args, stage, run, device)
        return
    evaluator = Evaluator(pairs, series, args.scale, args.rgb_range, device,
                          ensemble=args.self_ensemble, results=run.results if args.save_results else None)
    trainer = Trainer(args, stage, train, tests, evaluator, run, device, present_gpus(args.n_GPUs, device))
    if args.test_only:
        show_table(args, trainer.test(), evaluator.protocol(), run)
        return
    if state:
        trainer.restore(state)
    trainer.fit()


def show_table(args, scored, line, run):
    """The table of a test, a row per degradation, published results beside it; also as CSV, Markdown and JSON."""
    table = TestRun(args.protocol, args.scale, line, {
        name: [(scores.degradation, *scores.mean()) for scores in several] for name, several in scored.items()})
    run.log('\n' + table_text(table))
    write_tables(run.results, table)


def enlarge_photos(args, stage, run, device):
    """--dir_demo: the student on photos without ground truth."""
    restore = stage.restore
    if args.self_ensemble:
        restore = partial(self_ensemble, stage.restore)
    enlarger = Enlarger(restore, args.scale, args.rgb_range, device)
    folder = Path(args.dir_out) if args.dir_out else run.results / 'photos'
    enlarger.files(args.dir_demo, folder, args.overwrite, run.log)


def present_gpus(wanted, device):
    """How many replicas there will be: fewer than --n_GPUs where there are fewer GPUs, 1 where there are none."""
    present = torch.cuda.device_count() if device.type == 'cuda' else 1
    if device.type == 'cuda' and wanted > present:
        print(f'--n_GPUs {wanted}: {present} present, so {present} it is')
    return min(wanted, present)


if __name__ == '__main__':
    sys.exit(main())
