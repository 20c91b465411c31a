"""Data sets are downloaded, joined and checked by one command, in the way training finds them."""
import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import prepare_data
import pytest
from mirror import SMALL_SETS, Mirror, archives, files, png, sums

from data import sources
from data.cache import PixelCache
from data.dataset import find_images
from data.images import write_rgb
from utility import UserError

# ---- downloading ----

def test_one_command_prepares_everything(prepare, mirror):
    status, out, err = prepare('download')
    assert (status, err.count('error')) == (0, 0), out + err
    assert [path.name for path in find_images('data', 'DF2K', True)] == [
        *(f'DIV2K_000{i}.png' for i in range(1, 5)), *(f'Flickr2K_00000{i}.png' for i in range(1, 4))]
    for name in ('Set5', 'Set14', 'B100', 'Urban100', 'DIV2K'):
        count = SMALL_SETS[name] + (name == 'DIV2K') * SMALL_SETS['DIV2K_valid']
        assert len(find_images('data', name, False)) == count
    assert all(file.endswith('.png') and 'x2' not in file for file in files('data'))
    assert Path('data/benchmark/Set5/HR/baby.png').read_bytes() == png(0)
    before, mirror.asked = files('data'), []
    assert prepare('download')[0] == 0 and mirror.asked == [] and files('data') == before
    assert prepare('check')[0] == 0


def test_only_named_sets_are_downloaded(prepare, mirror):
    assert prepare('download', 'set5', 'BSD100')[0] == 0
    assert [name for name, _ in mirror.asked] == ['SHA256SUMS', 'benchmark.tar']
    assert {Path(file).parts[1] for file in files('data')} == {'Set5', 'B100'}


def test_kept_archives_are_used_again(prepare, mirror):
    assert prepare('download', 'Set5', '--keep')[0] == 0
    assert Path('data/benchmark.tar').exists()
    shutil.rmtree('data/benchmark')
    mirror.asked = []
    assert prepare('download', 'Set5')[0] == 0 and [name for name, _ in mirror.asked] == ['SHA256SUMS']
    assert not Path('data/benchmark.tar').exists()


def test_damaged_image_is_found_and_replaced(prepare, mirror):
    prepare('download', 'DIV2K')
    broken = Path('data/DIV2K/DIV2K_train_HR/0002.png')
    broken.write_bytes(b'')
    Path('data/DIV2K/DIV2K_valid_HR/0006.png').unlink()
    status, out, _ = prepare('check', 'DIV2K')
    assert status == 2 and '1 damaged: 0002.png (empty file)' in out
    assert '1 of 2 images in data/DIV2K/DIV2K_valid_HR; 1 missing: 0006\n' in out
    assert 'python tools/prepare_data.py download DIV2K --again --dir_data data' in out
    assert prepare('download', 'DIV2K')[0] == 0 and broken.read_bytes() == png(1)


def test_full_decodes(prepare, mirror):
    prepare('download', 'Set5')
    path = Path('data/benchmark/Set5/HR/bird.png')
    path.write_bytes(path.read_bytes()[:-40])
    assert prepare('check', 'Set5')[0] == 0
    status, out, _ = prepare('check', 'Set5', '--full')
    assert status == 2 and '1 damaged: bird.png (cannot be read' in out and '--again' in out
    assert prepare('download', 'Set5', '--again')[0] == 0 and path.read_bytes() == png(1)


@pytest.mark.parametrize('name', ['Manga109', 'MANGA109'])
def test_set_on_request_is_explained(prepare, mirror, name):
    status, out, _ = prepare('download', name)
    assert status == 2 and sources.MANGA109 in out and 'data/benchmark/Manga109/HR' in out and not mirror.asked
    prepare('download')
    assert prepare('check')[0] == 0 and prepare('check', 'Manga109', 'Set5')[0] == 2
    for i in range(2):
        path = Path(f'data/benchmark/Manga109/HR/{i}.png')
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(i))
    assert prepare('check', 'Manga109')[0] == 0


# ---- linking ----

def fill(root, folder, names):
    for i, name in enumerate(names):
        path = Path(root, folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(i))


@pytest.fixture
def unpacked(small_sets, prepare):
    fill('data', 'DIV2K/DIV2K_train_HR', [f'{i:04}.png' for i in range(1, 5)])
    fill('data', 'Flickr2K/Flickr2K_HR', [f'{i:06}.png' for i in range(1, 4)])


