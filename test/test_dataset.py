"""Data sets are found in every layout, cut by --data_range, and checked before the first step."""
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import data
from data.dataset import TestSet, find_images, refuse, scan
from data.images import read_rgb, write_rgb
from utility import UserError


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def names(files):
    return [file.name for file in files]


@pytest.mark.parametrize('layout', ['Mine/HR', 'Mine', 'benchmark/Mine/HR', 'benchmark/Mine', 'mine/hr', 'MINE'])
@pytest.mark.parametrize('train', [False, True])
def test_layouts(tmp_path, layout, train):
    touch(tmp_path, f'{layout}/b.png', f'{layout}/a.JPEG', f'{layout}/notes.txt', f'{layout}/._a.png')
    (tmp_path / layout / 'folder.png').mkdir()
    assert names(find_images(tmp_path, 'Mine', train)) == ['a.JPEG', 'b.png']


def test_df2k(tmp_path):
    touch(tmp_path, *(f'DIV2K/DIV2K_train_HR/{i:04}.png' for i in range(1, 4)))
    with pytest.raises(UserError, match=r'--data_train DF2K.*DIV2K_train_HR.*Flickr2K_HR.*holds DIV2K/'):
        find_images(tmp_path, 'DF2K', True)
    touch(tmp_path, 'Flickr2K/Flickr2K_HR/000001.png')
    joined = ['0001.png', '0002.png', '0003.png', '000001.png']
    assert names(find_images(tmp_path, 'DF2K', True)) == joined
    touch(tmp_path, 'DF2K/HR/x.png')
    assert names(find_images(tmp_path, 'DF2K', True)) == ['x.png']


def test_official_div2k_test_images_are_801_to_810(tmp_path):
    touch(tmp_path, *(f'DIV2K/DIV2K_train_HR/{i:04}.png' for i in range(1, 801)),
          *(f'DIV2K/DIV2K_valid_HR/{i:04}.png' for i in range(801, 901)))
    assert names(find_images(tmp_path, 'DIV2K', False, '1-800/801-810')) == [f'{i:04}.png' for i in range(801, 811)]
    assert len(find_images(tmp_path, 'DIV2K', True, '1-3450/801-810')) == 800


def test_joined_sets_and_paths(tmp_path, monkeypatch):
    touch(tmp_path, 'data/A/HR/1.png', 'data/A/HR/2.png', 'data/B/3.png', 'c+d/HR/4.png', 'other/5.png')
    assert names(find_images(tmp_path / 'data', 'A+B', True)) == ['1.png', '2.png', '3.png']
    assert names(find_images(tmp_path / 'data', 'A+B', True, '1-1/1-1')) == ['1.png', '3.png']
    assert names(find_images(tmp_path / 'data', str(tmp_path / 'c+d'), True)) == ['4.png']
    assert names(find_images(tmp_path / 'data', f'{tmp_path}/other+A', True)) == ['5.png', '1.png', '2.png']
    monkeypatch.chdir(tmp_path)
    assert names(find_images('data', 'other', False)) == ['5.png']
    assert names(find_images('data', './data/A/HR', False)) == ['1.png', '2.png']


def test_home_folder_is_expanded_in_set_names(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    touch(tmp_path, 'A/1.png', 'B+C/2.png')
    assert names(find_images('~', '~/A', True)) == ['1.png'] and names(find_images('~', '~/B+C', True)) == ['2.png']
    assert names(find_images('~', '~/A+A', True)) == ['1.png', '1.png']


@pytest.mark.parametrize('there,asked', [('B100', 'BSD100'), ('BSDS100', 'B100'), ('BSD100', 'bsds100'),
                                         ('Manga109', 'MANGA109'), ('manga109', 'Manga109'), ('set5', 'Set5')])
def test_aliases_of_benchmarks(tmp_path, there, asked):
    touch(tmp_path, f'{there}/HR/1.png')
    assert len(find_images(tmp_path, asked, False, '1-3450/801-810')) == 1


def test_tests_prefer_the_benchmark_and_training_does_not(tmp_path):
    touch(tmp_path, 'Set5/HR/plain.png', 'benchmark/Set5/HR/bench.png')
    assert names(find_images(tmp_path, 'Set5', False)) == ['bench.png']
    assert names(find_images(tmp_path, 'Set5', True)) == ['plain.png']


def test_ambiguous_case_matches_nothing(tmp_path):
    touch(tmp_path, 'mine/1.png', 'MINE/2.png')
    if len(list(tmp_path.iterdir())) == 1:
        pytest.skip('this file system knows no capitals')
    assert names(find_images(tmp_path, 'mine', True)) == ['1.png']
    with pytest.raises(UserError):
        find_images(tmp_path, 'Mine', True)


def test_missing_set_error_lists_searched_folders_and_contents(tmp_path):
    touch(tmp_path, 'Urban100/HR/1.png', 'Empty/readme.txt')
    with pytest.raises(UserError) as error:
        find_images(tmp_path, 'Empty', False)
    text = str(error.value)
    assert '--data_test Empty' in text and str(tmp_path / 'benchmark' / 'Empty' / 'HR') in text and '\n' not in text
    assert 'holds Empty/, Urban100/' in text
    with pytest.raises(UserError, match='does not exist'):
        find_images(tmp_path / 'nowhere', 'Set5', False)
    with pytest.raises(UserError, match='~no-such-user/x: no such user'):
        find_images('~no-such-user/x', 'Set5', False)
    with pytest.raises(UserError, match=r"--data_train ' \+ ' names no data set"):
        find_images(tmp_path, ' + ', True)


def test_data_range(tmp_path):
    touch(tmp_path, *(f'M/{i:02}.png' for i in range(1, 21)), *(f'benchmark/S/HR/{i}.png' for i in range(3)))
    assert names(find_images(tmp_path, 'M', True, '3-5/1-2')) == ['03.png', '04.png', '05.png']
    assert names(find_images(tmp_path, 'M', False, '3-5/1-2')) == ['01.png', '02.png']
    assert len(find_images(tmp_path, 'M', True, '19-99/1-2')) == 2
    assert len(find_images(tmp_path, 'S', False, '1-5/801-810')) == 3
    with pytest.raises(UserError, match=r'--data_range 1-5/21-30: --data_test M has 20 images, none at 21-30'):
        find_images(tmp_path, 'M', False, '1-5/21-30')


@pytest.mark.parametrize('bad', ['5', '1-5', '0-5/1-2', '5-1/1-2', '1-2/3-2', 'a-b/c-d', '1-5/1-2/3', '-1-5/1-2', ' '])
def test_malformed_range(tmp_path, bad):
    touch(tmp_path, 'M/1.png')
    with pytest.raises(UserError, match='--data_range'):
        find_images(tmp_path, 'M', True, bad)


def noise(height, width, seed=0):
    return np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8)


