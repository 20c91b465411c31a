"""A training set is identified by its pixels; checkpoints of earlier versions resume."""
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from survival import same

from data.images import read_rgb
from store.continuity import describe_files
from store.tensors import load_checkpoint, save_checkpoint

STATE = 'experiment/stage1_x2_bicubic_iso/model/state_1.pt'


@pytest.fixture
def photos(library, tmp_path):
    """A folder of training photos as .bmp files."""
    for path in (library / 'Photos' / 'HR').iterdir():
        (tmp_path / 'Mine').mkdir(exist_ok=True)
        Image.fromarray(read_rgb(path)).save(tmp_path / 'Mine' / f'{path.stem}.bmp')
    return tmp_path / 'Mine'


def train(cli, photos, epochs, *flags):
    return cli('--stage', 1, '--data_train', photos, '--epochs_sr', epochs, *flags)


def replace(path):
    """Replace `path` by another photo of the same size."""
    Image.fromarray(np.ascontiguousarray(read_rgb(path)[::-1])).save(path)


def test_changed_pixels_with_same_names_and_sizes_are_refused(cli, photos, capsys):
    assert train(cli, photos, 1) == 0
    replace(photos / 'b.bmp')
    assert train(cli, photos, 2) == 2
    assert 'images was 3 images (fingerprint of pixels' in capsys.readouterr().err
    assert train(cli, photos, 2, '--accept_changes') == 0


def test_same_pixels_in_other_files_are_accepted(cli, photos):
    assert train(cli, photos, 1) == 0
    Image.fromarray(read_rgb(photos / 'b.bmp')).save(photos / 'b.png')
    (photos / 'b.bmp').unlink()
    assert train(cli, photos, 2, '--ext', 'img') == 0


def test_checkpoint_with_names_and_sizes_only_resumes(cli, photos, capsys):
    assert train(cli, photos, 1) == 0
    state = load_checkpoint(STATE)
    new = state['options']['images']
    state['options']['images'] = describe_files(sorted(photos.iterdir()))
    save_checkpoint(STATE, state)
    assert train(cli, photos, 2) == 0
    assert 'by name and size only' in capsys.readouterr().out
    assert load_checkpoint(STATE.replace('_1', '_2'))['options']['images'] == new
    (photos / 'a.bmp').rename(photos / 'other.bmp')
    save_checkpoint(STATE.replace('_1', '_2'), state | {'epoch': 2})
    assert train(cli, photos, 3) == 2
    assert 'images was 3 images (fingerprint ' in capsys.readouterr().err


def test_old_checkpoint_without_named_updates_resumes_bit_for_bit(cli):
    assert cli('--stage', 1, '--save', 'whole') == 0
    assert cli('--stage', 1, '--save', 'old', '--epochs_sr', 1) == 0
    path = Path('experiment/old_x2_bicubic_iso/model/state_1.pt')
    state = load_checkpoint(path)
    update = state.pop('updates')['sr']
    for name in 'tested', 'ema':
        del state[name]
    for name in 'warmup', 'ema', 'optimizer':
        state['options'].pop(name, None)
    history = state['history']
    history['psnr'], history['ssim'] = history.pop('psnr_y'), history.pop('ssim_y')
    save_checkpoint(path, {**state, 'optimizer': ['ADAM', update['optimizer']], 'scaler': update['scaler']})
    assert cli('--stage', 1, '--save', 'old') == 0
    whole, old = (load_checkpoint(f'experiment/{name}_x2_bicubic_iso/model/state_2.pt') for name in ('whole', 'old'))
    assert all(same(whole[name], old[name]) for name in ('networks', 'updates', 'history', 'tally'))


def test_checkpoint_without_options_is_refused(cli, capsys):
    assert cli('--stage', 1, '--epochs_sr', 1) == 0
    path = Path('experiment/stage1_x2_bicubic_iso/model/state_1.pt')
    state = load_checkpoint(path)
    del state['options']
    save_checkpoint(path, state)
    assert cli('--stage', 1) == 2 and 'older version' in capsys.readouterr().err