def joined():
    return [path.name for path in find_images('data', 'DF2K', True)]


NAMES = [*(f'DIV2K_000{i}.png' for i in range(1, 5)), *(f'Flickr2K_00000{i}.png' for i in range(1, 4))]


@pytest.mark.parametrize('lacks, way', [((), 'hard links'), (('link',), 'symbolic links'),
                                        (('link', 'symlink'), 'copies')])
def test_link(prepare, unpacked, monkeypatch, lacks, way):
    def fail(*arguments, **options):
        raise OSError('not here')
    for name in lacks:
        monkeypatch.setattr(os, name, fail)
    status, out, _ = prepare('link')
    assert status == 0 and f'7 images, those of DIV2K first (7 {way})' in out and joined() == NAMES
    assert Path('data/DF2K/HR/Flickr2K_000002.png').read_bytes() == png(1)
    assert Path('data/DF2K/HR/DIV2K_0001.png').is_symlink() == (way == 'symbolic links')
    before = {path: os.stat(path).st_ino for path in Path('data/DF2K/HR').iterdir()}
    assert '7 there already' in prepare('link')[1]
    assert before == {path: os.stat(path).st_ino for path in Path('data/DF2K/HR').iterdir()}
    Path('data/DF2K/HR/DIV2K_0002.png').unlink()
    assert f'6 there already, 1 {way}' in prepare('link')[1] or way != 'hard links'
    assert prepare('check', 'DF2K')[0] == 0
    os.rename('data', 'moved')
    assert prepare('check', 'DF2K', root='moved')[0] == 0  # symbolic links are relative


def test_link_updates_replaced_images(prepare, unpacked):
    prepare('link')
    source = Path('data/DIV2K/DIV2K_train_HR/0001.png')
    source.unlink()
    source.write_bytes(png(6))
    assert '6 there already' in prepare('link')[1] and Path('data/DF2K/HR/DIV2K_0001.png').read_bytes() == png(6)


@pytest.mark.parametrize('folder', ['DIV2K/HR', 'DIV2K', 'DIV2K_train_HR'])
def test_link_finds_div2k_in_other_layouts_and_leaves_validation_out(prepare, unpacked, folder):
    shutil.rmtree('data/DIV2K')
    fill('data', folder, [f'{i:04}.png' for i in range(1, 7)])
    assert prepare('link')[0] == 0 and joined() == NAMES


def test_damaged_copies_are_replaced(prepare, unpacked, monkeypatch):
    prepare('link')
    copy = Path('data/DF2K/HR/DIV2K_0001.png')
    copy.unlink()
    copy.write_bytes(bytes(len(png(0))))
    status, out, _ = prepare('check', 'DIV2K', 'Flickr2K', 'DF2K')
    assert status == 2 and 'damaged: DIV2K_0001.png' in out and 'prepare_data.py link' in out
    assert prepare('link')[0] == 0 and copy.read_bytes() == png(0)


def test_df2k_alone_is_enough(prepare, mirror):
    fill('data', 'DF2K/HR', [f'{i}.png' for i in range(7)])
    assert prepare('check', 'DF2K')[0] == 0
    Path('data/DF2K/HR/0.png').unlink()
    status, _, err = prepare('download', 'DF2K')
    assert status == 2 and 'holds 6 images of other names' in err
    shutil.rmtree('data')
    fill('data', 'DF2K/HR', NAMES)
    mirror.asked = []
    assert prepare('download', 'DF2K')[0] == 0 and not mirror.asked


def test_link_reports_missing_images(prepare, unpacked):
    Path('data/Flickr2K/Flickr2K_HR/000002.png').unlink()
    status, _, err = prepare('link')
    assert status == 2 and '2 of 3 images in data/Flickr2K/Flickr2K_HR; 1 missing: 000002' in err
    assert 'python tools/prepare_data.py download Flickr2K' in err and err.count('\n') == 1
    assert not Path('data/DF2K').exists()


def test_link_does_not_change_an_unknown_df2k(prepare, unpacked):
    fill('data', 'DF2K/HR', [f'x{i}.png' for i in range(7)])
    before = files('data')
    status, out, _ = prepare('link')
    assert status == 0 and 'already holds 7 images' in out and files('data') == before
    Path('data/DF2K/HR/x0.png').unlink()
    status, _, err = prepare('link')
    assert status == 2 and 'holds 6 images of other names (x1.png' in err


# ---- checking ----

