import csv
import json
import math
import re
from pathlib import Path

import goldens
import numpy as np
import pytest
import torch

from model import mrda
from report import metric as table
from report.metric import DEFAULT, METRICS, Metric, psnr_rgb, psnr_y, ssim_y
from report.perceptual import NETWORKS
from store.tensors import load_checkpoint, save_checkpoint, save_weights
from utility import quantize

GOLDEN = goldens.load('degradation')
HR = goldens.smooth('deg_hr', (2, 3, 48, 64))[:1]
SR = HR + 0.05 * goldens.noise('n', (1, 3, 48, 64))


def gray(level, size=32):
    return torch.full((1, 3, size, size), level / 255)


def test_metrics_match_goldens():
    assert psnr_y(SR, HR, 4) == pytest.approx(GOLDEN['psnr'].item(), abs=1e-4)
    assert ssim_y(SR, HR, 4) == pytest.approx(GOLDEN['ssim'].item(), abs=1e-6)


def test_metrics_round_their_input():
    rounded = quantize(SR), quantize(HR)
    for metric in (psnr_y, ssim_y):
        assert metric(SR, HR, 4) == pytest.approx(metric(*rounded, 4), abs=1e-12)
    assert psnr_y(gray(100) + 0.4 / 255, gray(100), 4) == math.inf
    assert psnr_y(gray(255) + 0.5, gray(255), 4) == math.inf  # clamped


@pytest.mark.parametrize('metric', [psnr_y, ssim_y])
def test_rgb_range_does_not_change_the_scores(metric):
    assert metric(SR * 255, HR * 255, 4, rgb_range=255) == pytest.approx(metric(SR, HR, 4), abs=1e-6)


def test_equal_images():
    assert psnr_y(HR, HR, 4) == math.inf
    assert ssim_y(HR, HR, 4) == pytest.approx(1)


def test_psnr_of_one_level_everywhere():
    luma = (65.738 + 129.057 + 25.064) / 256 / 255
    assert psnr_y(gray(101), gray(100), 4) == pytest.approx(-20 * math.log10(luma), abs=1e-9)


def test_psnr_weighs_the_channels():
    for channel, weight in enumerate((65.738, 129.057, 25.064)):
        sr = gray(100)
        sr[:, channel] += 10 / 255
        assert psnr_y(sr, gray(100), 0) == pytest.approx(-20 * math.log10(weight / 256 * 10 / 255), abs=1e-9)


@pytest.mark.parametrize('metric', [psnr_y, ssim_y])
def test_border_is_shaved(metric):
    damaged = HR.clone()
    damaged[..., :4, :] = damaged[..., -4:, :] = 1
    damaged[..., :4] = damaged[..., -4:] = 0
    assert metric(damaged, HR, 4) == metric(HR, HR, 4)
    assert metric(damaged, HR, 3) < metric(HR, HR, 3)


def test_ssim_is_the_mean_over_valid_windows():
    """Wang's formula written out, windows wholly inside the image."""
    weights = np.array([65.738, 129.057, 25.064]) / 255
    sr, hr = (np.tensordot(weights, quantize(image, 255)[0, :, 4:-4, 4:-4].numpy(), 1) + 16
              for image in (SR.double() * 255, HR.double() * 255))
    profile = np.exp(-(np.arange(11) - 5) ** 2 / (2 * 1.5 ** 2))
    window = np.outer(profile, profile) / profile.sum() ** 2

    def mean(image):
        return (np.lib.stride_tricks.sliding_window_view(image, (11, 11)) * window).sum((-2, -1))

    a, b = mean(sr), mean(hr)
    variances, covariance = mean(sr * sr) - a * a + mean(hr * hr) - b * b, mean(sr * hr) - a * b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    ssim = ((2 * a * b + c1) * (2 * covariance + c2)) / ((a * a + b * b + c1) * (variances + c2))
    assert ssim_y(SR, HR, 4) == pytest.approx(ssim.mean(), abs=1e-9)


def test_too_small_images_give_nan():
    assert ssim_y(gray(1, 11), gray(2, 11), 0) > 0
    assert math.isnan(ssim_y(gray(1, 18), gray(2, 18), 4))
    assert math.isnan(psnr_y(gray(1, 8), gray(2, 8), 4)) and math.isnan(ssim_y(gray(1, 3), gray(1, 3), 4))


@pytest.mark.parametrize('metric', [psnr_y, ssim_y])
def test_shapes_must_agree(metric):
    with pytest.raises(ValueError, match='cannot compare'):
        metric(HR, HR[..., :-1], 4)


