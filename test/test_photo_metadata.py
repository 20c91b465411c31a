"""Metadata of a photo is kept if the format of the result can hold it, otherwise reported."""
import struct
import tracemalloc
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from photo_tools import NEAREST, SCENE, SRGB, mixing_student, png_chunk, run, save, with_chunks
from PIL import Image

from model import inference
from photo.image import Photo, read_photo
from photo.metadata import Metadata
from photo.output import Output
from photo.upscaler import Upscaler
from photo.writing import write_bands
from upscale import upscale
from utility import UserError


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty working folder."""
    (tmp_path / 'where').mkdir()
    monkeypatch.chdir(tmp_path / 'where')


@pytest.fixture(scope='module')
def student():
    return mixing_student()


@pytest.fixture
def camera():
    """A JPEG file as a phone writes it, upright only after EXIF rotation."""
    exif = Image.Exif()
    exif.update({274: 6, 271: 'Canon', 306: '2020:01:02 03:04:05', 256: 64, 257: 48})
    exif.get_ifd(0x8769).update({0xa002: 64, 0xa003: 48, 0x829a: 0.01})
    exif.get_ifd(0x8825).update({1: 'N'})
    xmp = b'<x:xmpmeta tiff:Orientation="6" exif:PixelXDimension="64"><tiff:ImageWidth>64</tiff:ImageWidth>author</x>'
    return save('a.jpg', SCENE, exif=exif, dpi=(300, 300), xmp=xmp, icc_profile=SRGB, comment='hello')


@pytest.mark.parametrize('form', ['png', 'jpg', 'webp', 'tif'])
def test_metadata_is_kept_for_an_upright_image_of_the_new_size(camera, form):
    path, _ = run('a.jpg', form=form)
    photo = read_photo(path)
    assert photo.pixels.shape[:2] == (128, 96)
    exif = photo.metadata.exif
    assert (exif[271], exif[306]) == ('Canon', '2020:01:02 03:04:05') and exif.get(274, 1) == 1
    assert (exif.get_ifd(0x8769)[0xa002], exif.get_ifd(0x8769)[0xa003]) == (96, 128)
    assert exif.get_ifd(0x8825)[1] == 'N' and float(exif.get_ifd(0x8769)[0x829a]) == pytest.approx(0.01)
    assert photo.metadata.icc == SRGB and not photo.notes
    assert form == 'webp' or np.allclose(photo.metadata.dpi, 300, atol=0.01)
    xmp = photo.metadata.xmp
    assert 'tiff:Orientation="1"' in xmp and 'exif:PixelXDimension="96"' in xmp and '<tiff:ImageWidth>96<' in xmp
    assert form in ('webp', 'tif') or dict(photo.metadata.text)['Comment'] == 'hello'


@pytest.mark.parametrize('form', ['png', 'jpg', 'webp', 'tif'])
def test_strip_drops_metadata_and_keeps_the_profile(camera, form):
    path, _ = run('a.jpg', form=form, strip=True)
    kept = read_photo(path).metadata
    assert kept.icc == SRGB and dict(kept.exif).keys() <= {256} and not kept.xmp and not kept.text


def test_text_and_colour_chunks_of_png_files_are_kept():
    colour = {b'gAMA': struct.pack('>I', 100_000), b'cHRM': struct.pack('>8I', *range(10_000, 90_000, 10_000)),
              b'cICP': bytes([9, 16, 0, 1])}
    chunks = [png_chunk(name, content) for name, content in colour.items()]
    with_chunks('a.png', *chunks, png_chunk(b'tEXt', b'Title\0caf\xe9'),
                png_chunk(b'iTXt', b'T\0\0\0\0\0' + '日'.encode()))
    path, _ = run('a.png')
    kept = read_photo(path).metadata
    assert dict(kept.colour) == colour and kept.text == [('Title', 'café'), ('T', '日')]
    with pytest.raises(UserError, match='1 of 1'):
        run('a.png', form='jpg')


@pytest.mark.parametrize('chunk, said', [(png_chunk(b'cICP', bytes([9, 16, 0, 1])), r'HDR \(PQ\)'),
                                         (png_chunk(b'gAMA', struct.pack('>I', 100_000)), 'gamma 1')])
def test_colour_encodings_that_only_png_supports_are_refused_elsewhere(chunk, said):
    photo = read_photo(with_chunks('a.png', chunk))
    with pytest.raises(UserError, match=said):
        Output(2, 'jpg').prepare(photo, '.jpg')
    with pytest.warns(UserWarning, match=said):
        upscale('a.png', NEAREST)
    plain = read_photo(with_chunks('b.png', png_chunk(b'gAMA', struct.pack('>I', 45455))))
    assert Output(2, 'jpg').prepare(plain, '.jpg').notes == []


@pytest.mark.parametrize('form', ['AVIF', 'HEIF'])
def test_hdr_of_avif_and_heic_files_is_kept_in_png_and_refused_elsewhere(form):
    if form == 'HEIF':
        pytest.importorskip('pillow_heif').register_heif_opener()
    Image.init()
    if form not in Image.SAVE:
        pytest.skip(f'this Pillow writes no {form}')
    data = save('a.avif', SCENE, format=form).read_bytes()
    assert not read_photo('a.avif').metadata.colour
    box = data.index(b'colrnclx') + 8
    Path('a.avif').write_bytes(data[:box] + struct.pack('>2H', 9, 16) + data[box + 4:])
    assert read_photo('a.avif').metadata.encoding == 'HDR (PQ)'
    path, _ = run('a.avif')
    assert read_photo(path).metadata.colour == [(b'cICP', bytes([9, 16, 0, 1]))]
    with pytest.raises(UserError, match='1 of 1'):
        run('a.avif', form='jpg')


def test_too_large_profile_is_converted_to_srgb():
    icc = SRGB + bytes(1_200_000)
    icc = struct.pack('>I', len(icc)) + icc[4:]
    save('a.jpg', SCENE, icc_profile=icc)
    path, lines = run('a.jpg')
    assert 'converted to sRGB' in lines[0]
    with Image.open(path) as image:
        assert 'icc_profile' not in image.info
        assert np.abs(np.array(image)[::2, ::2].astype(int) - read_photo('a.jpg').pixels).max() <= 2
    path, lines = run('a.jpg', form='tif')
    assert read_photo(path).metadata.icc == icc and len(lines) == 1
    with_chunks('b.png', png_chunk(b'gAMA', struct.pack('>I', 60_000)),
                png_chunk(b'iCCP', b'p\0\0' + zlib.compress(icc)))
    path, lines = run('b.png')                                                      # its gamma is that of the profile
    assert 'converted to sRGB' in lines[0] and not read_photo(path).metadata.colour


# ---- large photos ----

def test_max_pixels_is_an_option():
    save('a.png')
    with pytest.raises(UserError, match='10x14 is more than 100 pixels'):
        read_photo('a.png', 100)
    assert read_photo('a.png', 140).pixels.shape == (14, 10, 3)


def test_result_too_large_for_its_format_is_refused_first():
    photo = Photo(np.zeros((4, 9000, 3), np.uint8))
    with pytest.raises(UserError, match='18000x8 exceeds the 16,383 pixels'):
        Output(2, 'webp').prepare(photo, '.webp')
    assert Output(2, 'png').prepare(photo, '.png').pixels.shape == (4, 9000, 3)
    with pytest.raises(UserError, match='too large for a TIFF file'):
        Output(2, 'tif', outscale=400).prepare(photo, '.tif')


def test_bands_equal_the_whole_image(student):
    tiles = Upscaler(student.student, 2, 1, torch.device('cpu'), tile=32)
    rgba = np.random.RandomState(0).randint(0, 256, (90, 70, 4)).astype(np.uint8)
    bands = list(tiles.bands(rgba))
    assert [len(band) for band in bands] == [56, 64, 60] and len({band.shape[1:] for band in bands}) == 1
    assert np.abs(np.concatenate(bands).astype(int) - student.array(rgba)).max() <= 1


def test_memory_does_not_grow_with_the_result(monkeypatch):
    monkeypatch.setattr(inference, 'represent', lambda *_: None)                     # NEAREST would process all at once
    photo = Photo(np.random.RandomState(0).randint(0, 256, (3000, 900, 3)).astype(np.uint8))
    for name in 'a.png', 'a.tif':
        tracemalloc.start()
        write_bands(Path(name), NEAREST.bands(photo.pixels), 6000, 1800, Metadata())
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < photo.pixels.nbytes                                            # the result has four times as many
        assert cv2.imread(name).shape == (6000, 1800, 3)
