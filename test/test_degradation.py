import math

import goldens
import numpy as np
import pytest
import torch

from data.degradation import Degradation, DegradationRange, Degrader, kernel, resize, separate
from reference import method as plain
from utility import generator, quantize

GOLDEN = goldens.load('degradation')
ISO, ANISO = Degradation.iso(2.6), Degradation.aniso(3.5, 1.5, 20)


def image(*shape):
    return torch.rand(*shape, generator=generator('cpu', 'degradation test', shape))


def same_levels(ours, theirs, rgb_range=1):
    """8-bit images that differ by at most one level, in at most 0.1 % of the values or in one value."""
    difference = ((ours - theirs) * (255 / rgb_range)).round().abs()
    return difference.max() <= 1 and difference.sum() <= max(1, difference.numel() / 1000)


def plain_blur(hr, degradation, size=21):
    """All size² taps in float64; NumPy reflects as often as a small image needs."""
    around = (size // 2, size // 2)
    padded = np.pad(hr.double().numpy(), [(0, 0), (0, 0), around, around], 'reflect')
    return plain.correlate(torch.from_numpy(padded), kernel(degradation, size))


def plain_degrade(hr, degradation, scale):
    lq = plain.resize(plain_blur(hr, degradation), 1 / scale)
    return quantize(lq), quantize(plain.resize(lq, scale))


def parse(name):
    kind, *numbers, _ = name.split('_')
    return {'iso': Degradation.iso, 'aniso': Degradation.aniso, 'bic': Degradation.bicubic}[kind](*map(float, numbers))


@pytest.mark.parametrize('name', [key for key in GOLDEN if key.startswith('kernel')])
def test_kernel_golden(name):
    ours = kernel(Degradation.aniso(*map(float, name.split('_')[1:])), 21)
    assert ours.shape == (1, 21, 21) and goldens.close(ours[0], GOLDEN[name])


@pytest.mark.parametrize('name', [key for key in GOLDEN if key.endswith('_lr')])
def test_degrader_golden(name):
    lq, up = Degrader(4)(GOLDEN['deg_hr'], parse(name))
    assert same_levels(lq, GOLDEN[name])
    assert same_levels(up, GOLDEN[name.replace('_lr', '_up')])


@pytest.mark.parametrize('scale', [2, 3, 4])
def test_resize_golden(scale):
    corner = GOLDEN['deg_hr'][:, :, :12, :12]
    assert goldens.close(resize(corner, scale, shrink=True), GOLDEN[f'bicubic_down{scale}'])
    assert goldens.close(resize(corner, scale, shrink=False), GOLDEN[f'bicubic_up{scale}'])


@pytest.mark.parametrize('scale', [2, 3, 4])
def test_resize_is_right_on_every_size(scale):
    for height, width in [(1, 1), (2, 5), (13, 300)]:
        small = image(2, 1, height, width)
        assert torch.allclose(resize(small, scale, False).double(), plain.resize(small.double(), scale), atol=1e-6)
        large = image(2, 1, height * scale, width * scale)
        assert torch.allclose(resize(large, scale, True).double(), plain.resize(large.double(), 1 / scale), atol=1e-6)


@pytest.mark.parametrize('scale', [2, 3, 4])
@pytest.mark.parametrize('degradation', [ISO, Degradation.iso(4.0), ANISO, Degradation.bicubic()], ids=str)
def test_fast_equals_all_taps(scale, degradation):
    for shape in [(2, 3, 36, 48), (1, 3, 24, 420), (1, 3, 12, 12), (2, 3, scale, 2 * scale)]:
        hr = image(*shape)
        fast, plain = Degrader(scale)(hr, degradation), plain_degrade(hr, degradation, scale)
        assert all(same_levels(a, b) for a, b in zip(fast, plain, strict=True))


def test_isotropic_way_equals_general_way():
    hr = GOLDEN['deg_hr']
    general = Degrader(4)(hr, Degradation.aniso(2.6, 2.6, 33))
    assert all(same_levels(a, b) for a, b in zip(Degrader(4)(hr, ISO), general, strict=True))


def test_each_sample_has_its_kernel_and_small_images_are_reflected_repeatedly():
    for height, width in [(2, 2), (2, 8), (10, 12), (30, 40)]:
        hr = image(2, 3, height, width)
        degradation = Degradation(*torch.tensor([[0.5, 4.0], [3.0, 2.0], [0.3, 2.0], [0.0, 0.0]]), noisy=False)
        lq, _ = Degrader(2, mode='s-fold')(hr, degradation)
        assert same_levels(lq, quantize(plain_blur(hr, degradation)[..., ::2, ::2]))


def test_kernels_are_sums_of_few_separable_ones():
    draws = DegradationRange('aniso_gaussian', lambda_min=0.2, lambda_max=4.0).sample(generator('cpu', 0), 50)
    kernels = kernel(draws, 21)
    for each in kernels.split(1):
        vertical, horizontal = separate(each)                                   # (1, r, 21) each
        assert torch.einsum('nri,nrj->nij', vertical, horizontal).allclose(each, rtol=0, atol=1e-6)
    assert sum(separate(each)[0].shape[1] for each in kernels.split(1)) < 10 * len(kernels)
    assert separate(kernel(ISO, 21))[0].shape == (1, 1, 21)


@pytest.mark.parametrize('isotropic', [True, False])
def test_batch_equals_single(isotropic):
    values = torch.tensor([[0.4, 1.7, 4.0], [2.0, 1.0, 0.3], [0.2, 1.0, 3.0], [0.0, 0.0, 0.0]])
    if isotropic:
        values[1], values[2] = values[0], 0
    hr, degrade = image(3, 3, 24, 32), Degrader(4)
    lq, up = degrade(hr, Degradation(*values, isotropic=isotropic, noisy=False))
    for i in range(3):
        single_lq, single_up = degrade(hr[i:i + 1], Degradation(*values[:, i:i + 1], isotropic=isotropic, noisy=False))
        assert same_levels(lq[i:i + 1], single_lq) and same_levels(up[i:i + 1], single_up)


@pytest.mark.parametrize('degradation', [ISO, ANISO], ids=str)
def test_s_fold_keeps_every_third_pixel(degradation):
    hr = image(2, 3, 36, 48)
    lq, up = Degrader(3, mode='s-fold')(hr, degradation)
    blurred = plain_blur(hr, degradation)[..., ::3, ::3]
    assert same_levels(lq, quantize(blurred)) and same_levels(up, quantize(plain.resize(blurred, 3)))


def test_unknown_mode():
    with pytest.raises(KeyError):
        Degrader(4, mode='nearest')


def test_sigma_zero_is_no_blur():
    delta = kernel(Degradation.iso(0), 21)
    assert delta[0, 10, 10] == 1 and delta.sum() == 1
    hr = image(1, 3, 24, 24)
    for degradation in (Degradation.bicubic(), Degradation.aniso(0, 0, 20)):
        assert same_levels(Degrader(4)(hr, degradation)[0], quantize(resize(hr, 4, shrink=True)))


def test_kernel_properties():
    degradation = DegradationRange('aniso_gaussian', lambda_min=0.2, lambda_max=4.0).sample(generator('cpu', 0), 8)
    kernels = kernel(degradation, 21)
    assert torch.allclose(kernels.sum((1, 2)), torch.ones(8, dtype=torch.float64))
    assert torch.allclose(kernels, kernels.flip(1, 2))
    a, half_turn, quarter = (kernel(Degradation.aniso(*v), 21) for v in ((3, 1, 25), (3, 1, 205), (1, 3, 115)))
    assert torch.allclose(a, half_turn, atol=1e-6) and torch.allclose(a, quarter, atol=1e-6)
    wide = kernel(Degradation.aniso(4, 1, 0), 21)[0]
    assert wide[10, 13] > wide[13, 10]  # theta 0: lambda_1 lies along the columns' axis, x
    falling = kernel(Degradation.aniso(4, 1, 45), 21)[0]
    assert falling[13, 13] > falling[7, 13]  # theta turns x towards y, which points down


def test_rgb_range_only_scales():
    hr = image(1, 3, 24, 24)
    for degradation in (Degradation.iso(1.8, noise=10), Degradation.aniso(2, 1, 30, noise=10)):
        ones = Degrader(4)(hr, degradation, generator('cpu', 1))
        levels = Degrader(4, rgb_range=255)(hr * 255, degradation, generator('cpu', 1))
        assert all(same_levels(a * 255, b, rgb_range=255) for a, b in zip(ones, levels, strict=True))


def test_outputs_are_8_bit():
    for rgb_range in (1, 255):
        for result in Degrader(2, rgb_range=rgb_range)(image(1, 3, 8, 8) * rgb_range, ISO):
            levels = result * (255 / rgb_range)
            assert torch.allclose(levels, levels.round(), atol=1e-4) and levels.min() >= 0 and levels.max() <= 255


def test_noise_has_its_level_and_up_is_made_before_rounding():
    hr = torch.full((2, 3, 256, 256), 0.5)
    degradation = Degradation(*torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 10.0]]), isotropic=True)
    lq, up = Degrader(4)(hr, degradation, generator('cpu', 'noise'))
    assert (lq[0] == quantize(hr[0, :, ::4, ::4])).all()
    noise = (lq[1] - 0.5) * 255
    assert noise.std().item() == pytest.approx(math.hypot(10, 12 ** -0.5), rel=0.03)
    assert abs(noise.mean().item()) < 0.5
    assert abs(torch.corrcoef(noise.flatten(1))[0, 1].item()) < 0.05  # every channel has its own
    assert not same_levels(up, quantize(resize(lq, 4, shrink=False)))


