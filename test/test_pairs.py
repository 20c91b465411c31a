"""Training on given LR/HR pairs: crops are aligned, names are matched, sizes are checked, runs resume."""
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL

from data.images import read_rgb, write_rgb
from data.pairs import matched
from data.sampling import PatchDataset
from option import parse
from stages import STAGES
from store.tensors import load_weights
from utility import UserError, quantize

FLAGS = ['--model', 'kdsr', '--n_resblocks', 1, '--stage', 3]


@pytest.fixture
def lr(cli, library):
    """A folder of LR images for the library's training photos: every second pixel; named in three ways."""
    for path, name in zip(sorted((library / 'Photos' / 'HR').iterdir()), ('{}', '{}x2', '{}_x2'), strict=True):
        image = read_rgb(path)
        height, width = (side // 2 * 2 for side in image.shape[:2])
        write_rgb(Path('lr') / f'{name.format(path.stem)}.png', np.ascontiguousarray(image[:height:2, :width:2]))
    return Path('lr')


def weights(run):
    return load_weights(f'experiment/{run}_x2_bicubic_iso/model/model_TA_last.pt')


@pytest.mark.parametrize('scale', [2, 3, 4])
@pytest.mark.parametrize('augment', [False, True])
def test_hr_and_lr_crops_are_aligned_and_augmented_alike(tmp_path, scale, augment):
    """If HR is LR with every pixel repeated, both halves of an item are equal; all pixels of LR differ."""
    rng = np.random.default_rng(scale)
    small = rng.permutation(20 * 30 * 3).reshape(20, 30, 3).astype(np.uint8)
    images = {Path('hr'): np.pad(small.repeat(scale, 0).repeat(scale, 1), [(0, 1), (0, 1), (0, 0)]), Path('lr'): small}
    dataset = PatchDataset([Path('hr')], 8 * scale, 1, images.get, augment, [Path('lr')], scale)
    items = [dataset[1, position, 0] for position in range(20)]
    assert all(item.shape == (6, 8 * scale, 8 * scale) and torch.equal(item[:3], item[3:]) for item in items)
    assert len({item.numpy().tobytes() for item in items}) > 15


@pytest.mark.parametrize('number', [1, 2, 3, 4])
def test_every_stage_trains_on_the_given_lr_images(lr, library, number):
    args = parse([*SMALL, '--stage', str(number), '--train_lr', str(lr), '--task_iter', '1'])
    stage = STAGES[number](args)
    hr, seen = torch.rand(4, 3, 24, 24), []
    repeated = torch.rand(4, 3, 12, 12).repeat_interleave(2, 2).repeat_interleave(2, 3)
    degrade = stage.degrade
    stage.degrade = lambda *given: seen.append(degrade(*given)) or seen[-1]
    losses = stage(torch.cat([hr, repeated], 1), {torch.device('cpu'): 1}, next(iter(stage.updates())))
    assert losses['loss'].isfinite()
    for lq, up in seen:
        assert torch.equal(lq, repeated[..., ::2, ::2]) and up.shape == hr.shape and torch.equal(up, quantize(up))


def test_training_on_pairs_resumes_bit_for_bit_and_checks_its_images(cli, lr, capsys):
    assert cli(*FLAGS, '--train_lr', lr, '--save', 'whole') == 0
    assert cli(*FLAGS, '--train_lr', lr, '--save', 'parts', '--epochs_sr', 1) == 0
    assert cli(*FLAGS, '--train_lr', lr, '--save', 'parts', '--n_threads', 1) == 0
    whole, parts = weights('whole'), weights('parts')
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    assert cli(*FLAGS, '--save', 'made') == 0
    assert not all(torch.equal(whole[key], value) for key, value in weights('made').items())
    capsys.readouterr()
    assert cli(*FLAGS, '--save', 'whole', '--epochs_sr', 3) == 2
    assert '--train_lr was lr, is now None' in capsys.readouterr().err
    path = next(lr.iterdir())
    write_rgb(path, 255 - read_rgb(path))
    assert cli(*FLAGS, '--train_lr', lr, '--save', 'whole', '--epochs_sr', 3) == 2
    assert 'images' in capsys.readouterr().err


def test_pairs_of_the_wrong_size_are_refused_before_training(cli, lr, capsys):
    write_rgb(lr / 'a.png', np.zeros((40, 44, 3), np.uint8))
    assert cli(*FLAGS, '--train_lr', lr) == 2
    error = capsys.readouterr().err
    assert '44x40 pixels, but the ground truth needs 40x48' in error and error.count('\n') == 1
    write_rgb(lr / 'a.png', np.zeros((8, 8, 3), np.uint8))
    assert cli(*FLAGS, '--train_lr', lr) == 2 and 'smaller than 12x12' in capsys.readouterr().err
    assert not Path('experiment').exists()


def test_names_without_a_unique_match_are_refused(cli, lr, capsys):
    (lr / 'bx2.png').rename(lr / 'other.png')
    assert cli(*FLAGS, '--train_lr', lr) == 2
    assert 'no LR image for 1 of 3 HR images' in capsys.readouterr().err
    write_rgb(lr / 'a_x2.png', np.zeros((48, 40, 3), np.uint8))
    with pytest.raises(UserError, match=r'a\.png and a_x2\.png both match a'):
        matched([Path('a.png')], lr)
    assert cli(*FLAGS, '--train_lr', 'nowhere') == 2 and 'no such folder' in capsys.readouterr().err
