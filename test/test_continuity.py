"""A training set is told by its pixels: a resumed run notices other images, and no other difference."""
import numpy as np
import pytest
from PIL import Image

from data.images import read_rgb
from store.continuity import describe_files
from store.tensors import load_state, save_state

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
    """Put another photo of the same name and size in the place of `path`."""
    Image.fromarray(np.ascontiguousarray(read_rgb(path)[::-1])).save(path)


def test_other_pixels_under_the_same_names_and_sizes_are_refused(cli, photos, capsys):
    assert train(cli, photos, 1) == 0
    replace(photos / 'b.bmp')
    assert train(cli, photos, 2) == 2
    assert 'images was 3 images (fingerprint of pixels' in capsys.readouterr().err
    assert train(cli, photos, 2, '--accept_changes') == 0


def test_same_pixels_in_other_files_resume(cli, photos):
    assert train(cli, photos, 1) == 0
    Image.fromarray(read_rgb(photos / 'b.bmp')).save(photos / 'b.png')
    (photos / 'b.bmp').unlink()
    assert train(cli, photos, 2, '--ext', 'img') == 0


def test_checkpoint_with_names_and_sizes_only_resumes(cli, photos, capsys):
    assert train(cli, photos, 1) == 0
    state = load_state(STATE)
    new = state['options']['images']
    state['options']['images'] = describe_files(sorted(photos.iterdir()))
    save_state(STATE, state)
    assert train(cli, photos, 2) == 0
    assert 'from now on pixels count' in capsys.readouterr().out
    assert load_state(STATE.replace('_1', '_2'))['options']['images'] == new
    (photos / 'a.bmp').rename(photos / 'other.bmp')
    save_state(STATE.replace('_1', '_2'), state | {'epoch': 2})
    assert train(cli, photos, 3) == 2
    assert 'images was 3 images (fingerprint ' in capsys.readouterr().err
