"""One's own photos: every kind of image, by command line and from Python, under names that users expect."""
import io
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageCms
from skimage import data as photos
from tqdm import tqdm

import upscale as program
from data.degradation import resize
from model import mrda, zoo
from photo import batch, upscaler
from photo.batch import upscale_files
from photo.image import Photo, read_photo
from photo.targets import targets
from photo.upscaler import Upscaler
from photo.writing import write_photo
from store.tensors import save_weights
from upscale import load, upscale
from utility import UserError, shown

ROOT = Path(__file__).resolve().parent.parent
RGB = np.ascontiguousarray(photos.astronaut()[:14, 100:110])                        # (14, 10, 3)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
GRAY_ICC = SRGB[:16] + b'GRAY' + SRGB[20:]


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


def save(path, array=RGB, **options):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(path, **options)
    return Path(path)


def files(folder='enlarged'):
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob('*') if path.is_file())


class Nearest(torch.nn.Module):
    """A student in name: nearest neighbours, so that results are known."""

    class SR(torch.nn.Module):
        def forward(self, lq, rep):
            return lq.repeat_interleave(2, 2).repeat_interleave(2, 3)

    def __init__(self):
        super().__init__()
        self.G = self.SR()

    def encoder(self, lq):
        return lq.mean((2, 3)), None


NEAREST = Upscaler(Nearest(), 2, 1, torch.device('cpu'), tile=32)


# ---- the command line ----

def test_a_folder_with_sub_folders_into_another(capsys):
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
    assert run('a.png', 'two', 'three/*.png', 'two/c.png') == 0                     # into enlarged/; c only once
    assert files() == ['a_x2.png', 'c_x2.png', 'd_x2.png', 'e_x2.png']


def test_alike_names_have_results_of_their_own():
    reds = {}
    for i, name in enumerate(('p/x.png', 'q/x.png', 'q/x.bmp', 'p/y.png', 'p/y.bmp', 'q/z.png', 'p/Z.png')):
        save(name, np.full((4, 4, 3), 30 * i, np.uint8))
        reds[name] = 30 * i
    upscale_files(NEAREST, targets(['*/*'], Path('out'), 2), False, print)
    found = {name: np.array(Image.open(Path('out') / name))[0, 0, 0] for name in files('out')}
    assert found == {'p/x_x2.png': reds['p/x.png'], 'q/x.png_x2.png': reds['q/x.png'],
                     'q/x.bmp_x2.png': reds['q/x.bmp'], 'y.png_x2.png': reds['p/y.png'],
                     'y.bmp_x2.png': reds['p/y.bmp'], 'q/z_x2.png': reds['q/z.png'], 'p/Z_x2.png': reds['p/Z.png']}
    found = targets(['p', 'q', '../where/p/x.png'], Path('out'), 2)
    assert len(found) == len(set(found.values())) == 7
    assert found[Path('p/y.png')] == Path('out/y.png_x2.png')


def test_no_result_lies_outside_the_folder():
    for name in ('../one/x.png', '../two/x.png', 'x.png'):
        save(name)
    found = targets(['../one', '../two/*.png', 'x.png'], Path('out'), 2)
    assert sorted(path.as_posix() for path in found.values()) == ['out/one/x_x2.png', 'out/two/x_x2.png',
                                                                    'out/where/x_x2.png']


def test_names_that_cannot_be_told_apart_are_refused():
    for name in ('p/x.png', 'q/x.png', 'in/p/x.png'):
        save(name)
    with pytest.raises(UserError, match=r'x\.png and .*x\.png would have one result'):
        targets(['p', 'q', 'in'], Path('out'), 2)


def test_results_are_not_replaced_and_not_enlarged_again(capsys):
    save('in/a.png')
    save('in/a.bmp')
    assert run('in', '-o', 'in') == 0
    made = {name: Path('in', name).read_bytes() for name in files('in')}
    assert set(made) == {'a.png', 'a.bmp', 'a.png_x2.png', 'a.bmp_x2.png'}
    Path('in/a.png_x2.png').write_bytes(b'mine')
    assert run('in', '-o', 'in') == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith('error: 2 of 2 photos were not upscaled: ') and error.count('exists already') == 2
    assert Path('in/a.png_x2.png').read_bytes() == b'mine'
    assert run('in', '-o', 'in', '--overwrite') == 0
    assert {name: Path('in', name).read_bytes() for name in files('in')} == made


