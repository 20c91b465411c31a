"""The data of one run: make_loaders(args) is the only place here that reads options."""
import os
import sys
from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from data.cache import PixelCache, default_cache
from data.dataset import TestSet, canonical, find_images, refuse, scan, split_names
from data.loader import TrainLoader, shared_memory_fits
from data.sampling import EpochSampler, PatchDataset
from utility import UserError, shown

__all__ = ['Rank', 'TestSet', 'make_loaders', 'make_tests']


class Rank(NamedTuple):
    """Which of the processes that train together this one is: number `rank` of `size`, `local` on its machine."""
    rank: int = 0
    size: int = 1
    local: int = 0


ALONE = Rank()


def make_loaders(args: Namespace, rank: Rank = ALONE) -> tuple[TrainLoader | None, list[TestSet]]:
    """(train, tests): the TrainLoader, None with --test_only, and a list of TestSet.

    Each rank loads its part of the patches, and rank 0 alone the test sets. Where several ranks share a machine, the
    one with local number 0 should come first: it makes what the others then find.
    Every image is read once before anything is trained. Raises UserError about all that cannot be used.
    """
    tests = [] if rank.rank else make_tests(args)
    tested = [path for testset in tests for path in testset.files]
    if args.test_only:
        refuse(_scan_tests(args, tested), tested)
        return None, tests
    return _checked_loader(args, tested, rank), tests


def _checked_loader(args, tested, rank):
    """The TrainLoader. Raises UserError about what cannot be used of the training images and of those `tested`."""
    files = _find(args, args.data_train, train=True)
    folder, warning = (None, '') if args.ext == 'img' else (args.dir_cache, '') if args.dir_cache else default_cache()
    cache = PixelCache(folder, verify=not rank.local)  # once on each machine
    cache.reserve(files)
    remake = args.ext == 'sep_reset' and not rank.local
    refuse({**_scan_tests(args, tested), **_scan_training(args, files, partial(cache.read, remake=remake))},
           tested + files)
    if (cache.trouble or warning) and not rank.local:
        print(f'warning: {cache.trouble or warning}', file=sys.stderr)
    return _train_loader(args, files, cache, rank)


def make_tests(args: Namespace) -> list[TestSet]:
    """The TestSets of --data_test. Raises UserError if one is not there, or two have one name."""
    tests = []
    for name in split_names(args.data_test, '--data_test'):
        tests.append(TestSet(_label(name), _find(args, name, train=False), args.scale))
    labels = [testset.name for testset in tests]
    if len(set(labels)) < len(labels):
        raise UserError(f'--data_test {shown(args.data_test)}: two sets are called '
                        f'{shown(max(labels, key=labels.count))}; name each once, or rename a folder')
    return tests


def _find(args, names, train):
    """The images of the sets `names`; the default of --data_range is meant for the official ones alone."""
    return find_images(args.dir_data, names, train, args.data_range, others_whole='data_range' not in args.given)


def _scan_tests(args, files):
    """What is wrong with test images, as scan() returns it."""
    # SSIM's window of 11x11 pixels must fit inside the border that is cut off, after cropping to the scale.
    return scan(files, 11 + 3 * args.scale)


def _scan_training(args, files, read):
    """What is wrong with training images, as scan() returns it; those that are good are in the cache afterwards."""
    return scan(files, args.patch_size * args.scale, read, 'remove it or lower --patch_size')


def _label(name):
    """The name of a set; of a folder given by its path, the last part that is not HR."""
    parts = [part for part in Path(name).parts if part != 'HR']
    return canonical(parts[-1]) if parts else name


def _train_loader(args, files, cache, rank):
    dataset = PatchDataset(files, args.patch_size * args.scale, args.seed, cache.read, augment=not args.no_augment)
    dataset.checksums = [cache.checksums[path] for path in files]
    sampler = EpochSampler(len(files), args.test_every, args.batch_size, args.seed, (rank.rank, rank.size))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    n_threads = min(args.n_threads, cores)  # more only cost; the patches are the same for any number
    batch_bytes = 3 * dataset.size ** 2 * args.batch_size // rank.size
    possible, fits, warning = shared_memory_fits(batch_bytes, n_threads, rank.size)
    if warning and not rank.local:
        print(f'warning: {warning}', file=sys.stderr)
    return TrainLoader(dataset, sampler, n_threads * possible, torch.cuda.is_available(), 60 * args.data_timeout,
                       through_pipes=not fits)
