"""The cache of decoded images is exact: stale or damaged entries are rebuilt."""
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from data.cache import PixelCache, default_cache, stale_entries
from data.images import read_rgb, write_rgb
from utility import UserError


def noise(height, width, seed=0):
    return np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / 'images' / f'{i} ü.png' for i in range(5)]
    for i, path in enumerate(paths):
        write_rgb(path, noise(20 + i, 30 - i, i))
    return paths


@pytest.fixture
def decodes(monkeypatch):
    """Paths decoded so far, in order."""
    done = []

    def counted(path):
        done.append(path)
        return read_rgb(path)
    monkeypatch.setattr('data.cache.read_rgb', counted)
    return done


def entry(folder):
    path, = folder.glob('*.npy')
    return path


def test_image_is_decoded_once_then_memory_mapped(files, tmp_path, decodes):
    for _ in range(3):
        array = PixelCache(tmp_path / 'cache').read(files[0])
        assert np.array_equal(array, noise(20, 30))
    assert decodes == files[:1] and isinstance(array, np.memmap)
    assert np.array_equal(np.load(entry(tmp_path / 'cache')), noise(20, 30))   # an ordinary .npy file
    PixelCache(tmp_path / 'cache').read(files[0], remake=True)
    assert len(decodes) == 2


def test_changed_source_is_decoded_again(files, tmp_path, decodes):
    cache = PixelCache(tmp_path / 'cache')
    cache.read(files[0])
    stat = files[0].stat()
    write_rgb(files[0], noise(20, 30, 9))                                        # same size in pixels
    os.utime(files[0], ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert np.array_equal(cache.read(files[0]), noise(20, 30, 9)) and len(decodes) == 2
    assert entry(tmp_path / 'cache')                                             # the old one is gone
    files[0].unlink()
    with pytest.raises(UserError, match=files[0].name):
        cache.read(files[0])


def same_but_for_the_pixels(path, pixels):
    """Replace `path` by another image of the same size, bytes and modification time, as rsync -t does."""
    stat = path.stat()
    other = path.with_name('other.bmp')
    Image.fromarray(pixels).save(other)
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert other.stat().st_size == stat.st_size
    other.replace(path)


def test_image_of_the_same_name_size_and_time_is_decoded_again(tmp_path):
    path = tmp_path / 'a.bmp'
    Image.fromarray(noise(20, 30)).save(path)
    PixelCache(tmp_path / 'cache').read(path)
    same_but_for_the_pixels(path, noise(20, 30, 1))
    assert np.array_equal(PixelCache(tmp_path / 'cache').read(path), noise(20, 30, 1))


@pytest.mark.parametrize('position', [128, 128 + 900, 128 + 1799, -1, -8])
def test_damaged_pixels_or_checksum_are_detected_on_first_use(files, tmp_path, position):
    PixelCache(tmp_path / 'cache').read(files[0])
    data = bytearray(entry(tmp_path / 'cache').read_bytes())
    whole = bytes(data)
    data[position] ^= 1
    entry(tmp_path / 'cache').write_bytes(data)
    cache = PixelCache(tmp_path / 'cache')
    assert np.array_equal(cache.read(files[0]), noise(20, 30))
    assert entry(tmp_path / 'cache').read_bytes() == whole and cache.checksums[files[0]].encode() == whole[-8:]


def test_checksums_depend_on_pixels_alone(files, tmp_path):
    Image.fromarray(noise(20, 30)).save(tmp_path / 'same.bmp')
    found = []
    for folder in (None, tmp_path / 'cache', tmp_path / 'cache'):
        cache = PixelCache(folder)
        for path in (files[0], tmp_path / 'same.bmp', files[1]):
            cache.read(path)
        found.append(list(cache.checksums.values()))
    assert found[0] == found[1] == found[2] and found[0][0] == found[0][1] != found[0][2]
    wide, high = PixelCache(), PixelCache()
    for cache, shape in ((wide, (20, 30)), (high, (30, 20))):
        Image.fromarray(noise(20, 30).reshape(*shape, 3)).save(tmp_path / 'same.bmp')
        cache.read(tmp_path / 'same.bmp')
    assert wide.checksums != high.checksums


def test_entries_of_removed_or_changed_images_are_stale(files, tmp_path):
    cache, folder = PixelCache(tmp_path / 'cache'), tmp_path / 'cache'
    for path in files:
        cache.read(path)
    every, old = stale_entries(folder)
    assert len(every) == 5 and not old
    files[0].unlink()
    write_rgb(files[1], noise(20, 31))
    cache._path(files[2]).write_bytes(b'damaged')
    (folder / '.writing.now').touch()
    (folder / '.writing.killed').touch()
    os.utime(folder / '.writing.killed', (0, 0))
    every, old = stale_entries(folder)
    assert len(every) == 7 and {*old} == {*map(cache._path, files[:3]), folder / '.writing.killed'}


def test_links_share_one_cache_entry(files, tmp_path, decodes):
    (tmp_path / 'link.png').symlink_to(files[0])
    cache = PixelCache(tmp_path / 'cache')
    assert np.array_equal(cache.read(tmp_path / 'link.png'), cache.read(files[0])) and len(decodes) == 1


@pytest.mark.parametrize('keep', [0, 5, 60, 127, 128, 1000, 1928, -1])
def test_truncated_entry_is_rebuilt(files, tmp_path, keep, decodes):
    cache = PixelCache(tmp_path / 'cache')
    cache.read(files[0])
    data = entry(tmp_path / 'cache').read_bytes()
    entry(tmp_path / 'cache').write_bytes(data[:keep])
    assert np.array_equal(cache.read(files[0]), noise(20, 30)) and len(decodes) == 2
    assert entry(tmp_path / 'cache').read_bytes() == data


@pytest.mark.parametrize('array', [np.zeros((20, 30), np.uint8), np.zeros((20, 30, 3), np.int8),
                                   np.zeros((10, 30, 3), np.uint8), np.zeros((20, 30, 4), np.uint8)])
def test_entry_of_another_shape_is_rebuilt(files, tmp_path, array):
    cache = PixelCache(tmp_path / 'cache')
    cache.read(files[0])
    path = entry(tmp_path / 'cache')
    stamp = path.read_bytes()[128 + 1800:]
    np.save(path, array)
    if array.shape != (10, 30, 3):                                               # this one has no stamp
        path.write_bytes(path.read_bytes() + stamp)
    assert np.array_equal(cache.read(files[0]), noise(20, 30))


def test_damaged_header_is_rejected(files, tmp_path):
    cache = PixelCache(tmp_path / 'cache')
    cache.read(files[0])
    path = entry(tmp_path / 'cache')
    data = path.read_bytes()
    for position in range(128):
        for bit in (0, 3, 6):
            path.write_bytes(data[:position] + bytes([data[position] ^ 1 << bit]) + data[position + 1:])
            assert np.array_equal(cache.read(files[0]), noise(20, 30)), (position, bit)


def test_pickles_are_not_loaded(files, tmp_path):
    cache = PixelCache(tmp_path / 'cache')
    cache.read(files[0])
    np.save(entry(tmp_path / 'cache'), np.array([{}, []], object), allow_pickle=True)
    assert np.array_equal(cache.read(files[0]), noise(20, 30))


def test_too_small_disk_is_detected_before_writing(files, tmp_path, monkeypatch):
    need = sum((20 + i) * (30 - i) * 3 for i in range(5))
    for free, used in ((need - 1, None), (need, tmp_path / 'cache')):
        monkeypatch.setattr(shutil, 'disk_usage', lambda _, free=free: shutil._ntuple_diskusage(10 ** 9, 0, free))
        cache = PixelCache(tmp_path / 'cache')
        cache.reserve(files)
        assert cache.folder == used and (used or f'{need:,}' in cache.trouble)
    cache.read(files[0])                                                         # one image fewer
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: shutil._ntuple_diskusage(10 ** 9, 0, need - 1800))
    cache.reserve(files)
    assert cache.trouble is None


