"""Every kind of image is read correctly and written back as the same kind, or refused with its name."""
import io
import os
import struct
import zlib

import numpy as np
import pytest
import tifffile
from photo_tools import png_16, png_chunk
from PIL import Image, ImageOps
from skimage import data as photos

from data.images import read_rgb, read_size, write_rgb
from photo.image import photo_of, read_photo
from utility import UserError, shown

RGB = np.ascontiguousarray(photos.astronaut()[:60, 100:180])                        # (60, 80, 3)
GRAY = np.ascontiguousarray(photos.camera()[100:160, 200:280])                      # (60, 80)
DEEP = np.random.RandomState(0).randint(0, 65536, (13, 17, 4)).astype(np.uint16)    # (13, 17, 4), RGBA


def save(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


@pytest.mark.parametrize('name', ['a.png', 'a.bmp', 'a.tif', 'ä ö\'"日本 1.png', 'a b.TIFF', 'fake.jpg.png'])
def test_lossless_rgb(tmp_path, name):
    path = save(tmp_path / name, RGB, format='PNG' if 'png' in name else None)
    image = read_rgb(path)
    assert image.dtype == np.uint8 and image.flags['C_CONTIGUOUS'] and image.flags['WRITEABLE']
    assert np.array_equal(image, RGB)
    assert read_size(path) == (60, 80)


@pytest.mark.parametrize('name', ['a.jpg', 'a.jpeg', 'a.webp'])
def test_lossy(tmp_path, name):
    path = save(tmp_path / name, RGB, quality=95)
    assert np.abs(read_rgb(path).astype(int) - RGB).mean() < 3
    assert read_size(path) == (60, 80)


def test_gray_and_transparency(tmp_path):
    three = GRAY[..., None].repeat(3, 2)
    assert np.array_equal(read_rgb(save(tmp_path / 'g.png', GRAY)), three)
    assert np.array_equal(read_rgb(save(tmp_path / 'ga.png', np.dstack([GRAY, GRAY]))), three)
    assert np.array_equal(read_rgb(save(tmp_path / 'a.png', np.dstack([RGB, GRAY]))), RGB)
    assert np.array_equal(read_rgb(save(tmp_path / '1.png', GRAY > 99)), 255 * (three > 99))
    photo = read_photo(tmp_path / 'ga.png')
    assert photo.gray and np.array_equal(photo.alpha, GRAY / np.float32(255))
    assert not read_photo(tmp_path / 'a.png').gray


def test_palette(tmp_path):
    indexed = Image.fromarray(RGB).quantize(32)
    expected = np.array(indexed.convert('RGB'))
    indexed.save(tmp_path / 'p.png', transparency=3)
    assert np.array_equal(read_rgb(tmp_path / 'p.png'), expected)
    photo = read_photo(tmp_path / 'p.png')
    assert np.array_equal(photo.colour, expected / np.float32(255))
    assert np.array_equal(photo.alpha, np.array(indexed) != 3)
    indexed.save(tmp_path / 'q.png', transparency=bytes(range(32)))
    assert np.array_equal(read_photo(tmp_path / 'q.png').alpha, np.array(indexed) / np.float32(255))


def test_transparent_colour(tmp_path):
    Image.fromarray(RGB).save(tmp_path / 'c.png', transparency=tuple(int(v) for v in RGB[5, 7]))
    assert np.array_equal(read_photo(tmp_path / 'c.png').alpha, (RGB[5, 7] != RGB).any(axis=2))
    for channels, kind in ((3, 2), (1, 0)):
        deep = DEEP[..., :channels]
        path = png_16(tmp_path / 'd.png', deep, kind, png_chunk(b'tRNS', deep[2, 3].astype('>u2').tobytes()))
        photo = read_photo(path)
        assert np.array_equal(photo.alpha, (deep != deep[2, 3]).any(axis=2))
        assert np.array_equal(photo.colour[..., :channels], deep / np.float32(65535))


def test_cmyk(tmp_path):
    """CMYK is subtractive: no ink is white, full black ink is black, cyan is cyan."""
    inks = np.zeros((16, 48, 4), np.uint8)
    inks[:, 16:32, 3] = 255
    inks[:, 32:, 0] = 255
    Image.fromarray(inks, 'CMYK').save(tmp_path / 'k.jpg', quality=100, subsampling=0)
    Image.fromarray(inks, 'CMYK').save(tmp_path / 'k.tif')
    for name in ('k.jpg', 'k.tif'):
        image = read_rgb(tmp_path / name)
        for column, colour in ((8, (255, 255, 255)), (24, (0, 0, 0)), (40, (0, 255, 255))):
            assert np.abs(image[8, column].astype(int) - colour).max() <= 3


@pytest.mark.parametrize('form', ['png', 'tif', 'tif-deflate', 'tif-big'])
@pytest.mark.parametrize('channels', [1, 3, 4])
def test_16_bits(tmp_path, form, channels):
    deep = DEEP[..., :channels]
    path = tmp_path / f'd.{form[:3]}'
    if form == 'png':
        png_16(path, deep, {1: 0, 3: 2, 4: 6}[channels])
    else:
        tifffile.imwrite(path, deep.squeeze(), photometric='rgb' if channels > 1 else 'minisblack',
                         byteorder='>' if form == 'tif-big' else '<', extrasamples=['unassalpha'] * (channels == 4),
                         compression='deflate' if form == 'tif-deflate' else None)
    colour = deep[..., :3] if channels > 1 else deep.repeat(3, 2)
    assert np.array_equal(read_rgb(path), np.round(colour / 257).astype(np.uint8))
    photo = read_photo(path)
    assert photo.depth == 16 and photo.gray == (channels == 1)
    assert np.array_equal(np.rint(photo.colour * 65535), colour)
    assert photo.alpha is None if channels < 4 else np.array_equal(np.rint(photo.alpha * 65535), deep[..., 3])


def test_16_bit_gray_with_alpha(tmp_path):
    photo = read_photo(png_16(tmp_path / 'd.png', DEEP[..., :2], 4))
    assert photo.gray and photo.depth == 16
    assert np.array_equal(np.rint(photo.colour[..., 1] * 65535), DEEP[..., 0])
    assert np.array_equal(np.rint(photo.alpha * 65535), DEEP[..., 1])


@pytest.mark.parametrize('options', [{'photometric': 'miniswhite'}, {'photometric': 'minisblack', 'dtype': np.int16},
                                     {'photometric': 'minisblack', 'dtype': np.float32}])
def test_unsupported_tiff_is_refused(tmp_path, options):
    options = dict(options)
    tifffile.imwrite(tmp_path / 'd.tif', DEEP[..., 0].astype(options.pop('dtype', np.uint16)), **options)
    with pytest.raises(UserError, match=r'd\.tif'):
        read_rgb(tmp_path / 'd.tif')


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('form', ['png', 'jpg', 'webp', 'tif', 'gray tif', 'deflated tif', '16-bit tif', '16-bit png'])
def test_exif_orientation(tmp_path, form, orientation):
    path = tmp_path / f'e.{form.split()[-1]}'
    exif = Image.Exif()
    exif[274] = orientation
    upright = {'gray tif': GRAY, '16-bit tif': DEEP[..., 0], '16-bit png': DEEP[..., :1]}.get(form, RGB)
    if 'tif' in form:
        tifffile.imwrite(path, upright, photometric='rgb' if upright.ndim == 3 else 'minisblack',
                         compression='deflate' if 'deflated' in form else None,
                         extratags=[(274, 'H', 1, orientation, True)])
    elif form == '16-bit png':
        png_16(path, upright, 0, png_chunk(b'eXIf', exif.tobytes()[6:]))
    else:
        save(path, RGB, exif=exif, **({} if form == 'png' else {'quality': 100}))
    pixels = np.round(upright / 257).astype(np.uint8) if upright.dtype == np.uint16 else upright
    stored = Image.fromarray(pixels.squeeze())
    stored.getexif()[274] = orientation
    expected = np.array(ImageOps.exif_transpose(stored).convert('RGB'))
    image = read_rgb(path)
    assert image.shape == expected.shape and read_size(path) == expected.shape[:2]
    assert np.abs(image.astype(int) - expected).mean() < (3 if form in ('jpg', 'webp') else 1e-9)


@pytest.mark.parametrize('name', ['t.png', 't.jpg', 'progressive.jpg', 't.webp', 't.bmp', 't.tif', 'lzw.tif', '16.png',
                                  '16.tif'])
@pytest.mark.parametrize('part', [0.01, 0.3, 0.7, 0.97])
def test_truncated(tmp_path, name, part):
    whole = tmp_path / f'whole {name}'
    if name == '16.png':
        png_16(whole, DEEP, 6)
    elif name == '16.tif':
        tifffile.imwrite(whole, np.kron(DEEP[..., 0], np.ones((8, 8), np.uint16)))
    else:
        options = {'progressive.jpg': {'progressive': True}, 'lzw.tif': {'compression': 'tiff_lzw'}}.get(name, {})
        save(whole, RGB, **options)
    assert read_rgb(whole).shape
    data = whole.read_bytes()
    (tmp_path / name).write_bytes(data[:int(len(data) * part)])
    with pytest.raises(UserError, match=name) as error:
        read_rgb(tmp_path / name)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('deep', [False, True])
def test_every_flipped_bit_of_png_pixels_is_detected(tmp_path, deep):
    path = png_16(tmp_path / 'f.png', DEEP, 6) if deep else save(tmp_path / 'f.png', RGB)
    data = path.read_bytes()
    for position in range(60, len(data) - 20, len(data) // 40):
        path.write_bytes(data[:position] + bytes([data[position] ^ 4]) + data[position + 1:])
        with pytest.raises(UserError, match='cannot be read'):
            read_rgb(path)


def test_bad_files(tmp_path):
    (tmp_path / 'empty.png').touch()
    (tmp_path / 'text.jpg').write_text('no image at all')
    (tmp_path / 'dangling.png').symlink_to(tmp_path / 'gone.png')
    (tmp_path / 'folder.png').mkdir()
    data = bytearray(save(tmp_path / 'ok.png', RGB).read_bytes())
    data[len(data) // 2] ^= 16
    (tmp_path / 'flipped.png').write_bytes(data)
    for name, reason in (('empty.png', 'empty'), ('text.jpg', 'not an image of a'), ('dangling.png', 'link'),
                         ('folder.png', 'not a regular file'), ('flipped.png', 'cannot be read'),
                         ('gone.png', 'no such file')):
        for read in (read_rgb, read_photo):
            with pytest.raises(UserError, match=rf'{name}.*{reason}'):
                read(tmp_path / name)


@pytest.mark.parametrize('side', [8001, 12000, 65000])
def test_huge_image_is_refused_from_its_header(tmp_path, side):
    header = png_chunk(b'IHDR', struct.pack('>2I5B', side, side, 8, 2, 0, 0, 0))
    (tmp_path / 'huge.png').write_bytes(b'\x89PNG\r\n\x1a\n' + header + png_chunk(b'IDAT', zlib.compress(b'0' * 99)))
    for read in (read_rgb, read_size):
        with pytest.raises(UserError, match=r'huge\.png.*more than 64,000,000 pixels'):
            read(tmp_path / 'huge.png')


@pytest.mark.parametrize('depth', [1, 2, 4, 8])
def test_transparent_gray_below_8_bits(tmp_path, depth):
    levels = np.arange(64).reshape(8, 8) % 2 ** depth                                # (8, 8)
    bits = np.unpackbits(levels.astype(np.uint8)[..., None], axis=2)[..., 8 - depth:].reshape(8, -1)
    rows = b''.join(b'\0' + row.tobytes() for row in np.packbits(bits, axis=1))
    for key in 0, 1, 2 ** depth - 1:
        path = tmp_path / f'{key}.png'
        path.write_bytes(b'\x89PNG\r\n\x1a\n' + png_chunk(b'IHDR', struct.pack('>2I5B', 8, 8, depth, 0, 0, 0, 0))
                         + png_chunk(b'tRNS', struct.pack('>H', key)) + png_chunk(b'IDAT', zlib.compress(rows))
                         + png_chunk(b'IEND', b''))
        with Image.open(path) as opened:
            for photo in read_photo(path), photo_of(opened):
                assert np.array_equal(photo.pixels[..., 0], levels * (255 // (2 ** depth - 1)))
                assert np.array_equal(photo.pixels[..., 1], np.where(levels == key, 0, 255))


def test_write_failures_name_the_path(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(UserError, match=r'x\.png'):
        write_rgb(tmp_path / 'file' / 'x.png', RGB)
    write_rgb(tmp_path / 'y.png', RGB)
    assert np.array_equal(read_rgb(tmp_path / 'y.png'), RGB)
    assert sorted(os.listdir(tmp_path)) == ['file', 'y.png']


def test_full_disk(tmp_path, monkeypatch):
    write_rgb(tmp_path / 'y.png', RGB)

    def full(*_):
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(UserError, match=r'y\.png.*No space left'):
        write_rgb(tmp_path / 'y.png', RGB[::-1])
    assert np.array_equal(read_rgb(tmp_path / 'y.png'), RGB) and os.listdir(tmp_path) == ['y.png']


def test_shown_is_one_printable_line():
    assert shown('plain ä.png') == 'plain ä.png'
    assert shown('two\nlines\udcff.png').isascii() and '\n' not in shown('two\nlines')


def test_names_that_are_not_utf8(tmp_path):
    path = tmp_path / os.fsdecode(b'caf\xe9.png')
    try:
        buffer = io.BytesIO()
        Image.fromarray(RGB).save(buffer, 'PNG')
        path.write_bytes(buffer.getvalue())
    except OSError:
        pytest.skip('this file system takes no such name')
    assert np.array_equal(read_rgb(path), RGB)
    path.write_bytes(b'')
    with pytest.raises(UserError) as error:
        read_rgb(path)
    str(error.value).encode()
