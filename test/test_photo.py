"""Photos of every kind are upscaled as the same kind, and written so that other programs can read them."""
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import torch
from photo_tools import GRAY_ICC, NEAREST, RGB, SRGB, Nearest, save
from PIL import Image

from data.degradation import resize
from model import mrda
from photo import upscaler
from photo.batch import upscale_files
from photo.image import Photo, read_photo
from photo.metadata import Metadata
from photo.output import Output
from photo.targets import targets
from photo.upscaler import Upscaler
from photo.writing import write_photo
from upscale import upscale
from utility import UserError

X2 = Output(2)
DEEP = np.random.RandomState(0).randint(0, 65536, (13, 17, 4)).astype(np.uint16)    # (13, 17, 4), RGBA


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty working folder."""
    (tmp_path / 'where').mkdir()
    monkeypatch.chdir(tmp_path / 'where')


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
    upscale_files(NEAREST, targets([name], Path('out'), X2), X2, print)
    large, colours = read_photo(Path('out', Path(name).stem + '_x2.png')), 1 if pixels.shape[2] < 3 else 3
    assert large.pixels.dtype == pixels.dtype and large.pixels.shape[2] == pixels.shape[2]
    visible = np.kron(pixels[..., -1:] > 0 if pixels.shape[2] > colours else pixels[..., :1] >= 0, np.ones((2, 2, 1)))
    wanted = np.kron(pixels[..., :colours], np.ones((2, 2, 1), pixels.dtype))
    assert np.array_equal(large.pixels[..., :colours] * visible, wanted * visible)
    if pixels.shape[2] > colours:
        alpha = torch.from_numpy(pixels[..., -1].astype(np.float64))[None, None]
        alpha = resize(alpha, 2, downsample=False)[0, 0].numpy()
        assert np.abs(large.pixels[..., -1] - alpha.clip(0, 255)).max() < 0.51
    assert large.metadata.icc == (options or {}).get('icc_profile')
    if name != 'deep.tif':
        assert np.array_equal(np.atleast_3d(np.array(upscale(Image.open(name), NEAREST))), large.pixels)
        assert np.array_equal(np.atleast_3d(np.array(upscale(name, NEAREST))), large.pixels)
        assert upscale(name, NEAREST).info.get('icc_profile') == large.metadata.icc


def test_alpha_stays_exact_and_tiles_have_no_seams(monkeypatch):
    rgba = np.random.RandomState(0).randint(0, 256, (50, 70, 4)).astype(np.uint8)
    whole = Upscaler(Nearest(), 2, 1, torch.device('cpu'))
    expected = whole.array(rgba)
    monkeypatch.setattr(upscaler, 'TILE', 32)                                         # of alpha only
    assert np.array_equal(NEAREST.array(rgba), expected)
    for value in (0, 255):
        rgba[..., 3] = value
        assert (NEAREST.array(rgba)[..., 3] == value).all()


@pytest.mark.parametrize('white', [1, 255])
def test_results_equal_the_network(white):
    """For any data range of the network; clipped and rounded."""
    net = mrda.student(2, 1, rgb_range=white).requires_grad_(False)
    model = Upscaler(net, 2, white, torch.device('cpu'))
    lq = torch.from_numpy(np.pad(RGB, ((4, 4), (4, 4), (0, 0)), 'edge')).permute(2, 0, 1)[None] / 255 * white
    net.G.tail[1].weight.mul_(30)                                                    # values outside the data range
    sr = (net(lq)[0] / white)[0, :, 8:-8, 8:-8].permute(1, 2, 0)
    assert sr.min() < 0 and sr.max() > 1
    assert np.abs(model.array(RGB).astype(int) - (sr.clamp(0, 1) * 255).round().numpy()).max() <= 1
    gray = model.array(RGB[..., :1])
    three = (net(lq[:, :1].expand(-1, 3, -1, -1))[0] / white).clamp(0, 1).mean(1)[0, 8:-8, 8:-8]
    assert np.abs(gray[..., 0].astype(int) - (three * 255).round().numpy()).max() <= 1


@pytest.mark.parametrize('gray', [False, True])
@pytest.mark.parametrize('alpha', [False, True])
@pytest.mark.parametrize('depth', [8, 16])
def test_photo_round_trip(tmp_path, gray, alpha, depth):
    tall = np.tile(DEEP, (50, 1, 1))                                   # several bands of rows, compressed one by one
    values = tall if depth == 16 else (tall >> 8).astype(np.uint8)
    icc = SRGB[:16] + (b'GRAY' if gray else b'RGB ') + SRGB[20:]
    photo = Photo(values[..., (0,) * gray or slice(3)], Metadata(icc))
    if alpha:
        photo.pixels = np.concatenate([photo.pixels, values[..., 3:]], axis=2)
    write_photo(tmp_path / 'new folder' / 'p.png', photo)
    again = read_photo(tmp_path / 'new folder' / 'p.png')
    assert (again.gray, again.depth, again.metadata.icc) == (gray, depth, icc)
    assert np.array_equal(again.pixels, photo.pixels)
    assert np.array_equal(again.colour, (values[..., :1].repeat(3, 2) if gray else values[..., :3])
                          / np.float32(2 ** depth - 1))
    assert np.array_equal(again.alpha, values[..., 3] / np.float32(2 ** depth - 1)) if alpha else again.alpha is None
    other = cv2.imread(str(tmp_path / 'new folder' / 'p.png'), cv2.IMREAD_UNCHANGED)   # another reader
    assert other.dtype == (np.uint8 if depth == 8 else np.uint16)
    with Image.open(tmp_path / 'new folder' / 'p.png') as image:
        assert image.info['icc_profile'] == icc


def test_profile_for_other_channels_is_dropped(tmp_path):
    """A PNG file of RGB pixels must not have a profile for gray or CMYK."""
    save(tmp_path / 'p.png', RGB, icc_profile=SRGB[:16] + b'CMYK' + SRGB[20:])
    photo = read_photo(tmp_path / 'p.png')
    assert photo.metadata.icc is None and photo.notes == ['dropped: a colour profile for other channels']
    for name, profile in (('k.tif', b'no profile'), ('k.jpg', SRGB)):
        Image.fromarray(np.zeros((8, 8, 4), np.uint8), 'CMYK').save(tmp_path / name, icc_profile=profile)
        photo = read_photo(tmp_path / name)
        assert photo.pixels.min() > 250 and photo.metadata.icc is None and 'not for CMYK' in photo.notes[0]


@pytest.mark.parametrize('form', ['png', 'jpg', 'webp', 'tif', 'same'])
@pytest.mark.parametrize('name', kinds())
def test_results_can_be_read_by_pillow_opencv_and_this_project(name, form):
    image, options, pixels = kinds()[name]
    if options is None:
        tifffile.imwrite(name, image, photometric='rgb')
    else:
        profile = SRGB if pixels.shape[2] > 2 else GRAY_ICC
        save(name, image, **{'icc_profile': profile, 'exif': Image.Exif().tobytes(), **options})
    output = Output(2, form)
    found = targets([name], Path('out'), output)
    if output.suffix(Path(name)) == '.jpg' and pixels.shape[2] in (2, 4):
        with pytest.raises(UserError):
            upscale_files(NEAREST, found, output, print)
        return
    upscale_files(NEAREST, found, output, print)
    path, = found.values()
    size = 2 * pixels.shape[0], 2 * pixels.shape[1]
    photo, lossless = read_photo(path), path.suffix in ('.png', '.tif')
    assert photo.pixels.shape[:2] == size and not photo.notes
    assert not lossless or (photo.pixels.dtype, photo.pixels.shape[2]) == (pixels.dtype, pixels.shape[2])
    with Image.open(path) as opened:
        opened.load()
        assert opened.size == size[::-1] and isinstance(dict(opened.getexif()), dict)
    other = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert other.shape[:2] == size and (not lossless or other.dtype == pixels.dtype)