def test_full_disk_only_costs_speed(files, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, 'No space left on device')
    cache = PixelCache(tmp_path / 'cache')
    cache.reserve(files)
    monkeypatch.setattr(os, 'replace', full)
    for i, path in enumerate(files):
        assert np.array_equal(cache.read(path), noise(20 + i, 30 - i, i))
    assert 'No space left' in cache.trouble and not list((tmp_path / 'cache').iterdir())


def test_default_folder(monkeypatch, tmp_path):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    assert default_cache() == (tmp_path / 'mrda', '')
    monkeypatch.setenv('XDG_CACHE_HOME', '')
    monkeypatch.setenv('HOME', str(tmp_path / 'home'))
    assert default_cache() == (tmp_path / 'home' / '.cache' / 'mrda', '')
    with pytest.raises(UserError, match='~no-such-user/x: no such user'):
        PixelCache('~no-such-user/x')


def unknown(_):
    raise RuntimeError('no home')


def test_without_a_home_folder_a_temporary_one_is_used(monkeypatch, tmp_path):
    monkeypatch.delenv('XDG_CACHE_HOME', raising=False)
    monkeypatch.setattr('tempfile.tempdir', str(tmp_path / 'tmp'))
    monkeypatch.setattr('pathlib.Path.expanduser', unknown)
    folder, warning = default_cache()
    assert folder.parent == tmp_path / 'tmp' and folder.is_dir()
    assert 'no home folder' in warning and str(folder) in warning
    (tmp_path / 'file').touch()
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))   # a home folder that is not writable: Docker's --user
    other, warning = default_cache()
    assert other == folder and str(tmp_path / 'file') in warning
    monkeypatch.setattr('tempfile.tempdir', str(tmp_path / 'file'))
    folder, warning = default_cache()
    assert folder is None and 'slow' in warning and '--dir_cache' in warning
