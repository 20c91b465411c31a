"""Upscaling photos: every kind of image, by command line and from Python, with the documented names."""
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from photo_tools import NEAREST, RGB, SRGB, files, save
from PIL import Image
from skimage import data as photos

import upscale as program
from model import mrda, zoo
from photo.image import Photo
from photo.writing import write_photo
from store.tensors import save_weights
from upscale import load, upscale
from utility import UserError

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def shelf(tmp_path, monkeypatch):
    """An empty working folder, and a zoo beside it that holds one small network of x2."""
    monkeypatch.setattr(zoo, 'ZOO', tmp_path / 'zoo')
    zoo.ship('small', mrda.student(2, 1).state_dict(), {}, default=True)
    (tmp_path / 'where').mkdir()
    monkeypatch.chdir(tmp_path / 'where')
    program._loaded.cache_clear()


def run(*argv):
    return program.main([*map(str, argv), '--device', 'cpu'])


def test_folder_with_sub_folders(capsys):
    for name in ('in/a.png', 'in/deep/er/b.jpg', 'in/c.webp', 'in/d.bmp', 'in/e.tif', 'in/F.JPEG'):
        save(name)
    Path('in/notes.txt').write_text('no photo')
    assert run('in', '-o', 'out') == 0
    assert files('out') == ['F_x2.png', 'a_x2.png', 'c_x2.png', 'd_x2.png', 'deep/er/b_x2.png', 'e_x2.png']
    assert all(Image.open(Path('out') / name).size == (20, 28) for name in files('out'))
    assert sorted(path.name for path in Path().iterdir()) == ['in', 'out']          # and no run folder
    printed = capsys.readouterr().out
    assert 'weights small (shipped): model mrda, scale 2, n_blocks 1' in printed
    assert f'{Path("in/a.png")} (10x14) -> {Path("out/a_x2.png")} (20x28)' in printed


def test_files_folders_and_globs_in_one_call():
    for name in ('a.png', 'b.png', 'two/c.png', 'two/d.jpg', 'three/e.png', 'three/not.jpg'):
        save(name)
    assert run('a.png', 'two', 'three/*.png', 'two/c.png') == 0                     # into upscaled/; c only once
    assert files() == ['a_x2.png', 'c_x2.png', 'd_x2.png', 'e_x2.png']


def test_unwritable_folder_is_reported_before_the_first_photo(monkeypatch, capsys):
    save('a.png')
    monkeypatch.setattr(program, 'upscale_files', None)
    assert run('a.png', '-o', 'a.png/x') == 2
    said = 'error: a.png/x: cannot hold results (Not a directory); choose another folder\n'
    assert capsys.readouterr().err == said


@pytest.mark.parametrize('argv, said', [
    ([], 'arguments are required: photos; python upscale.py --help lists the flags'),
    (['nowhere'], 'nowhere: no such file'), (['empty'], 'empty: contains no image'),
    (['a.png', '-o', 'b.png'], '--out b.png: not a folder'), (['a.png', '-o', 'file'], 'not a folder'),
    (['a.png', '--weights', 'x'], 'small (x2)'), (['a.png', '--scale', '4'], '--scale 4'),
    (['a.png', '--scale', '5'], '2, 3 or 4'), (['a.png', '--tile', '8'], '32 or more'),
    (['a.png', '--tiles', '64'], '--tiles'), (['a.png', '--size', '9y'], 'not a size such as 3840x2160'),
    (['a.png', '--size', '0x'], 'not a size'), (['a.png', '--outscale', '99'], 'from 0.1 to 16'),
    (['a.png', '--outscale', '2', '--size', '9x'], 'give one of them'), (['a.png', '--quality', '0'], 'from 1 to 100'),
    (['a.png', '--max_pixels', 'inf'], 'a number of pixels'), (['a.png', '--format', 'bmp'], 'bmp'),
    (['upscaled', '-o', 'upscaled'], None)])
def test_mistakes_are_one_line(capsys, argv, said):
    save('a.png')
    Path('empty').mkdir()
    Path('file').touch()
    if said is None:
        save('upscaled/a_x2.png')
        assert run(*argv) == 0 and files() == ['a_x2.png', 'a_x2_x2.png']           # alone it is a photo like others
        return
    assert run(*argv) == 2
    error = capsys.readouterr().err
    assert error.startswith('error: ') and error.count('\n') == 1 and said in error
    assert not Path('upscaled').exists()