def test_check_of_an_empty_folder(prepare, small_sets):
    status, out, _ = prepare('check')
    assert status == 2 and all(f'{name}: none of {count} images' in out for name, count in SMALL_SETS.items())
    assert 'python tools/prepare_data.py download Urban100 --dir_data data' in out


def test_check_finds_the_same_images_as_training(prepare, unpacked):
    status, out, _ = prepare('check', 'DF2K')
    assert status == 0 and 'DF2K: 7 of 7 images in data/DIV2K/DIV2K_train_HR + data/Flickr2K/Flickr2K_HR' in out
    fill('data', 'DF2K/HR', ['1.png'])
    status, out, _ = prepare('check', 'DIV2K', 'Flickr2K', 'DF2K')
    assert status == 2 and 'DF2K: 1 of 7 images in data/DF2K/HR; 6 missing\n' in out
    assert 'python tools/prepare_data.py link --dir_data data' in out
    fill('data', 'DIV2K/HR', [f'{i:04}.png' for i in range(1, 7)])
    status, out, _ = prepare('check', 'DIV2K')
    assert status == 0 and '6 of 4 images in data/DIV2K/HR; 2 more than published' in out
    assert 'DIV2K_valid: 2 of 2 images in data/DIV2K/HR' in out


def test_odd_folders_are_quoted(prepare, small_sets):
    _, out, _ = prepare('check', 'Set5', root="my photo's")
    assert """download Set5 --dir_data 'my photo'"'"'s'""" in out


@pytest.mark.parametrize('words, said', [
    (['download', 'Set6'], "'Set6' is not a known data set"), (['check', 'x'], 'choose from DIV2K'),
    (['unknown'], "invalid choice: 'unknown'"), (['check', '--fill'], 'unrecognized arguments: --fill')])
def test_mistakes_are_one_line(prepare, words, said):
    status, _, err = prepare(*words)
    assert status == 2 and err.startswith('error: ') and said in err and err.count('\n') == 1


# ---- the table ----

def test_the_table_is_complete():
    assert sources.PARTS['DF2K'].count == sources.PARTS['DIV2K'].count + sources.PARTS['Flickr2K'].count == 3450
    assert sources.PARTS['DIV2K_valid'].numbered()[0] == '0801' and sources.PARTS['DIV2K'].numbered()[-1] == '0800'
    for part in sources.PARTS.values():
        if part.archive:
            kind, digest = part.archive.digest.split(':')
            assert len(bytes.fromhex(digest)) == hashlib.new(kind).digest_size and part.archive.url.startswith('https:')
        else:
            assert part.name in ('DF2K', 'Manga109')
    with pytest.raises(UserError):
        sources.named(['nothing'])


@pytest.mark.slow
def test_full_number_of_images_from_a_mirror(prepare, monkeypatch):
    monkeypatch.setattr(os, 'fsync', lambda file: None)  # 4,000 of them would take a minute
    with Mirror(archives()) as mirror:
        mirror.files['SHA256SUMS'] = sums(mirror.files)
        status, out, err = prepare('download', '--mirror', mirror.url)
    assert status == 0, out + err
    assert 'DF2K: 3,450 of 3,450 images in data/DF2K/HR' in out


def test_cache_command_removes_stale_entries(tmp_path, capsys):
    cache = PixelCache(tmp_path / 'cache')
    for name in 'ab':
        write_rgb(tmp_path / f'{name}.png', np.zeros((10, 20, 3), np.uint8))
        cache.read(tmp_path / f'{name}.png')
    (tmp_path / 'a.png').unlink()
    sizes = [cache._path(tmp_path / f'{name}.png').stat().st_size for name in 'ab']
    for words, left in (((), 2), (('--clean',), 1), (('--clean',), 1)):
        assert prepare_data.main(['cache', '--dir_cache', str(tmp_path / 'cache'), *words]) == 0
        assert len(list((tmp_path / 'cache').iterdir())) == left
    lines, words = capsys.readouterr().out.splitlines(), 'of images that are gone or have changed'
    assert lines[0].endswith(f'cache: 2 decoded images, {sum(sizes):,} bytes')
    assert lines[1] == f'1 of them, {sizes[0]:,} bytes, {words}: cache --clean removes them'
    assert lines[3] == f'1 of them, {sizes[0]:,} bytes, {words}: removed'
    assert lines[5] == f'0 of them, 0 bytes, {words}: removed'
    assert np.array_equal(cache.read(tmp_path / 'b.png'), np.zeros((10, 20, 3)))