def test_half_precision_images_can_be_scored():
    assert psnr_y(SR.bfloat16(), HR, 4) == pytest.approx(psnr_y(SR.bfloat16().float(), HR, 4))


def test_psnr_rgb_uses_the_mean_error_over_pixels_and_channels():
    a, b = (np.rint(np.clip(image[0].double().numpy(), 0, 1) * 255)[:, 4:-4, 4:-4] for image in (SR, HR))
    assert psnr_rgb(SR, HR, 4) == pytest.approx(10 * math.log10(255 ** 2 / np.mean((a - b) ** 2)), abs=1e-9)
    sr = gray(100)
    sr[:, 2] = 110 / 255
    assert psnr_rgb(sr, gray(100), 4) == pytest.approx(-10 * math.log10((10 / 255) ** 2 / 3), abs=1e-9)


@pytest.mark.parametrize('name', sorted(METRICS.keys() - NETWORKS.keys()))  # those: see test_perceptual.py
def test_every_metric_ranks_the_closer_image_higher(name):
    closer, farther = (METRICS[name].function(HR + scale * (SR - HR), HR, 4, 1) for scale in (0.5, 1))
    assert (closer > farther) == METRICS[name].higher_is_better and closer != farther


@pytest.mark.parametrize(('name', 'title'), [('psnr_y', 'PSNR'), ('ssim_y', 'SSIM'), ('psnr_rgb', 'PSNR-RGB'),
                                             ('lpips', 'LPIPS')])
def test_metrics_have_display_names(name, title):
    assert table.title(name) == title


@pytest.fixture
def tested(cli, capsys):
    """tested(*flags): the exit status and the output of a test of a random student."""
    save_weights('student.pt', mrda.student(2, n_blocks=1))

    def run(*flags):
        return cli('--stage', 4, '--test_only', '--pre_train_ST', 'student.pt', *flags), capsys.readouterr()
    return run


def test_metrics_appear_in_every_file(tested, monkeypatch):
    monkeypatch.setitem(METRICS, 'error', Metric(lambda sr, hr, *_: (sr - hr).abs().mean().item(), '', 5, False))
    status, said = tested('--metrics', 'psnr_y,ssim_y,psnr_rgb,error')
    assert status == 0
    assert re.search(r'^Set2 PSNR: \d+\.\d{3} SSIM: \d\.\d{4} PSNR-RGB: \d+\.\d{3} ERROR: 0\.\d{5}$', said.out, re.M)
    assert 'PSNR-RGB (all three channels), ERROR, of 8-bit images' in said.out
    run = Path('experiment/stage4_x2_bicubic_iso')
    row = json.loads((run / 'log.jsonl').read_text())
    assert list(row['scores']['Set2']) == ['psnr_y', 'ssim_y', 'psnr_rgb', 'error']
    content = json.loads((run / 'results/protocol_single.json').read_text())
    assert content['means'][-1]['scores'] == row['scores'] and not content['metrics']['error']['higher_is_better']
    image = next(csv.DictReader((run / 'results/Set2_sigma_1.2_noise_0.csv').open()))
    assert list(image)[3:7] == list(content['metrics']) and len(image['error']) == len('0.1234567')
    assert 'Set2 PSNR-RGB' in (run / 'results/protocol_single.md').read_text()
    assert 'Set2 psnr_rgb' in (run / 'results/protocol_single.csv').read_text()


def test_unknown_metric_is_refused(tested):
    for names, words in (('psnr_y,psnr', "'psnr' is not a metric; choose from psnr_y, ssim_y"),
                         ('psnr_y,psnr_y', 'twice')):
        status, said = tested('--metrics', names)
        assert status == 2 and words in said.err and said.err.count('\n') == 1


def test_checkpoint_from_before_metrics_option_resumes(cli):
    assert cli('--stage', 1, '--epochs_sr', 1) == 0
    path = Path('experiment/stage1_x2_bicubic_iso/model/state_1.pt')
    state = load_checkpoint(path)
    first = {new: state['history'].pop(new) for new in DEFAULT}
    save_checkpoint(path, state | {'history': {**state['history'], 'psnr': first['psnr_y'], 'ssim': first['ssim_y']}})
    assert cli('--stage', 1, '--metrics', 'psnr_y,ssim_y,psnr_rgb') == 0
    history = load_checkpoint(path.with_name('state_2.pt'))['history']
    assert set(history) == {'losses', 'psnr_y', 'ssim_y', 'psnr_rgb'}
    assert [history[name]['Set2'][0] for name in DEFAULT] == [first[name]['Set2'][0] for name in DEFAULT]
    assert [math.isnan(value) for value in history['psnr_rgb']['Set2']] == [True, False]
