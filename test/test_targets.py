"""The photos of a command line, and the names of their results."""
import os
from pathlib import Path

import numpy as np
import pytest
from photo_tools import NEAREST, RGB, files, save
from PIL import Image

from photo.batch import upscale_files
from photo.output import Output
from photo.targets import find_photos, targets
from utility import UserError

X2 = Output(2)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty working folder."""
    (tmp_path / 'where').mkdir()
    monkeypatch.chdir(tmp_path / 'where')


def test_find_photos(tmp_path):
    names = ['b.png', 'a.JPG', 'sub/c.webp', 'sub/deep/d.tif', 'z [1].png']
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name in ('notes.txt', '._b.png', 'sub/Thumbs.db'):
        (tmp_path / name).touch()
    assert find_photos(tmp_path) == sorted(tmp_path / name for name in names)
    assert find_photos(str(tmp_path / '*.png')) == [tmp_path / 'b.png', tmp_path / 'z [1].png']
    assert find_photos(tmp_path / 'z [1].png') == [tmp_path / 'z [1].png']
    assert find_photos(f'{tmp_path}/**/*.tif') == [tmp_path / 'sub/deep/d.tif']
    (tmp_path / 'none').mkdir()
    for bad in ('none', 'missing', '*.gif'):
        with pytest.raises(UserError, match='--dir_demo'):
            find_photos(tmp_path / bad)


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    save(tmp_path / 'a.png', RGB)
    (tmp_path / 'secret').mkdir()
    scan = os.scandir

    def closed(path):
        if str(path).endswith('secret'):
            raise PermissionError(13, 'Permission denied', str(path))
        return scan(path)
    monkeypatch.setattr(os, 'scandir', closed)
    with pytest.raises(UserError, match='secret: this folder cannot be read'):
        find_photos(tmp_path)


def test_unknown_home_folder_is_refused():
    with pytest.raises(UserError, match='~no-such-user/x: no such user'):
        find_photos('~no-such-user/x')


def test_equal_names_get_different_results():
    reds = {}
    for i, name in enumerate(('p/x.png', 'q/x.png', 'q/x.bmp', 'p/y.png', 'p/y.bmp', 'q/z.png', 'p/Z.png')):
        save(name, np.full((4, 4, 3), 30 * i, np.uint8))
        reds[name] = 30 * i
    upscale_files(NEAREST, targets(['*/*'], Path('out'), X2), X2, print)
    found = {name: np.array(Image.open(Path('out') / name))[0, 0, 0] for name in files('out')}
    assert found == {'p/x_x2.png': reds['p/x.png'], 'q/x.png_x2.png': reds['q/x.png'],
                     'q/x.bmp_x2.png': reds['q/x.bmp'], 'y.png_x2.png': reds['p/y.png'],
                     'y.bmp_x2.png': reds['p/y.bmp'], 'q/z_x2.png': reds['q/z.png'], 'p/Z_x2.png': reds['p/Z.png']}
    found = targets(['p', 'q', '../where/p/x.png'], Path('out'), X2)
    assert len(found) == len(set(found.values())) == 7
    assert found[Path('p/y.png')] == Path('out/y.png_x2.png')


def test_results_are_inside_the_folder():
    for name in ('../one/x.png', '../two/x.png', 'x.png'):
        save(name)
    found = targets(['../one', '../two/*.png', 'x.png'], Path('out'), X2)
    assert sorted(path.as_posix() for path in found.values()) == ['out/one/x_x2.png', 'out/two/x_x2.png',
                                                                    'out/where/x_x2.png']


def test_indistinguishable_names_are_refused():
    for name in ('p/x.png', 'q/x.png', 'in/p/x.png'):
        save(name)
    with pytest.raises(UserError, match=r'x\.png and .*x\.png would have the same result'):
        targets(['p', 'q', 'in'], Path('out'), X2)


def test_results_beside_their_photos_are_left_out():
    for name in ('a.png', 'a_x2.png', 'a_x2.jpg', 'out/b_x2.png'):
        save(name)
    assert targets(['a.png', 'a_x2.png'], Path('out'), X2).keys() == {Path('a.png'), Path('a_x2.png')}
    assert targets(['*.png', '*.jpg'], Path('.'), X2).keys() == {Path('a.png'), Path('a_x2.jpg')}
    assert Path('out/b_x2.png') not in targets(['**/*.png'], Path('out'), X2)     # a glob also matches in out/


def test_kept_suffix_may_equal_another_stem():
    for name in ('a.jpg', 'a.png', 'a.jpg.png'):
        save(f'in/{name}')
    assert {path.name for path in targets(['in'], Path('out'), X2).values()} == {
        'a.jpg_x2.png', 'a.png_x2.png', 'a.jpg.png_x2.png'}