def test_only_results_beside_their_photos_are_left_out():
    for name in ('a.png', 'a_x2.png', 'a_x2.jpg', 'out/b_x2.png'):
        save(name)
    assert targets(['a.png', 'a_x2.png'], Path('out'), 2).keys() == {Path('a.png'), Path('a_x2.png')}
    assert targets(['*.png', '*.jpg'], Path('.'), 2).keys() == {Path('a.png'), Path('a_x2.jpg')}
    assert Path('out/b_x2.png') not in targets(['**/*.png'], Path('out'), 2)     # a glob looks into out/ too


def test_kept_endings_may_meet_another_stem():
    for name in ('a.jpg', 'a.png', 'a.jpg.png'):
        save(f'in/{name}')
    assert {path.name for path in targets(['in'], Path('out'), 2).values()} == {
        'a.jpg_x2.png', 'a.png_x2.png', 'a.jpg.png_x2.png'}


def test_one_photo_whose_result_cannot_be_written_does_not_stop_the_others(monkeypatch, capsys):
    for name in ('a', 'm' * 250, 'w', 'z'):
        save(f'in/{name}.png')
    write = batch.write_bands

    def short_of_memory(target, *what):
        if target.name.startswith('w'):
            raise MemoryError
        write(target, *what)
    monkeypatch.setattr(batch, 'write_bands', short_of_memory)
    assert run('in') == 2 and files() == ['a_x2.png', 'z_x2.png']
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith('error: 2 of 4') and 'File name too long' in error and 'w.png: memory does not' in error


def test_a_folder_that_takes_no_results_is_known_before_the_first_photo(monkeypatch, capsys):
    save('a.png')
    monkeypatch.setattr(program, 'upscale_files', None)
    assert run('a.png', '-o', 'a.png/x') == 2
    said = 'error: a.png/x: cannot hold results (Not a directory); choose another place\n'
    assert capsys.readouterr().err == said


def test_bad_files_are_skipped_and_listed(capsys):
    save('in/a.png')
    Path('in/b.png').write_bytes(Path('in/a.png').read_bytes()[:-30])
    Path('in/c.jpg').touch()
    save('in/z.png')
    assert run('in') == 2
    assert files() == ['a_x2.png', 'z_x2.png']
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith('error: 2 of 4') and 'b.png: cannot be read' in error and 'c.jpg: empty file' in error


@pytest.mark.parametrize('argv, said', [
    ([], 'arguments are required: photos; python upscale.py --help lists the flags'),
    (['nowhere'], 'nowhere: no such file'), (['empty'], 'empty: holds no image'),
    (['a.png', '-o', 'b.png'], '--out b.png: a folder is needed'), (['a.png', '-o', 'file'], 'a folder is needed'),
    (['a.png', '--weights', 'x'], 'small (x2)'), (['a.png', '--scale', '4'], '--scale 4'),
    (['a.png', '--scale', '5'], '2, 3 or 4'), (['a.png', '--tile', '8'], '32 or more'),
    (['a.png', '--tiles', '64'], '--tiles'), (['enlarged', '-o', 'enlarged'], None)])
def test_mistakes_are_one_line(capsys, argv, said):
    save('a.png')
    Path('empty').mkdir()
    Path('file').touch()
    if said is None:
        save('enlarged/a_x2.png')
        assert run(*argv) == 0 and files() == ['a_x2.png', 'a_x2_x2.png']           # alone it is a photo like others
        return
    assert run(*argv) == 2
    error = capsys.readouterr().err
    assert error.startswith('error: ') and error.count('\n') == 1 and said in error
    assert not Path('enlarged').exists()


