import math

import goldens
import numpy as np
import pytest
import torch

from report.metric import psnr_y, ssim_y
from utility import quantize

GOLDEN = goldens.load('degradation')
HR = GOLDEN['deg_hr'][:1]
SR = HR + 0.05 * goldens.noise('n', (1, 3, 48, 64))


def grey(level, size=32):
    return torch.full((1, 3, size, size), level / 255)


def test_goldens():
    assert psnr_y(SR, HR, 4) == pytest.approx(GOLDEN['psnr'].item(), abs=1e-4)
    assert ssim_y(SR, HR, 4) == pytest.approx(GOLDEN['ssim'].item(), abs=1e-6)


def test_rounding_is_done_inside_and_idempotent():
    rounded = quantize(SR), quantize(HR)
    for metric in (psnr_y, ssim_y):
        assert metric(SR, HR, 4) == pytest.approx(metric(*rounded, 4), abs=1e-12)
    assert psnr_y(grey(100) + 0.4 / 255, grey(100), 4) == math.inf
    assert psnr_y(grey(255) + 0.5, grey(255), 4) == math.inf  # clamped


@pytest.mark.parametrize('metric', [psnr_y, ssim_y])
def test_rgb_range(metric):
    assert metric(SR * 255, HR * 255, 4, rgb_range=255) == pytest.approx(metric(SR, HR, 4), abs=1e-6)


def test_equal_images():
    assert psnr_y(HR, HR, 4) == math.inf
    assert ssim_y(HR, HR, 4) == pytest.approx(1)


def test_psnr_of_one_level_everywhere():
    luma = (65.738 + 129.057 + 25.064) / 256 / 255
    assert psnr_y(grey(101), grey(100), 4) == pytest.approx(-20 * math.log10(luma), abs=1e-9)


def test_psnr_weighs_the_channels():
    for channel, weight in enumerate((65.738, 129.057, 25.064)):
        sr = grey(100)
        sr[:, channel] += 10 / 255
        assert psnr_y(sr, grey(100), 0) == pytest.approx(-20 * math.log10(weight / 256 * 10 / 255), abs=1e-9)


@pytest.mark.parametrize('metric', [psnr_y, ssim_y])
def test_border_is_shaved(metric):
    damaged = HR.clone()
    damaged[..., :4, :] = damaged[..., -4:, :] = 1
    damaged[..., :4] = damaged[..., -4:] = 0
    assert metric(damaged, HR, 4) == metric(HR, HR, 4)
    assert metric(damaged, HR, 3) < metric(HR, HR, 3)


def test_ssim_is_the_mean_over_the_valid_area():
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


def test_images_too_small():
    assert ssim_y(grey(1, 11), grey(2, 11), 0) > 0
    assert math.isnan(ssim_y(grey(1, 18), grey(2, 18), 4))
    assert math.isnan(psnr_y(grey(1, 8), grey(2, 8), 4)) and math.isnan(ssim_y(grey(1, 3), grey(1, 3), 4))


@pytest.mark.parametrize('metric', [psnr_y, ssim_y])
def test_shapes_must_agree(metric):
    with pytest.raises(ValueError, match='cannot compare'):
        metric(HR, HR[..., :-1], 4)


def test_half_precision_results_are_measured_too():
    assert psnr_y(SR.bfloat16(), HR, 4) == pytest.approx(psnr_y(SR.bfloat16().float(), HR, 4))