def test_noise_comes_from_the_generator_alone():
    hr, degradation = image(1, 3, 16, 16), Degradation.iso(1.0, noise=20)
    torch.manual_seed(0)
    first = Degrader(4)(hr, degradation, generator('cpu', 7))
    torch.manual_seed(1)
    again, other = (Degrader(4)(hr, degradation, generator('cpu', seed)) for seed in (7, 8))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1]) and not torch.equal(first[0], other[0])
    with pytest.raises(ValueError, match='generator'):
        Degrader(4)(hr, degradation)


def test_no_noise_draws_nothing():
    draw = generator('cpu', 3)
    before = draw.get_state()
    Degrader(4)(image(1, 3, 16, 16), ISO, draw)
    assert torch.equal(before, draw.get_state())


def test_sides_must_be_multiples_of_the_scale():
    for shape in [(1, 3, 16, 18), (1, 3, 18, 16)]:
        with pytest.raises(ValueError, match='multiples of scale 4'):
            Degrader(4)(image(*shape), ISO)


def test_autocast_and_inference_mode_change_nothing():
    hr = image(1, 3, 44, 52)  # sizes no other test uses: the cached matrices are made here
    with torch.inference_mode():
        inference = Degrader(4)(hr, ISO)
    for degradation in (ISO, ANISO):
        plain = Degrader(4)(hr, degradation)
        with torch.autocast('cpu', torch.bfloat16):
            cast = Degrader(4)(hr, degradation)
            small = resize(hr, 4, shrink=True)
        assert all(torch.equal(a, b) for a, b in zip(plain, cast, strict=True))
        assert torch.equal(small, resize(hr, 4, shrink=True))
    assert torch.equal(inference[0], Degrader(4)(hr, ISO)[0])
    hr.requires_grad_()
    resize(hr, 4, shrink=True).sum().backward()
    assert hr.grad.sum().item() == pytest.approx(11 * 13 * 3, rel=1e-4)