def test_from_any_folder_with_a_file_of_weights(tmp_path):
    """As users call it: a process of its own, the zoo not in the working folder."""
    save('in/a.png')
    save_weights('own.pt', mrda.student(3, 1))
    done = subprocess.run([sys.executable, ROOT / 'upscale.py', 'in/a.png', '--weights', 'own.pt', '--tile', '32',
                           '--self-ensemble', '--device', 'cpu'], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Image.open('enlarged/a_x3.png').size == (30, 42)
    assert 'model mrda, scale 3, n_blocks 1' in done.stdout
    assert sorted(path.name for path in Path().iterdir()) == ['enlarged', 'in', 'own.pt']


def test_progress_counts_pixels(monkeypatch):
    save('in/a.png', np.zeros((40, 70, 3), np.uint8))
    save('in/b.png')
    Path('in/c.png').write_bytes(save('d.png').read_bytes()[:-30])
    bars = []

    class Bar(tqdm):
        def close(self):
            bars.append((self.n, self.total))
            super().close()
    monkeypatch.setattr(batch, 'tqdm', lambda **options: Bar(**{**options, 'disable': False, 'file': io.StringIO()}))
    with pytest.raises(UserError, match=r'c\.png'):
        upscale_files(NEAREST, targets(['in'], Path('out'), 2), False, lambda line: None)
    assert bars[0] == (40 * 70 + 2 * 140,) * 2


def test_foreign_names_and_too_little_memory_are_named(capsys):
    try:
        path = save(os.fsdecode(b'caf\xe9.png'))
    except OSError:
        pytest.skip('this file system takes no such name')
    assert run(path) == 0
    assert r'caf\udce9.png' in capsys.readouterr().out
    model = load(device='cpu')
    for error in (MemoryError('memory runs out'), UserError('memory runs out')):
        def fail(*_, error=error):
            raise error
        model.bands = fail
        with pytest.raises(UserError, match='memory') as told:
            upscale_files(model, {path: Path('x.png')}, True, print)
        assert shown(path) in str(told.value)


def test_without_weights_the_other_program_points_here(cli, library, capsys):
    assert cli('--stage', 4, '--dir_demo', library / 'Photos') == 2
    error = capsys.readouterr().err
    assert 'python upscale.py has shipped weights' in error and error.count('\n') == 1
    assert cli('--stage', 4, '--dir_demo', library / 'Photos', '--pre_train_ST', ROOT / 'main.py') == 2
    assert 'upscale.py' not in capsys.readouterr().err


# ---- every kind of image ----

def kinds():
    """{name: (Pillow image or array, options, pixels expected upright)}"""
    alpha = np.dstack([RGB, np.arange(140, dtype=np.uint8).reshape(14, 10)])
    gray, deep = RGB[..., :1], RGB.astype(np.uint16) * 257 + 5
    palette = Image.fromarray(RGB).quantize(8)
    exif = Image.Exif()
    exif[274] = 6
    return {
        'rgb.png': (RGB, {'icc_profile': SRGB}, RGB), 'rgba.webp': (alpha, {'lossless': True, 'exact': True}, alpha),
        'gray.tif': (gray[..., 0], {'icc_profile': GRAY_ICC}, gray), 'ga.png': (alpha[..., 2:], {}, alpha[..., 2:]),
        'one.bmp': (gray[..., 0] > 99, {}, 255 * (gray > 99).astype(np.uint8)),
        'palette.png': (palette, {}, np.array(palette.convert('RGB'))),
        'clear.png': (palette, {'transparency': 2}, np.array(
            Image.fromarray(np.dstack([np.array(palette.convert('RGB')), 255 * (np.array(palette) != 2)])
                            .astype(np.uint8)))),
        'cmyk.tif': (Image.fromarray(np.zeros((14, 10, 4), np.uint8), 'CMYK'), {}, np.full((14, 10, 3), 255, np.uint8)),
        'turned.png': (RGB, {'exif': exif}, np.rot90(RGB, -1)),
        'deep gray.png': (deep[..., 0], {}, deep[..., :1]), 'deep.tif': (deep, None, deep)}


@pytest.mark.parametrize('name', kinds())
def test_every_kind_of_image_keeps_its_kind(name):
    image, options, pixels = kinds()[name]
    if options is None:
        tifffile.imwrite(name, image, photometric='rgb')
    else:
        save(name, image, **options)
    upscale_files(NEAREST, targets([name], Path('out'), 2), False, print)
    large, colours = read_photo(Path('out', Path(name).stem + '_x2.png')), 1 if pixels.shape[2] < 3 else 3
    assert large.pixels.dtype == pixels.dtype and large.pixels.shape[2] == pixels.shape[2]
    assert np.array_equal(large.pixels[..., :colours], np.kron(pixels[..., :colours], np.ones((2, 2, 1), pixels.dtype)))
    if pixels.shape[2] > colours:
        alpha = resize(torch.from_numpy(pixels[..., -1].astype(np.float64))[None, None], 2, shrink=False)[0, 0].numpy()
        assert np.abs(large.pixels[..., -1] - alpha.clip(0, 255)).max() < 0.51
    assert large.icc == (options or {}).get('icc_profile')
    if name != 'deep.tif':
        assert np.array_equal(np.atleast_3d(np.array(upscale(Image.open(name), NEAREST))), large.pixels)
        assert np.array_equal(np.atleast_3d(np.array(upscale(name, NEAREST))), large.pixels)
        assert upscale(name, NEAREST).info.get('icc_profile') == large.icc


def test_opaque_and_clear_stay_so_and_tiles_show_no_seams(monkeypatch):
    rgba = np.random.RandomState(0).randint(0, 256, (50, 70, 4)).astype(np.uint8)
    whole = Upscaler(Nearest(), 2, 1, torch.device('cpu'))
    expected = whole.array(rgba)
    monkeypatch.setattr(upscaler, 'TILE', 32)                                         # of transparency, which is whole
    assert np.array_equal(NEAREST.array(rgba), expected)
    for value in (0, 255):
        rgba[..., 3] = value
        assert (NEAREST.array(rgba)[..., 3] == value).all()


@pytest.mark.parametrize('white', [1, 255])
def test_values_are_those_of_the_network(white):
    """Whatever white is inside the network, and on the way back clipped and rounded."""
    net = mrda.student(2, 1, rgb_range=white).requires_grad_(False)
    model = Upscaler(net, 2, white, torch.device('cpu'))
    lq = torch.from_numpy(np.pad(RGB, ((4, 4), (4, 4), (0, 0)), 'edge')).permute(2, 0, 1)[None] / 255 * white
    net.G.tail[1].weight.mul_(30)                                                    # contrast beyond black and white
    sr = (net(lq)[0] / white)[0, :, 8:-8, 8:-8].permute(1, 2, 0)
    assert sr.min() < 0 and sr.max() > 1
    assert np.abs(model.array(RGB).astype(int) - (sr.clamp(0, 1) * 255).round().numpy()).max() <= 1
    gray = model.array(RGB[..., :1])
    three = (net(lq[:, :1].expand(-1, 3, -1, -1))[0] / white).clamp(0, 1).mean(1)[0, 8:-8, 8:-8]
    assert np.abs(gray[..., 0].astype(int) - (three * 255).round().numpy()).max() <= 1


# ---- from Python ----

def test_arrays_come_back_as_what_they_were():
    expected = np.kron(RGB, np.ones((2, 2, 1), np.uint8))
    for dtype, white in ((np.uint8, 255), (np.uint16, 65535), (np.float16, 1), (np.float32, 1), (np.float64, 1)):
        image = (RGB / 255 * white).round(0 if white > 1 else 9).astype(dtype)
        large = upscale(image, NEAREST)
        assert large.dtype == dtype and large.shape == (28, 20, 3)
        assert np.abs(large.astype(float) / white * 255 - expected).max() < (0.2 if dtype == np.float16 else 1e-2)
        assert upscale(image[..., 0], NEAREST).shape == (28, 20)
        assert upscale(image[..., :2], NEAREST).shape == (28, 20, 2)
        assert upscale(image[:, ::-1, :1], NEAREST).shape == (28, 20, 1)             # strides of any sign


def test_tensors_come_back_as_what_they_were():
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
def test_what_cannot_be_loaded(wrong):
    (name, value), = wrong.items()
    with pytest.raises(UserError, match=str(value)) as error:
        load(**wrong)
    assert name in str(error.value) or name == 'weights'
    assert load(device=torch.device('cpu'), scale=2, tile=32).scale == 2


@pytest.mark.parametrize('image, said', [
    (np.zeros((3, 3, 3), int), 'int64'), (np.zeros(3, np.uint8), r'\(3,\)'),
    (np.zeros((3, 8, 9), np.uint8), '4 channels'), (np.zeros((0, 8, 3), np.uint8), r'\(0, 8, 3\)'),
    (torch.zeros(1, 8, 9), r'\(1, 8, 9\)'),
    (torch.zeros(3, 8, 9, dtype=torch.uint8), 'uint8'), (torch.zeros(8, 9), r'\(8, 9\)'), ([1, 2], 'list'),
    ('nowhere.png', 'nowhere'), (Image.new('F', (3, 3)), 'mode F')])
def test_what_is_no_image(image, said):
    with pytest.raises(UserError, match=said) as error:
        upscale(image, NEAREST)
    assert '\n' not in str(error.value)


def test_tiles_equal_the_whole_image():
    model, tiles = load(device='cpu'), load(device='cpu', tile=32)
    image = np.ascontiguousarray(photos.astronaut()[:45, 100:170])
    difference = np.abs(model.array(image).astype(int) - tiles.array(image))
    assert difference.max() <= 1 and (difference > 0).mean() < 0.01


# ---- the page for users ----

def test_the_page_for_users_holds_what_works(capsys):
    page = (ROOT / 'docs/photos.md').read_text(encoding='utf-8')
    for name in 'mrda_s_x4_anisonoise_small', 'mrda_s_x4_iso_small':
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
    named = set(re.findall(r'(?<=[` ])--?[a-z][a-z_]*', page))
    assert named <= flags and {flag for flag in flags if '--self' not in flag} - named <= {'-h', '--help', '--out'}
    Path('example.py').write_text(re.search('```python\n(.*?)```', page, re.S)[1], encoding='utf-8')
    runpy.run_path('example.py')
    assert capsys.readouterr().out.splitlines()[-1] == '4 (96, 128, 3) torch.Size([2, 3, 96, 128])'
    assert Image.open('photo_x4.png').size == (40, 56)
