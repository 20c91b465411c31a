"""The data of one run. Only this file of data/ reads options, in make_loaders(args)."""
import os
import sys
from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from data.cache import PixelCache, default_cache
from data.dataset import Note, TestSet, bad_ones, canonical, find_images, refuse, scan, split_names
from data.loader import TrainLoader, shared_memory_fits
from data.pairs import matched, misfit
from data.sampling import EpochSampler, PatchDataset
from utility import UserError, shown

__all__ = ['Rank', 'TestSet', 'make_loaders', 'make_tests']


class Rank(NamedTuple):
    """This process in the process group: number `rank` of `size`, number `local` on its machine."""
    rank: int = 0
    size: int = 1
    local: int = 0


ALONE = Rank()


def make_loaders(args: Namespace, rank: Rank = ALONE, note: Note = print) -> tuple[TrainLoader | None, list[TestSet]]:
    """(train, tests): the TrainLoader, None with --test_only, and a list of TestSet.

    Each rank loads its part of the patches; rank 0 alone loads the test sets. On each machine local rank 0 should call
    this first: it fills the cache for the others.
    Every image is read once before the first step. Raises UserError with all that cannot be used, unless --skip_bad
    leaves them out. note(text): called with the folders of the images, and what was left out.
    """
    tests = [] if rank.rank else make_tests(args, note)
    tested = [path for testset in tests for path in testset.files]
    bad_tests, bad, files, cache = _scan_tests(args, tested), {}, [], None
    if not args.test_only:
        files, cache, bad = _scan_training(args, rank, note)
    if not args.skip_bad:
        refuse({**bad_tests, **bad}, tested + files)
    elif every := {**bad_tests, **bad}:
        if rank.size > 1:
            raise UserError('--skip_bad works in one process only, as ranks could leave out different images; remove '
                            f'those that cannot be used: {bad_ones(every)}')
        note(f'--skip_bad: {len(every)} images left out: {bad_ones(every)}')
        files = _without(files, bad, '--data_train')
        for testset in tests:
            testset.files = _without(testset.files, bad_tests, f'--data_test {shown(testset.name)}')
    return None if args.test_only else _train_loader(args, files, cache, rank), tests


def _without(files, bad, what):
    kept = [path for path in files if path not in bad]
    if files and not kept:
        raise UserError(f'{what}: none of its {len(files)} images can be used; {bad_ones(bad)}')
    return kept


def _scan_training(args, rank, note):
    """(files, cache, faults as of scan()) of the training set; usable images are in the cache afterwards."""
    files = _find(args, args.data_train, True, note)
    folder, warning = (None, '') if args.ext == 'img' else (args.dir_cache, '') if args.dir_cache else default_cache()
    cache = PixelCache(folder, verify=not rank.local)  # once on each machine
    cache.reserve(files)
    remake = args.ext == 'sep_reset' and not rank.local
    bad = scan(files, args.patch_size * args.scale, partial(cache.read, remake=remake),
               'remove it or lower --patch_size')
    if args.train_lr:
        bad = _scan_pairs(args, files, cache, bad) | bad
    if (cache.trouble or warning) and not rank.local:
        print(f'warning: {cache.trouble or warning}', file=sys.stderr)
    return files, cache, bad


def _scan_pairs(args, files, cache, bad):
    """{HR image: fault of its LR image} of the HR images that are not `bad` themselves."""
    good = [path for path in files if path not in bad]
    pairs = dict(zip(good, matched(good, args.train_lr), strict=True))
    cache.reserve([*pairs.values()])
    faults = scan([*pairs.values()], args.patch_size, cache.read, 'remove it or lower --patch_size')
    for hr, lr in pairs.items():
        if lr not in faults and (fault := misfit(cache.read(lr).shape[:2], cache.read(hr).shape[:2], args.scale)):
            faults[lr] = fault
    return {hr: f'its LR image {shown(lr)}: {faults[lr]}' for hr, lr in pairs.items() if lr in faults}


def make_tests(args: Namespace, note: Note = str) -> list[TestSet]:
    """The TestSets of --data_test. Raises UserError if one is missing, or two have the same name."""
    tests = []
    for name in split_names(args.data_test, '--data_test'):
        tests.append(TestSet(_label(name), _find(args, name, False, note), args.scale))
    labels = [testset.name for testset in tests]
    if len(set(labels)) < len(labels):
        raise UserError(f'--data_test {shown(args.data_test)}: two sets have the name '
                        f'{shown(max(labels, key=labels.count))}; give each once, or rename a folder')
    return tests


def _find(args, names, train, note):
    """The images of the sets `names`; the default of --data_range applies to the official ones only."""
    return find_images(args.dir_data, names, train, args.data_range, others_whole='data_range' not in args.given,
                       note=note)


def _scan_tests(args, files):
    """The faults of test images, as of scan()."""
    # SSIM's window of 11x11 pixels must fit into what is left after cropping to the scale and shaving the border.
    return scan(files, 11 + 3 * args.scale)


def _label(name):
    """The name of a set; of a path, its last part that is not HR."""
    parts = [part for part in Path(name).parts if part != 'HR']
    return canonical(parts[-1]) if parts else name


def _train_loader(args, files, cache, rank):
    lr_files = matched(files, args.train_lr) if args.train_lr else []
    dataset = PatchDataset(files, args.patch_size * args.scale, args.seed, cache.read, not args.no_augment, lr_files,
                           args.scale)
    dataset.checksums = [cache.checksums[path] for path in [*files, *lr_files]]
    sampler = EpochSampler(len(files), args.test_every, args.batch_size, args.seed, (rank.rank, rank.size))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    n_threads = min(args.n_threads, cores)  # more are slower; the patches do not depend on it
    batch_bytes = (6 if lr_files else 3) * dataset.size ** 2 * args.batch_size // rank.size
    possible, fits, warning = shared_memory_fits(batch_bytes, n_threads, rank.size)
    if warning and not rank.local:
        print(f'warning: {warning}', file=sys.stderr)
    return TrainLoader(dataset, sampler, n_threads * possible, torch.cuda.is_available(), 60 * args.data_timeout,
                       through_pipes=not fits)