def bad_folder(folder, good=3):
    """`good` images that can be used and five that cannot."""
    for i in range(good):
        write_rgb(folder / f'good {i}.png', noise(40, 50, i))
    write_rgb(folder / 'small.png', noise(31, 50))
    (folder / 'cut.png').write_bytes((folder / 'good 0.png').read_bytes()[:3000])
    Image.fromarray(noise(40, 50)).save(folder / 'whole.jpg')
    (folder / 'cut.jpg').write_bytes((folder / 'whole.jpg').read_bytes()[:-200])
    (folder / 'empty.png').touch()
    (folder / 'dangling.png').symlink_to(folder / 'gone.png')


def test_scan_reports_every_fault_at_once(tmp_path):
    bad_folder(tmp_path / 'M')
    files = find_images(tmp_path, 'M', True)
    with pytest.raises(UserError) as error:
        refuse(scan(files, 32), files)
    text = str(error.value)
    assert text.startswith('5 of 9 images') and '\n' not in text
    for part in ('small.png (50x31 is smaller than 32x32', 'cut.png (cannot be read', 'cut.jpg (cannot be read',
                 'empty.png (empty', 'dangling.png (broken link'):
        assert part in text
    assert 'good' not in text and 'whole' not in text
    good = [file for file in files if file.name.startswith(('good', 'whole'))]
    refuse(scan(good, 40), good)


def test_many_bad_images_are_all_listed_in_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, *(f'M/{i:02}.png' for i in range(13)))
    files = find_images(tmp_path, 'M', True)
    end = r'09\.png \(empty file\); and 3 more, all listed in bad_images\.txt$'
    with pytest.raises(UserError, match=rf'^13 of 13 images.*--skip_bad.*{end}'):
        refuse(scan(files, 32), files)
    assert Path('bad_images.txt').read_text().splitlines() == [f'{file} (empty file)' for file in files]
    (tmp_path / 'file').touch()
    (tmp_path / 'bad_images.txt').unlink()
    (tmp_path / 'bad_images.txt').mkdir()                                # not writable here
    monkeypatch.setattr('tempfile.tempdir', str(tmp_path / 'tmp'))
    with pytest.raises(UserError, match=re.escape(f'all listed in {tmp_path}/tmp/bad_images.txt')):
        refuse(scan(files, 32), files)


def test_skip_bad_leaves_out_bad_images(library):
    bad_folder(library / 'M' / 'HR')
    touch(library, 'benchmark/S/HR/9.png')
    notes = []
    train, tests = data.make_loaders(options(library, skip_bad=True), note=notes.append)
    assert len(train.dataset.files) == len(train.dataset.checksums) == 7
    assert len(tests[0]) == 3 and len(list(train)) == 3
    note, = notes
    assert note.startswith('--skip_bad: 6 images left out: ') and 'cut.jpg' in note and '9.png (empty' in note
    with pytest.raises(UserError, match='one process'):
        data.make_loaders(options(library, skip_bad=True), data.Rank(0, 2, 0))
    touch(library, 'T/none.png')
    for names in ({'data_test': 'T'}, {'data_train': 'T'}):
        with pytest.raises(UserError, match='none of its 1 images can be used'):
            data.make_loaders(options(library, skip_bad=True, **names))