@pytest.mark.parametrize('flags, outscale, taken', [
    ((), 1.5, 4), ((), 2, 4), ((), 4, 4), ((), 6, 4), (('--scale', '2'), 1.5, 2), (('--weights', 'small'), 4, 2)])
def test_outscale_resamples_what_the_default_or_chosen_weights_give(flags, outscale, taken, capsys):
    zoo.ship('four', mrda.student(4, 1).state_dict(), {}, default=True)
    save('a.png')
    assert run('a.png', '--outscale', outscale, *flags) == 0
    assert f'scale {taken}' in capsys.readouterr().out and files() == [f'a_x{outscale:g}.png']
    assert Image.open(Path('upscaled', files()[0])).size == (round(10 * outscale), round(14 * outscale))


@pytest.mark.parametrize('pattern', ['pics [2020]/*.png', 'pics [2020]/a*', '**/*.png'])
def test_existing_path_is_not_a_pattern(pattern):
    save('pics [2020]/a.png')
    assert run(pattern) == 0 and files() == ['a_x2.png']


def test_outscale_resamples_the_network_output_once():
    """Against Pillow's own Lanczos on the whole result, whose bands agree with it within a level."""
    image = np.ascontiguousarray(photos.astronaut()[:300, :200])
    save('a.png', image)
    for options, size in ((['--outscale', '1.3'], (260, 390)), (['--size', '500x'], (500, 750))):
        assert run('a.png', *options, '-o', 'out') == 0
        path, = Path('out').iterdir()
        expected = Image.fromarray(upscale(image, load(device='cpu'))).resize(size, Image.Resampling.LANCZOS)
        assert np.abs(np.array(Image.open(path)).astype(int) - np.array(expected)).max() <= 1
        path.unlink()


