"""Faults in real image files: damaged metadata is dropped with a note, visible colours are kept."""
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from photo_tools import NEAREST, RGB, SCENE, SRGB, mixing_student, png_16, png_chunk, run, save, with_chunks
from PIL import Image
from skimage import data as photos

from data import images
from photo import colour
from photo.image import read_photo
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


# ---- colour and transparency ----

@pytest.mark.parametrize('colour', [(255, 255, 255), (230, 40, 30), (0, 255, 0), (128, 128, 128)])
@pytest.mark.parametrize('channels', [2, 4])
@pytest.mark.parametrize('hidden', [0, 255])
def test_disc_of_one_colour_keeps_it_over_any_background(student, colour, channels, hidden):
    y, x = np.mgrid[:40, :40] - 19.5
    alpha = (16 - np.hypot(x, y)).clip(0, 1)
    disc = np.full((40, 40, channels), hidden, np.uint8)
    disc[alpha > 0, :-1] = colour[:channels - 1]
    disc[..., -1] = np.rint(255 * alpha)
    large = student.array(disc).astype(float)
    cover = large[..., -1:] / 255
    for background in (0, 255):
        seen = large[..., :-1] * cover + background * (1 - cover)
        wanted = np.array(colour[:channels - 1]) * cover + background * (1 - cover)
        assert np.abs(seen - wanted).max() <= 3


def test_hidden_colour_of_clear_pixels_has_no_effect(student):
    rgba = np.dstack([SCENE, np.full((48, 64), 255, np.uint8)])
    rgba[10:30, 20:50, 3] = 0
    other = rgba.copy()
    other[10:30, 20:50, :3] = 0
    assert np.array_equal(student.array(rgba), student.array(other))
    clear = np.zeros((9, 9, 4), np.uint8)
    assert not student.array(clear)[..., 3].any()


def test_colour_spreads_from_the_nearest_visible_pixel_in_tall_images_too(monkeypatch):
    monkeypatch.setattr(colour, 'ROWS', 16)
    monkeypatch.setattr(colour, 'MARGIN', 8)
    rgba = np.zeros((90, 12, 4), np.uint8)
    rgba[20:22] = 100, 0, 0, 255
    rgba[30:32] = 0, 100, 0, 9
    filled = colour.spread(rgba)
    visible = rgba[..., 3] > 0
    assert np.array_equal(filled[..., 3], rgba[..., 3]) and np.array_equal(filled[visible], rgba[visible])
    assert (filled[12:25, :, :3] == (100, 0, 0)).all() and (filled[27:40, :, :3] == (0, 100, 0)).all()
    assert (filled[70:, :, :3] == (50, 50, 0)).all()                                # no visible pixel nearby: the mean
    floats = colour.spread((rgba / 255).astype(np.float32))
    assert np.abs(floats[70:, :, :2] - 50 / 255).max() < 1e-6


def test_gray_in_three_channels_stays_gray(student):
    gray = np.kron(np.random.RandomState(0).randint(0, 2, (12, 16)).astype(np.uint8) * 255, np.ones((3, 3), np.uint8))
    rgb = np.dstack([gray] * 3)
    large = student.array(rgb)
    assert np.ptp(large.astype(int), axis=2).max() == 0
    assert np.array_equal(large[..., :1], student.array(gray[..., None]))
    rgb[0, 0, 2] ^= 1
    assert np.ptp(student.array(rgb).astype(int), axis=2).max() > 0
    lq = torch.from_numpy(np.stack([np.dstack([gray] * 3), rgb])).permute(0, 3, 1, 2) / 255
    flat, coloured = student.tensor(lq)
    assert (flat == flat[:1]).all() and not (coloured == coloured[:1]).all()


def test_gray_in_three_channels_of_a_jpeg_stays_gray(student):
    gray = photos.camera()[100:148, 200:264].astype(int)
    for name, options in (('a.jpg', {'quality': 60}), ('b.jpg', {'quality': 95, 'subsampling': 0}), ('c.webp', {})):
        save(name, np.dstack([gray, gray + (gray % 2), gray]).clip(0, 255).astype(np.uint8), **options)
        path, _ = run(name, student)
        assert np.ptp(read_photo(path).pixels.astype(int), axis=2).max() == 0
    assert np.ptp(read_photo(save('c.jpg', SCENE)).pixels.astype(int), axis=2).max() > 10


# ---- damaged metadata ----

def bad_metadata():
    """{name: (chunk of metadata that cannot be used, text of the note)}"""
    long = zlib.compress(bytes(3 << 20))
    broken = png_chunk(b'pHYs', struct.pack('>2IB', 3000, 3000, 1))[:-1] + b'\0'
    return {
        'long zTXt': (png_chunk(b'zTXt', b'workflow\0\0' + long), "text 'workflow'"),
        'long iTXt': (png_chunk(b'iTXt', b'XML:com.adobe.xmp\0\1\0\0\0' + long), "text 'XML:com.adobe.xmp'"),
        'broken iTXt': (png_chunk(b'iTXt', b'note\0\1\0\0\0nothing'), "text 'note'"),
        'broken iCCP': (png_chunk(b'iCCP', b'p\0\0nothing'), 'a damaged colour profile'),
        'iCCP of CMYK': (png_chunk(b'iCCP', b'p\0\0' + zlib.compress(SRGB[:16] + b'CMYK' + SRGB[20:])),
                         'a colour profile for other channels'),
        'broken EXIF': (png_chunk(b'eXIf', b'garbage!!garbage'), 'EXIF data'),
        'text that looks like EXIF': (png_chunk(b'tEXt', b"exif\0b'Exif'"), "text 'exif'"),
        'wrong CRC of pHYs': (broken, 'damaged pHYs chunk'),
        'wrong CRC of iCCP': (png_chunk(b'iCCP', b'p\0\0' + zlib.compress(SRGB))[:-1] + b'\0', 'damaged iCCP chunk'),
        'wrong CRC of tEXt': (png_chunk(b'tEXt', b'a\0b')[:-1] + b'\0', 'damaged tEXt chunk'),
        'truncated tRNS': (png_chunk(b'tRNS', b'\0\1\0'), 'damaged tRNS chunk')}


