"""The pixel cache is exact: what does not fit its source, or is damaged, is made again."""
import os
import shutil

import numpy as np
import pytest

from data.cache import PixelCache, default_cache
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


def test_decoded_once_then_mapped(files, tmp_path, decodes):
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


def test_links_share_one_raw_copy(files, tmp_path, decodes):
    (tmp_path / 'link.png').symlink_to(files[0])
    cache = PixelCache(tmp_path / 'cache')
    assert np.array_equal(cache.read(tmp_path / 'link.png'), cache.read(files[0])) and len(decodes) == 1


@pytest.mark.parametrize('keep', [0, 5, 60, 127, 128, 1000, 1928, -1])
def test_short_entry_is_made_again(files, tmp_path, keep, decodes):
    cache = PixelCache(tmp_path / 'cache')
    cache.read(files[0])
    data = entry(tmp_path / 'cache').read_bytes()
    entry(tmp_path / 'cache').write_bytes(data[:keep])
    assert np.array_equal(cache.read(files[0]), noise(20, 30)) and len(decodes) == 2
    assert entry(tmp_path / 'cache').read_bytes() == data


@pytest.mark.parametrize('array', [np.zeros((20, 30), np.uint8), np.zeros((20, 30, 3), np.int8),
                                   np.zeros((10, 30, 3), np.uint8), np.zeros((20, 30, 4), np.uint8)])
def test_entry_of_another_shape_is_made_again(files, tmp_path, array):
    cache = PixelCache(tmp_path / 'cache')
    cache.read(files[0])
    path = entry(tmp_path / 'cache')
    stamp = path.read_bytes()[128 + 1800:]
    np.save(path, array)
    if array.shape != (10, 30, 3):                                               # that one lacks its stamp
        path.write_bytes(path.read_bytes() + stamp)
    assert np.array_equal(cache.read(files[0]), noise(20, 30))


def test_damaged_header_is_never_believed(files, tmp_path):
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


def test_too_small_disk_is_seen_before_writing(files, tmp_path, monkeypatch):
    need = sum((20 + i) * (30 - i) * 3 for i in range(5))
    for free, used in ((need - 1, None), (need, tmp_path / 'cache')):
        monkeypatch.setattr(shutil, 'disk_usage', lambda _, free=free: shutil._ntuple_diskusage(10 ** 9, 0, free))
        cache = PixelCache(tmp_path / 'cache')
        cache.reserve(files)
        assert cache.folder == used and (used or f'{need:,}' in cache.trouble)
    cache.read(files[0])                                                         # one less to come
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: shutil._ntuple_diskusage(10 ** 9, 0, need - 1800))
    cache.reserve(files)
    assert cache.trouble is None


def test_disk_that_fills_up_costs_speed_only(files, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, 'No space left on device')
    cache = PixelCache(tmp_path / 'cache')
    cache.reserve(files)
    monkeypatch.setattr(os, 'fsync', full)
    for i, path in enumerate(files):
        assert np.array_equal(cache.read(path), noise(20 + i, 30 - i, i))
    assert 'No space left' in cache.trouble and not list((tmp_path / 'cache').iterdir())


def test_default_folder(monkeypatch, tmp_path):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    assert default_cache() == tmp_path / 'mrda'
    monkeypatch.setenv('XDG_CACHE_HOME', '')
    monkeypatch.setenv('HOME', str(tmp_path / 'home'))
    assert default_cache() == tmp_path / 'home' / '.cache' / 'mrda'
    with pytest.raises(UserError, match='~no-such-user/x: no such user'):
        PixelCache('~no-such-user/x')