def test_draws_lie_in_their_ranges_and_fill_them():
    draw = generator('cpu', 0)
    iso = DegradationRange('iso_gaussian', sig_min=0.2, sig_max=4.0).sample(draw, 2000)
    assert iso.isotropic and not iso.noisy and torch.equal(iso.lambda_1, iso.lambda_2) and not iso.noise.any()
    aniso = DegradationRange('aniso_gaussian', lambda_min=0.2, lambda_max=4.0, noise=25).sample(draw, 2000)
    assert not aniso.isotropic and aniso.noisy
    for values, low, high in [(iso.lambda_1, 0.2, 4.0), (aniso.lambda_1, 0.2, 4.0), (aniso.lambda_2, 0.2, 4.0),
                              (aniso.theta, 0, math.pi), (aniso.noise, 0, 25)]:
        margin = 0.01 * (high - low)
        assert low <= values.min() < low + margin and high - margin < values.max() <= high
        assert values.mean().item() == pytest.approx((low + high) / 2, rel=0.05)
    draws = torch.stack([aniso.lambda_1, aniso.lambda_2, aniso.theta, aniso.noise])
    assert torch.corrcoef(draws).triu(1).abs().max() < 0.1  # independent of each other


def test_draws_repeat_and_stage_1_draws_nothing():
    ranges = DegradationRange('aniso_gaussian', lambda_min=0.2, lambda_max=4.0, noise=25)
    a, b, c = (ranges.sample(generator('cpu', seed)) for seed in (5, 5, 6))
    assert str(a) == str(b) != str(c) and a.theta.shape == (1,)
    assert str(DegradationRange().sample(generator('cpu', 5))) == str(Degradation.bicubic())


def test_labels():
    assert str(Degradation.iso(2.6)) == 'sigma 2.6, noise 0'
    assert str(Degradation.aniso(3.5, 1.5, 20, noise=10)) == 'lambda 3.5/1.5, theta 20, noise 10'
    pair = Degradation(*torch.tensor([[1.0, 2.0], [1.0, 2.0], [0.0, 0.0], [0.0, 5.0]]), isotropic=True)
    assert str(pair) == 'sigma 1, noise 0; sigma 2, noise 5'
