"""Files are read by their content, not their name, from Python and from the command line."""
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from photo_tools import NEAREST, RGB, SCENE, mixing_student, png_16, save
from PIL import Image

from data import images
from model import mrda
from photo.image import read_photo
from upscale import load, upscale
from utility import UserError


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty working folder."""
    (tmp_path / 'where').mkdir()
    monkeypatch.chdir(tmp_path / 'where')


@pytest.fixture(scope='module')
def student():
    return mixing_student()


# ---- kinds of files ----

def test_unusual_tiff_files_are_read_or_refused():
    floats = SCENE.astype(np.float32) / 255
    for name, array, options in (('rgb.tif', floats, {}), ('gray.tif', floats[..., 0], {}),
                                 ('double.tif', floats.astype(np.float64), {}),
                                 ('zip.tif', floats, {'compression': 'deflate'})):
        tifffile.imwrite(name, array, photometric='rgb' if array.ndim == 3 else 'minisblack', **options)
        photo = read_photo(name)
        assert photo.depth == 16 and np.array_equal(photo.pixels.squeeze(), np.rint(array * 65535))
        assert images.read_size(name) == (48, 64)
    tifffile.imwrite('big.tif', SCENE, bigtiff=True, byteorder='>', photometric='rgb')
    assert np.array_equal(read_photo('big.tif').pixels, SCENE)
    planes = np.moveaxis(SCENE.astype(np.uint16) * 200, 2, 0)
    tifffile.imwrite('planar.tif', planes, photometric='rgb', planarconfig='separate')
    assert np.array_equal(read_photo('planar.tif').pixels, SCENE.astype(np.uint16) * 200)
    for array, said in ((floats * 255, '32-bit float TIFF with values from .* to 210; scale'),
                        (np.full((9, 9, 3), np.nan, np.float32), 'nan'),
                        (SCENE.astype(np.uint32), '32-bit integer TIFF; save it with 8 or 16 bits'),
                        (SCENE.astype(np.int16), '16-bit signed integer TIFF')):
        tifffile.imwrite('bad.tif', array, photometric='rgb')
        with pytest.raises(UserError, match=said):
            read_photo('bad.tif')


@pytest.mark.parametrize('head, said', [
    (b'8BPS\0\1' + bytes(40), 'a Photoshop file'), (b'\0\0\0\x20ftypheic' + bytes(40), 'HEIC'),
    (b'%PDF-1.7' + bytes(40), 'a PDF file'), (b'\0\0\0\x20ftypisom' + bytes(40), 'a video'),
    (b'<html>' + bytes(40), 'a web page'), (b'garbage' + bytes(40), 'damaged, or not an image of a supported kind')])
def test_error_names_the_kind_of_file(head, said, monkeypatch):
    Path('a.jpg').write_bytes(head)
    images._formats.cache_clear()
    monkeypatch.setitem(sys.modules, 'pillow_heif', None)
    monkeypatch.delitem(Image.OPEN, 'HEIF', raising=False)
    with pytest.raises(UserError, match=said) as error:
        read_photo('a.jpg')
    assert '\n' not in str(error.value) and ('pip install pillow-heif' in str(error.value)) == (said == 'HEIC')
    images._formats.cache_clear()


def test_preview_in_a_camera_raw_file_is_refused():
    tifffile.imwrite('a.dng', SCENE, photometric='rgb', subfiletype=1)
    Path('b.tif').write_bytes(b'II*\0\x10\0\0\0CR\2\0' + bytes(90))
    for name in 'a.dng', 'b.tif':
        for read in read_photo, images.read_size, images.read_rgb:
            with pytest.raises(UserError, match='camera raw'):
                read(name)


@pytest.mark.parametrize('form', ['GIF', 'AVIF', 'JPEG2000', 'HEIF'])
def test_content_matters_and_not_the_name(form):
    if form == 'HEIF':
        pytest.importorskip('pillow_heif').register_heif_opener()
    Image.init()
    if form not in Image.SAVE:
        pytest.skip(f'this Pillow writes no {form}')
    save('a.png', SCENE, format=form)
    pixels = read_photo('a.png').pixels
    assert pixels.shape == (48, 64, 3) and np.abs(pixels.astype(int) - SCENE).mean() < 20
    assert np.array_equal(images.read_rgb('a.png'), pixels)


# ---- from Python ----

def every_kind():
    """(name, function that writes the file)"""
    deep = SCENE.astype(np.uint16) * 257 + np.arange(3, dtype=np.uint16)
    for orientation in range(1, 9):
        tag = [(274, 'H', 1, orientation, True)]
        yield f'raw{orientation}.tif', lambda p, tag=tag: tifffile.imwrite(p, SCENE[..., 0], extratags=tag)
        exif = Image.Exif()
        exif[274] = orientation
        yield f'{orientation}.png', lambda p, exif=exif: save(p, SCENE, exif=exif)
    yield 'deep.png', lambda p: png_16(Path(p), deep, 2)
    yield 'deep.tif', lambda p: tifffile.imwrite(p, deep, photometric='rgb')
    yield 'float.tif', lambda p: tifffile.imwrite(p, SCENE[..., 0].astype(np.float32) / 255)
    yield 'palette.gif', lambda p: save(p, SCENE)
    yield 'a.webp', lambda p: save(p, SCENE)


@pytest.mark.parametrize('name, write', list(every_kind()), ids=lambda value: value if isinstance(value, str) else '')
def test_opened_image_equals_its_file(name, write, student):
    write(name)
    expected = np.array(upscale(name, student))
    with Image.open(name) as image:
        assert np.array_equal(np.array(upscale(image, student)), expected)
        image.load()
        if name not in ('deep.png', 'deep.tif', 'float.tif'):                       # Pillow's pixels have been changed
            assert np.array_equal(np.array(upscale(image, student)), expected)


@pytest.mark.parametrize('wrong, said', [
    (Image.new('RGB', (0, 0)), '0x0'), (SCENE.astype(np.float32), 'values from .* divide by 255'),
    (np.full((4, 4), np.nan), 'nan'), (np.full((4, 4), -1.0), '-1'), (torch.full((3, 4, 4), 2.0), 'tensor .* 2'),
    (torch.full((3, 4, 4), float('inf')), 'inf')])
def test_values_outside_the_range_are_refused(wrong, said):
    with pytest.raises(UserError, match=said):
        upscale(wrong, NEAREST)


def test_state_dict_can_be_given_as_weights():
    net = mrda.student(2, 1)
    assert upscale(RGB, net.state_dict()).shape == (28, 20, 3) and load(net.state_dict(), 'cpu').scale == 2
    for wrong in ({}, {'a': 1}, {'a': torch.zeros(3)}):
        with pytest.raises(UserError, match='weights'):
            load(wrong, 'cpu')