def test_command_runs_from_any_folder_with_a_weights_file(tmp_path):
    """As a user does: in a separate process, with zoo/ not in the current folder."""
    save('in/a.png')
    save_weights('own.pt', mrda.student(3, 1))
    done = subprocess.run([sys.executable, ROOT / 'upscale.py', 'in/a.png', '--weights', 'own.pt', '--tile', '32',
                           '--self-ensemble', '--device', 'cpu'], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Image.open('upscaled/a_x3.png').size == (30, 42)
    assert 'model mrda, scale 3, n_blocks 1' in done.stdout
    assert sorted(path.name for path in Path().iterdir()) == ['in', 'own.pt', 'upscaled']


def test_dir_demo_without_weights_points_to_upscale_py(cli, library, capsys):
    assert cli('--stage', 4, '--dir_demo', library / 'Photos') == 2
    error = capsys.readouterr().err
    assert 'use python upscale.py, which has shipped weights' in error and error.count('\n') == 1
    assert cli('--stage', 4, '--dir_demo', library / 'Photos', '--pre_train_ST', ROOT / 'main.py') == 2
    assert 'upscale.py' not in capsys.readouterr().err


def test_arrays_keep_their_kind():
    expected = np.kron(RGB, np.ones((2, 2, 1), np.uint8))
    for dtype, white in ((np.uint8, 255), (np.uint16, 65535), (np.float16, 1), (np.float32, 1), (np.float64, 1)):
        image = (RGB / 255 * white).round(0 if white > 1 else 9).astype(dtype)
        large = upscale(image, NEAREST)
        assert large.dtype == dtype and large.shape == (28, 20, 3)
        assert np.abs(large.astype(float) / white * 255 - expected).max() < (0.2 if dtype == np.float16 else 1e-2)
        assert upscale(image[..., 0], NEAREST).shape == (28, 20)
        assert upscale(image[..., :2], NEAREST).shape == (28, 20, 2)
        assert upscale(image[:, ::-1, :1], NEAREST).shape == (28, 20, 1)             # strides of any sign


def test_tensors_keep_their_kind():
    image = torch.rand(2, 3, 9, 12, dtype=torch.float64)
    large = upscale(image, NEAREST)
    assert large.dtype == torch.float64 and torch.allclose(large, image.repeat_interleave(2, 2).repeat_interleave(2, 3))
    assert torch.equal(upscale(image[0], NEAREST), large[0])
    model = load(device='cpu')
    each = torch.cat([upscale(one[None].float(), model) for one in image])           # each has its own degradation
    assert torch.allclose(upscale(image.float(), model), each, atol=1e-5) and not each.requires_grad


def test_a_path_and_an_image_give_an_image(tmp_path):
    path = save('p.png', RGB, icc_profile=SRGB)
    model = load('small', 'cpu')
    assert model.scale == 2
    large = upscale(path, model)
    assert isinstance(large, Image.Image) and large.size == (20, 28) and large.info['icc_profile'] == SRGB
    assert np.array_equal(np.array(large), upscale(RGB, model))
    assert np.array_equal(np.array(upscale(Image.open(path), model)), np.array(large))
    assert np.array_equal(np.array(upscale(str(path))), np.array(upscale(path, 'small')))   # default, and by name
    write_photo('deep.png', Photo(RGB.astype(np.uint16) * 257 + np.arange(3, dtype=np.uint16)))
    assert np.array_equal(np.array(upscale('deep.png', NEAREST)), np.array(upscale(path, NEAREST)))


def test_weights_named_in_a_call_are_loaded_once(monkeypatch):
    first = upscale(RGB)
    monkeypatch.setattr(zoo, 'load_student', None)
    assert np.array_equal(upscale(RGB), first)


@pytest.mark.parametrize('wrong', [{'precision': 'double'}, {'tile': 1}, {'tile': 40.5}, {'scale': '2'}, {'scale': 5},
                                   {'device': 'abacus'}, {'weights': 'nowhere'}])
def test_load_errors(wrong):
    (name, value), = wrong.items()
    with pytest.raises(UserError, match=str(value)) as error:
        load(**wrong)
    assert name in str(error.value) or name == 'weights'
    assert load(device=torch.device('cpu'), scale=2, tile=32).scale == 2


@pytest.mark.parametrize('image, said', [
    (np.zeros((3, 3, 3), int), 'int64'), (np.zeros(3, np.uint8), r'\(3,\)'),
    (np.zeros((3, 8, 9), np.uint8), 'too many channels'), (np.zeros((0, 8, 3), np.uint8), r'\(0, 8, 3\)'),
    (torch.zeros(1, 8, 9), r'\(1, 8, 9\)'),
    (torch.zeros(3, 8, 9, dtype=torch.uint8), 'uint8'), (torch.zeros(8, 9), r'\(8, 9\)'), ([1, 2], 'list'),
    ('nowhere.png', 'nowhere'), (Image.new('F', (3, 3)), 'mode F')])
def test_upscale_errors(image, said):
    with pytest.raises(UserError, match=said) as error:
        upscale(image, NEAREST)
    assert '\n' not in str(error.value)


def test_tiles_equal_the_whole_image():
    model, tiles = load(device='cpu'), load(device='cpu', tile=32)
    image = np.ascontiguousarray(photos.astronaut()[:45, 100:170])
    difference = np.abs(model.array(image).astype(int) - tiles.array(image))
    assert difference.max() <= 1 and (difference > 0).mean() < 0.01


def test_flags_on_the_photos_page_work(capsys):
    page = (ROOT / 'docs/photos.md').read_text(encoding='utf-8')
    for name in 'mrda_s_x4_anisonoise', 'kdsr_s_x4_iso_small':
        zoo.ship(name, mrda.student(4, 1).state_dict(), {}, default=True)
    save_weights('weights.pt', mrda.student(3, 1))
    for name in ('photo.jpg', 'photos/a.png', 'photos/deeper/a.png', 'more/b.png'):
        save(name)
    commands = [line for line in page.splitlines() if line.startswith('    python upscale.py ')]
    for command in commands:
        assert program.main(shlex.split(command)[2:]) == 0, command
    assert len(commands) >= 9
    assert files('out/all') == ['a_x4.png', 'b_x4.png', 'deeper/a_x4.png', 'photo_x4.png']
    flags = {flag for action in program.build_parser()._actions for flag in action.option_strings}
    others = r'^    (?:python tools/|pip ).*$|`(?:python tools/|pip )[^`]*`'                # other programs' flags
    named = set(re.findall(r'(?<=[` ])--?[a-z][a-z_]*', re.sub(others, '', page, flags=re.M)))
    plain = {'-h', '--help', '--version', '--out'}  # what needs no words there
    assert named <= flags and {flag for flag in flags if '--self' not in flag} - named <= plain
    Path('example.py').write_text(re.search('```python\n(.*?)```', page, re.S)[1], encoding='utf-8')
    runpy.run_path('example.py')
    assert capsys.readouterr().out.splitlines()[-1] == '4 (96, 128, 3) torch.Size([2, 3, 96, 128])'
    assert Image.open('photo_x4.png').size == (40, 56)
