"""The choice of weights for each photo: what it is based on, and that both commands and Python follow it."""
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data as photos

import upscale as program
from model import mrda, zoo
from photo.choice import AUTOMATIC, FILE, SMALLEST, Automatic, Choice, statistics
from photo.desk import Desk
from tools.maintain import fit_choice
from upscale import load, upscale
from utility import UserError

CAT = photos.chelsea()[::2, ::2][:96, 20:140]
RULE = {'clean': 'sharp', 'degraded': 'smooth', 'coefficients': [9.0, -1.0, 0.0, 0.0, 0.0], 'threshold': -1.2,
        'measured': {}}


def jpeg(image, quality):
    file = io.BytesIO()
    Image.fromarray(image).save(file, 'JPEG', quality=quality)
    return np.array(Image.open(file))


def noisy(image, level):
    noise = np.random.default_rng(0).normal(0, level, image.shape)
    return (image + noise).round().clip(0, 255).astype(np.uint8)


NOISY = noisy(CAT, 12)


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A zoo of two small students and a rule to choose from them; an empty working folder beside it."""
    monkeypatch.setattr(zoo, 'ZOO', tmp_path / 'zoo')
    for seed, name in enumerate(('sharp', 'smooth')):
        torch.manual_seed(seed)
        zoo.ship(name, mrda.student(4, 1).state_dict(), {}, default=name == 'smooth')
    (tmp_path / 'zoo' / FILE).write_text(json.dumps(RULE))
    (tmp_path / 'where').mkdir()
    monkeypatch.chdir(tmp_path / 'where')
    program._loaded.cache_clear()


@pytest.mark.parametrize('quality', [30, 60, 85])
def test_blocks_of_jpeg_are_found_wherever_they_lie(quality):
    compressed = jpeg(CAT, quality)
    for image in (compressed, compressed[3:, 5:], np.rot90(compressed[2:]), compressed[..., 1:2]):
        assert statistics(image)[0] < -0.4
    assert abs(statistics(CAT)[0]) < 0.1


def test_noise_is_measured_on_the_scale_of_8_bits():
    gray = np.full((200, 200, 1), 128, np.uint8)
    for level in (3, 12):
        assert np.allclose(np.exp(statistics(noisy(gray, level))[1:]) - 0.1, level, rtol=0.35)
    assert (statistics(NOISY)[1:] > np.add(statistics(CAT)[1:], [1, 1, 0.2, 0.1])).all()
    bright = noisy(np.where(np.arange(200)[:, None, None] < 60, 400, gray), 12)         # a third is clipped to white
    assert np.allclose(statistics(bright)[2], statistics(noisy(gray, 12))[2], atol=0.2)


def test_statistics_of_every_type_of_image():
    expected = statistics(CAT)
    alpha = np.dstack([CAT, CAT[..., :1]])
    for image in (CAT.astype(np.uint16) * 257, (CAT / 255).astype(np.float32), alpha, CAT[:, ::-1][:, ::-1]):
        assert np.allclose(statistics(image), expected, atol=1e-3)
    luma = CAT[..., 1]
    assert np.allclose(statistics(luma[..., None]), statistics(np.dstack([luma] * 3)))
    assert np.isfinite(statistics(np.zeros((SMALLEST, SMALLEST, 3), np.uint8))).all()
    assert statistics(CAT[:SMALLEST - 1]) is None
    tiled = np.tile(CAT, (20, 20, 1))                                                   # the middle of a large one
    assert statistics(tiled).shape == expected.shape


def test_each_image_is_upscaled_with_the_weights_of_the_rule(shelf, capsys):
    model = load(device='cpu')
    assert isinstance(model, Automatic) and model.scale == 4 and len(model.notes) == 2 + ('bf16' in model.notes[-1])
    sharp, smooth = (load(name, 'cpu') for name in ('sharp', 'smooth'))
    assert model.chosen(CAT)[0] == 'sharp' and model.chosen(NOISY)[0] == 'smooth' == model.chosen(jpeg(CAT, 40))[0]
    assert np.array_equal(upscale(CAT, model), upscale(CAT, sharp))
    assert np.array_equal(upscale(NOISY, model), upscale(NOISY, smooth))
    assert np.array_equal(upscale(CAT[:20], model), upscale(CAT[:20], smooth))          # too small to tell
    batch = torch.from_numpy(np.stack([CAT, NOISY])).permute(0, 3, 1, 2) / 255
    expected = torch.cat([upscale(batch[:1], sharp), upscale(batch[1:], smooth)])
    assert torch.allclose(upscale(batch, model), expected, atol=1e-5)
    for name, image in (('cat', CAT), ('noisy', NOISY)):
        Image.fromarray(image).save(f'{name}.png')
    assert program.main(['cat.png', 'noisy.png', '-o', 'out', '--device', 'cpu']) == 0
    printed = capsys.readouterr().out
    assert 'cat_x4.png (480x384), sharp\n' in printed and 'noisy_x4.png (480x384), smooth\n' in printed
    assert np.array_equal(np.array(Image.open('out/cat_x4.png')), upscale(CAT, sharp))
    assert program.main(['cat.png', '-o', 'one', '--device', 'cpu', '--weights', 'smooth']) == 0
    assert np.array_equal(np.array(Image.open('one/cat_x4.png')), upscale(CAT, smooth))


def test_the_page_chooses_as_the_command_does(shelf, tmp_path):
    desk = Desk(tmp_path / 'root', lambda name, tile: load(name, 'cpu', tile=tile), 10**6)
    with pytest.raises(UserError, match='no photo yet'):
        desk.named('me', AUTOMATIC)
    for name, image, weights in (('cat', CAT, 'sharp'), ('noisy', NOISY, 'smooth')):
        Image.fromarray(image).save(f'{name}.png')
        desk.take('me', Path(f'{name}.png'))
        assert desk.named('me', AUTOMATIC) == weights and desk.named('me', 'sharp') == 'sharp'


def test_without_a_rule_the_default_weights_are_taken(shelf):
    (zoo.ZOO / FILE).unlink()
    assert Choice.shipped() is None and not isinstance(load(device='cpu'), Automatic)


def test_the_rule_is_not_for_other_defaults(shelf):
    zoo.ship('other', mrda.student(2, 1).state_dict(), {}, default=True)
    assert load(device='cpu').scale == 2 and load(device='cpu', scale=4).scale == 4
    assert not isinstance(load(device='cpu'), Automatic)


@pytest.mark.parametrize('text', ['', '[]', '{"clean": 1}', '{'])
def test_a_damaged_rule_is_one_line(shelf, text, capsys):
    (zoo.ZOO / FILE).write_text(text)
    Image.fromarray(CAT).save('cat.png')
    assert program.main(['cat.png', '--device', 'cpu']) == 2
    error = capsys.readouterr().err
    assert 'choice.json: no rule to choose weights by' in error and error.count('\n') == 1


def test_fit_finds_what_separates():
    rng = np.random.default_rng(0)
    found = rng.normal(3, 2, (300, 5))
    psnr = 25 + np.c_[10 * (found[:, 0] - 2 * found[:, 3] + 4), np.zeros(300)]
    rule = Choice('a', 'b', *fit_choice.fit(found, psnr), {})
    facts = fit_choice.measure(rule, found, psnr)
    assert facts['right'] > 0.98 and facts['psnr_better'] - 0.01 < facts['psnr_rule'] <= facts['psnr_better']
    assert facts['psnr_degraded'] == 25 and 0.3 < facts['clean_better'] < 0.7 and facts['images'] == 300


def test_the_tool_writes_a_rule(shelf, capsys):
    for name in ('train', 'test'):
        Path(name).mkdir()
        Image.fromarray(photos.astronaut()[:160, :200]).save(f'{name}/a.png')
    flags = ['--clean', 'sharp', '--degraded', 'smooth', '--data_train', 'train', '--data_test', 'test',
             '--samples', '9', '--device', 'cpu']
    assert fit_choice.main(flags) == 0 and 'right: ' in capsys.readouterr().out
    rule = Choice.shipped()
    assert (rule.clean, rule.degraded) == ('sharp', 'smooth') and rule.measured['images'] == 3
    assert len(rule.coefficients) == len(statistics(CAT)) and rule.name(CAT) in ('sharp', 'smooth')
    Image.fromarray(CAT).save('test/a.png')
    assert fit_choice.main(flags) == 2 and 'at least 128 a side' in capsys.readouterr().err
    zoo.ship('two', mrda.student(2, 1).state_dict(), {})
    assert fit_choice.main([*flags, '--clean', 'two']) == 2 and 'different scales' in capsys.readouterr().err


def test_the_shipped_rule_is_right_more_often_than_either_weights():
    rule, facts = Choice.shipped(), zoo.index()
    assert facts[rule.degraded]['default'] and facts[rule.clean]['scale'] == facts[rule.degraded]['scale']
    found = rule.measured
    assert found['right'] > max(found['clean_better'], 1 - found['clean_better']) + 0.05
    assert max(found['psnr_clean'], found['psnr_degraded']) < found['psnr_rule'] < found['psnr_better']
    large = photos.chelsea()
    assert rule.name(large) == rule.clean and rule.name(noisy(jpeg(large, 40), 8)) == rule.degraded