def test_scan_of_many_images_prints_their_number(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr('data.dataset.MANY', 3)
    touch(tmp_path, *(f'M/{i}.png' for i in range(3)))
    scan(find_images(tmp_path, 'M', True), 32)
    assert capsys.readouterr().err.splitlines() == ['checking images: 3']


def test_testset_crops_to_the_scale(tmp_path):
    write_rgb(tmp_path / 'a.png', noise(41, 50))
    write_rgb(tmp_path / 'b.png', noise(33, 33))
    Image.fromarray(noise(36, 36)[..., 0]).save(tmp_path / 'b.tif')
    testset = TestSet('S', [tmp_path / 'a.png', tmp_path / 'b.png', tmp_path / 'b.tif'], 4)
    images = list(testset)
    assert len(testset) == 3 and [name for name, _ in images] == ['a', 'b.png', 'b.tif']
    assert [tuple(hr.shape) for _, hr in images] == [(1, 3, 40, 48), (1, 3, 32, 32), (1, 3, 36, 36)]
    hr = images[0][1]
    assert hr.dtype == torch.uint8 and hr.is_contiguous()
    assert np.array_equal(hr[0].permute(1, 2, 0), read_rgb(tmp_path / 'a.png')[:40, :48])


def options(root, **changes):
    return SimpleNamespace(**{
        'dir_data': str(root), 'data_train': 'M', 'data_test': 'S', 'data_range': '1-3450/801-810', 'given': set(),
        'ext': 'sep', 'dir_cache': str(root / 'cache'), 'scale': 4, 'patch_size': 8, 'no_augment': False, 'seed': 1,
        'batch_size': 4, 'test_every': 3, 'n_threads': 0, 'test_only': False, 'data_timeout': 10.0, 'skip_bad': False,
        'train_lr': None, **changes})


def test_default_data_range_applies_to_official_sets_only(library):
    def trained(**changes):
        return len(data.make_loaders(options(library, **changes))[0].dataset.files)
    assert trained(data_range='1-2/1-2') == 3 and trained(data_range='1-2/1-2', given={'data_range'}) == 2
    (library / 'M').rename(library / 'DF2K')
    assert trained(data_range='1-2/1-2', data_train='DF2K') == 2


@pytest.fixture
def library(tmp_path):
    for i in range(3):
        write_rgb(tmp_path / 'M' / 'HR' / f'{i}.png', noise(40, 50, i))
        write_rgb(tmp_path / 'benchmark' / 'S' / 'HR' / f'{i}.png', noise(40, 50, i))
    return tmp_path


def test_make_loaders(library):
    train, tests = data.make_loaders(options(library))
    batches = list(train)
    assert [tuple(batch.shape) for batch in batches] == [(4, 3, 32, 32)] * 3 and batches[0].dtype == torch.uint8
    assert [(testset.name, len(testset)) for testset in tests] == [('S', 3)]
    assert len(list((library / 'cache').glob('*.npy'))) == 3
    train, tests = data.make_loaders(options(library, test_only=True, data_train='missing',
                                             data_test=f'S+{library}/M/HR', data_range='1-1/2-3', given={'data_range'}))
    assert train is None and [(testset.name, len(testset)) for testset in tests] == [('S', 3), ('M', 2)]
    _, tests = data.make_loaders(options(library, test_only=True, data_test='M'))
    assert len(tests[0]) == 3  # 801-810, the default, is for DIV2K


def test_patches_do_not_depend_on_the_cache(library, capsys):
    (library / 'file').touch()
    batches = [torch.stack(list(data.make_loaders(options(library, ext=ext, dir_cache=str(library / cache)))[0]))
               for ext, cache in (('img', 'x'), ('sep', 'a'), ('sep', 'a'), ('sep_reset', 'a'), ('sep', 'file/b'))]
    assert all(torch.equal(batches[0], other) for other in batches[1:])
    assert not (library / 'x').exists()
    warning, = capsys.readouterr().err.splitlines()    # for the last one only: its folder cannot be created
    assert 'decoding images for every patch' in warning and str(library / 'file/b') in warning


def test_bad_images_are_reported_before_training(library, monkeypatch):
    monkeypatch.chdir(library)  # folder of the list of bad images
    bad_folder(library / 'M' / 'HR')
    with pytest.raises(UserError, match=r'^5 of 15 images'):
        data.make_loaders(options(library))
    with pytest.raises(UserError, match=r'patch_size'):
        data.make_loaders(options(library, patch_size=11))
    (library / 'benchmark' / 'S' / 'HR' / 'tiny.png').touch()
    (library / 'benchmark' / 'T').mkdir()
    (library / 'benchmark' / 'T' / 'none.png').touch()
    with pytest.raises(UserError, match=r'^7 of 17 images.*S/HR/tiny\.png \(.*T/none\.png \(.*M/HR/cut\.jpg \('):
        data.make_loaders(options(library, data_test='S+T'))
    with pytest.raises(UserError, match=r'1 of 4 images.*tiny\.png'):
        data.make_loaders(options(library, test_only=True))