@pytest.mark.parametrize('deep', [False, True])
@pytest.mark.parametrize('name', bad_metadata())
def test_damaged_metadata_of_png_does_not_prevent_reading(name, deep):
    chunk, said = bad_metadata()[name]
    pixels = SCENE.astype(np.uint16) * 257 + np.arange(3, dtype=np.uint16) if deep else SCENE
    data = png_16(Path('deep.png'), pixels, 2).read_bytes() if deep else None
    path = with_chunks('a.png', chunk, data=data)
    photo = read_photo(path)
    assert np.array_equal(photo.pixels, pixels) and said in photo.notes[0] and photo.notes[0].startswith('dropped: ')
    assert np.array_equal(images.read_rgb(path), np.round(pixels / 257) if deep else pixels)
    assert images.read_size(path) == (48, 64)
    written, lines = run('a.png')
    assert lines[0] == f'note: a.png: {photo.notes[0]}' and len(lines) == 2
    with Image.open(written) as image:
        image.load()
        assert dict(image.getexif()) == {}


def test_data_after_the_end_of_a_png_file_is_ignored():
    Path('a.png').write_bytes(save('plain.png', SCENE).read_bytes() + b'a preview, as some phones append it')
    photo = read_photo('a.png')
    assert np.array_equal(photo.pixels, SCENE) and photo.notes == []


@pytest.mark.parametrize('name', ['a.jpg', 'a.webp', 'a.png', 'a.tif'])
@pytest.mark.parametrize('content', [b'garbage!!garbage', b'MM\0*\0\0\0\x08\xff\xff', b'II*\0\xff\xff\xff\xff'])
def test_damaged_exif_does_not_prevent_reading(name, content):
    save(name, SCENE, exif=b'Exif\0\0' + content) if name != 'a.tif' else save(name, SCENE, tiffinfo={34665: 5_000_000})
    photo = read_photo(name)
    assert photo.pixels.shape == (48, 64, 3) and images.read_size(name) == (48, 64)
    path, _ = run(name, form='jpg')
    with Image.open(path) as image:
        assert 0x8769 not in image.getexif()


def test_a_16_bit_png_with_a_chunk_above_8_megabytes_is_read():
    deep = SCENE.astype(np.uint16) * 257
    big = png_chunk(b'prVt', bytes(9 << 20))
    assert np.array_equal(read_photo(png_16(Path('a.png'), deep, 2, big)).pixels, deep)


@pytest.mark.parametrize('deep', [False, True])
def test_default_image_of_an_animation_is_read(deep):
    """The default image, not the first frame, if it is not part of the animation."""
    shown, frame = SCENE.astype(np.uint16) * 257, np.zeros_like(SCENE)
    if deep:
        png_16(Path('a.png'), shown, 2)
    else:
        save('a.png')
        shown = RGB
    control = struct.pack('>5I2H2B', 0, shown.shape[1], shown.shape[0], 0, 0, 1, 1, 0, 0)
    rows = b''.join(b'\0' + bytes(shown.shape[1] * 3 * (1 + deep)) for _ in frame[:shown.shape[0]])
    data = Path('a.png').read_bytes()
    end = data.index(b'IEND') - 4
    Path('a.png').write_bytes(data[:33] + png_chunk(b'acTL', struct.pack('>2I', 1, 0)) + data[33:end]
                              + png_chunk(b'fcTL', control)
                              + png_chunk(b'fdAT', struct.pack('>I', 1) + zlib.compress(rows)) + data[end:])
    assert np.array_equal(read_photo('a.png').pixels, shown)
    assert np.array_equal(np.array(upscale(Image.open('a.png'), NEAREST)), np.array(upscale('a.png', NEAREST)))


@pytest.mark.parametrize('progressive', [False, True])
def test_a_jpeg_without_its_end_marker_is_read(progressive):
    data = save('whole.jpg', SCENE, progressive=progressive).read_bytes()
    Path('a.jpg').write_bytes(data[:-2])
    photo = read_photo('a.jpg')
    assert np.array_equal(photo.pixels, read_photo('whole.jpg').pixels)
    assert photo.notes == ['dropped: the missing end marker']
    Path('b.jpg').write_bytes(data[:-200])
    with pytest.raises(UserError, match=r'[Tt]runcated'):
        read_photo('b.jpg')


def test_flipped_byte_in_a_jpeg_is_reported():
    data = bytearray(save('a.jpg', SCENE, quality=95).read_bytes())
    assert read_photo('a.jpg').notes == []
    noted, start = 0, data.index(b'\xff\xda') + 20
    for position in range(start, len(data) - 10, (len(data) - start) // 20):
        Path('b.jpg').write_bytes(data[:position] + bytes([data[position] ^ 0x55]) + data[position + 1:])
        notes = read_photo('b.jpg').notes
        assert not notes or notes[0].startswith('libjpeg reports damaged pixels: ')
        noted += bool(notes)
    assert noted >= 2


