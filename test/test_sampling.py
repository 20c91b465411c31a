"""Patches are random crops that depend on seed, epoch and position alone; every image occurs once per shuffle."""
import numpy as np
import pytest
import torch

from data.cache import PixelCache
from data.images import read_rgb, write_rgb
from data.sampling import EpochSampler, PatchDataset


def noise(height, width, seed=0):
    return np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / 'images' / f'{i} ü.png' for i in range(5)]
    for i, path in enumerate(paths):
        write_rgb(path, noise(20 + i, 30 - i, i))
    return paths


def turns(image):
    """The eight flips and transposes of (H, W, 3), as (3, h, w)."""
    image = image.transpose(2, 0, 1)
    return [turn for x in (1, -1) for y in (1, -1) for flip in (image[:, ::y, ::x],)
            for turn in (flip, flip.swapaxes(1, 2))]


def test_patch_is_an_augmented_crop(files):
    image = read_rgb(files[2])
    crops = {turn.tobytes() for top in range(image.shape[0] - 15) for left in range(image.shape[1] - 15)
             for turn in turns(image[top:top + 16, left:left + 16])}
    patches = [PatchDataset(files, 16, 1)[1, position, 2] for position in range(200)]
    assert all(patch.numpy().tobytes() in crops for patch in patches)
    assert patches[0].shape == (3, 16, 16) and patches[0].dtype == torch.uint8 and patches[0].is_contiguous()
    assert len({patch.numpy().tobytes() for patch in patches}) > 150


def test_patches_depend_on_epoch_position_and_seed(files):
    keys = [(epoch, position, 2) for epoch in range(1, 4) for position in range(4)]
    patches = {PatchDataset(files, 16, seed)[key].numpy().tobytes() for seed in (1, 2) for key in keys}
    assert len(patches) > 20                              # of 24; there are 560 possible ones


def test_all_eight_augmentations_are_equally_frequent(tmp_path):
    write_rgb(tmp_path / 'a.png', noise(8, 8))
    turned = [turn.tobytes() for turn in turns(read_rgb(tmp_path / 'a.png'))]
    dataset = PatchDataset([tmp_path / 'a.png'], 8, 3)
    counts = np.bincount([turned.index(dataset[1, k, 0].numpy().tobytes()) for k in range(800)], minlength=8)
    assert counts.min() > 60 and counts.max() < 145      # 100 ± 9.4


def test_every_corner_is_reached(tmp_path):
    write_rgb(tmp_path / 'a.png', np.dstack([*np.mgrid[:11, :10], np.zeros((11, 10))]).astype(np.uint8))
    dataset = PatchDataset([tmp_path / 'a.png'], 8, 3, augment=False)
    corners = {tuple(dataset[1, k, 0][:2, 0, 0].tolist()) for k in range(300)}
    assert corners == {(y, x) for y in range(4) for x in range(3)}


def test_no_augment_keeps_the_orientation(files):
    dataset = PatchDataset(files, 16, 1, augment=False)
    image = read_rgb(files[0])
    crops = {image[y:y + 16, x:x + 16].transpose(2, 0, 1).tobytes() for y in range(5) for x in range(15)}
    assert all(dataset[1, k, 0].numpy().tobytes() in crops for k in range(50))


def test_patch_has_its_own_memory(files, tmp_path):
    cache = PixelCache(tmp_path / 'cache')
    dataset = PatchDataset(files, 16, 1, cache.read, augment=False)
    before = dataset[1, 0, 0].clone()
    dataset[1, 0, 0].fill_(7)
    assert torch.equal(dataset[1, 0, 0], before)
    assert torch.equal(PatchDataset(files, 16, 1, augment=False)[1, 0, 0], before)


def test_every_image_occurs_once_per_shuffle():
    sampler = EpochSampler(7, 10, 4, 1)
    keys = [key for batch in sampler for key in batch]
    assert [key[:2] for key in keys] == [(1, k) for k in range(40)]
    order = [key[2] for key in keys]
    shuffles = [order[i:i + 7] for i in range(0, 35, 7)]
    assert all(sorted(shuffle) == list(range(7)) for shuffle in shuffles)
    assert len(set(map(tuple, shuffles))) > 1


def test_resumed_epoch_is_the_same():
    sampler = EpochSampler(7, 10, 4, 1)
    sampler.start(3)
    whole = list(sampler)
    sampler.start(3, 6)
    assert len(sampler) == 4 and list(sampler) == whole[6:]
    sampler.start(4)
    assert [[key[2] for key in batch] for batch in sampler] != [[key[2] for key in batch] for batch in whole]
