import json
import math
from dataclasses import dataclass

import goldens
import numpy as np
import pytest
import torch

from data.degradation import (
    AnisoGaussian,
    Blur,
    Context,
    Downsample,
    IsoGaussian,
    Noise,
    Pipeline,
    Round,
    Step,
    Value,
    bicubic,
    classic,
    resize,
)
from data.degradation.resize import separate
from reference import method as plain
from utility import UserError, generator, quantize

GOLDEN = goldens.load('degradation')
HR = goldens.smooth('deg_hr', (2, 3, 48, 64))
ISO, ANISO = IsoGaussian(2.6), AnisoGaussian(3.5, 1.5, math.radians(20))
SPREAD = 0.2, 4.0
CONTEXT = Context(None, 1, 36, 48)


def image(*shape):
    return torch.rand(*shape, generator=generator('cpu', 'degradation test', shape))


def same_levels(ours, theirs, rgb_range=1):
    """Whether 8-bit images differ by at most one level, in at most 0.1 % of the values or in one value."""
    difference = ((ours - theirs) * (255 / rgb_range)).round().abs()
    return difference.max() <= 1 and difference.sum() <= max(1, difference.numel() / 1000)


def plain_blur(hr, blur):
    """All size² taps in float64; NumPy reflects small images repeatedly."""
    around = (blur.size // 2, blur.size // 2)
    padded = np.pad(hr.double().numpy(), [(0, 0), (0, 0), around, around], 'reflect')
    return plain.correlate(torch.from_numpy(padded), blur.kernels())


def plain_degrade(hr, blur, scale):
    lq = plain.resize(plain_blur(hr, blur), 1 / scale)
    return quantize(lq), quantize(plain.resize(lq, scale))


def parse(name):
    """The degradation in the name of a golden."""
    kind, *numbers, _ = name.split('_')
    along, across, theta, noise = [*map(float, numbers), *[0.0] * 4][:4]
    blur = AnisoGaussian(along, across, math.radians(theta)) if kind == 'aniso' else IsoGaussian(along)
    return classic(blur, 4, noise if kind == 'aniso' else across)


def pairs_close(ours, theirs):
    return all(same_levels(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize('name', [key for key in GOLDEN if key.startswith('kernel')])
def test_kernels_match_golden(name):
    along, across, theta = map(float, name.split('_')[1:])
    ours = AnisoGaussian(along, across, math.radians(theta)).kernels()
    assert ours.shape == (1, 21, 21) and goldens.close(ours[0], GOLDEN[name])


@pytest.mark.parametrize('name', [key for key in GOLDEN if key.endswith('_lr')])
def test_degradation_matches_golden(name):
    lq, up = parse(name)(HR)
    assert same_levels(lq, GOLDEN[name])
    assert same_levels(goldens.thinned(up), GOLDEN[name.replace('_lr', '_up')])


@pytest.mark.parametrize('scale', [2, 3, 4])
def test_resize_matches_golden(scale):
    corner = HR[:, :, :12, :12]
    assert goldens.close(resize(corner, scale, downsample=True), GOLDEN[f'bicubic_down{scale}'])
    assert goldens.close(goldens.thinned(resize(corner, scale, downsample=False)), GOLDEN[f'bicubic_up{scale}'])


@pytest.mark.parametrize('scale', [2, 3, 4])
def test_resize_is_correct_for_every_size(scale):
    for height, width in [(1, 1), (2, 5), (13, 300)]:
        small = image(2, 1, height, width)
        assert torch.allclose(resize(small, scale, False).double(), plain.resize(small.double(), scale), atol=1e-6)
        large = image(2, 1, height * scale, width * scale)
        assert torch.allclose(resize(large, scale, True).double(), plain.resize(large.double(), 1 / scale), atol=1e-6)


@pytest.mark.parametrize('scale', [2, 3, 4])
@pytest.mark.parametrize('blur', [ISO, IsoGaussian(4.0), ANISO, IsoGaussian(0.0)], ids=str)
def test_fast_blur_equals_all_taps(scale, blur):
    for shape in [(2, 3, 36, 48), (1, 3, 24, 420), (1, 3, 12, 12), (2, 3, scale, 2 * scale)]:
        hr = image(*shape)
        assert pairs_close(classic(blur, scale)(hr), plain_degrade(hr, blur, scale))


@pytest.mark.parametrize('mode', ['bicubic', 's-fold'])
@pytest.mark.parametrize('blur', [ISO, ANISO], ids=str)
def test_fused_blur_and_downsampling_equal_both_in_sequence(blur, mode):
    hr = image(2, 3, 36, 48)
    blurred = blur(hr, CONTEXT)
    assert blurred.shape == hr.shape and torch.allclose(blurred.double(), plain_blur(hr, blur), atol=1e-5)
    in_turn = Downsample(4, mode)(blurred, CONTEXT)
    assert torch.allclose(blur.downsampled(hr, 4, mode), in_turn, atol=1e-5)


def test_isotropic_path_equals_general_path():
    assert pairs_close(classic(ISO, 4)(HR), classic(AnisoGaussian(2.6, 2.6, 0.5), 4)(HR))


def test_each_sample_has_its_own_kernel_and_small_images_reflect_repeatedly():
    for height, width in [(2, 2), (2, 8), (10, 12), (30, 40)]:
        hr = image(2, 3, height, width)
        blur = AnisoGaussian(*torch.tensor([[0.5, 4.0], [3.0, 2.0], [0.3, 2.0]]))
        lq, _ = classic(blur, 2, mode='s-fold')(hr)
        assert same_levels(lq, quantize(plain_blur(hr, blur)[..., ::2, ::2]))


def test_kernels_are_sums_of_few_separable_kernels():
    blur, = AnisoGaussian(SPREAD, SPREAD, (0.0, math.pi)).draw(generator('cpu', 0), 50)
    kernels = blur.kernels()
    for each in kernels.split(1):
        vertical, horizontal = separate(each)                                   # (1, r, 21) each
        assert torch.einsum('nri,nrj->nij', vertical, horizontal).allclose(each, rtol=0, atol=1e-6)
    assert sum(separate(each)[0].shape[1] for each in kernels.split(1)) < 10 * len(kernels)
    assert separate(ISO.kernels())[0].shape == (1, 1, 21)


@pytest.mark.parametrize('blur', [IsoGaussian(SPREAD), AnisoGaussian(SPREAD, SPREAD, (0.0, math.pi))],
                         ids=['iso', 'aniso'])
def test_batch_equals_single_images(blur):
    hr = image(3, 3, 24, 32)
    drawn = classic(blur, 4).draw(generator('cpu', 5), 3)
    together = drawn(hr)
    for i in range(3):
        numbers = {name: value[i:i + 1] for name, value in vars(drawn.steps[0]).items() if name != 'size'}
        alone = classic(type(blur)(**numbers), 4)(hr[i:i + 1])
        assert pairs_close([each[i:i + 1] for each in together], alone)


@pytest.mark.parametrize('blur', [ISO, ANISO], ids=str)
def test_s_fold_keeps_every_scale_th_pixel(blur):
    hr = image(2, 3, 36, 48)
    blurred = plain_blur(hr, blur)[..., ::3, ::3]
    assert pairs_close(classic(blur, 3, mode='s-fold')(hr), (quantize(blurred), quantize(plain.resize(blurred, 3))))


def test_sigma_zero_is_no_blur():
    delta = IsoGaussian(0.0).kernels()
    assert delta[0, 10, 10] == 1 and delta.sum() == 1
    hr = image(1, 3, 24, 24)
    for degradation in (bicubic(4), classic(AnisoGaussian(0.0, 0.0, 0.3), 4)):
        assert same_levels(degradation(hr)[0], quantize(resize(hr, 4, downsample=True)))


def test_kernel_properties():
    blur, = AnisoGaussian(SPREAD, SPREAD, (0.0, math.pi)).draw(generator('cpu', 0), 8)
    kernels = blur.kernels()
    assert torch.allclose(kernels.sum((1, 2)), torch.ones(8, dtype=torch.float64))
    assert torch.allclose(kernels, kernels.flip(1, 2))

    def turned(along, across, degrees):
        return AnisoGaussian(along, across, math.radians(degrees)).kernels()[0]
    assert torch.allclose(turned(3.0, 1.0, 25), turned(3.0, 1.0, 205), atol=1e-6)
    assert torch.allclose(turned(3.0, 1.0, 25), turned(1.0, 3.0, 115), atol=1e-6)
    wide, falling = turned(4.0, 1.0, 0), turned(4.0, 1.0, 45)
    assert wide[10, 13] > wide[13, 10]  # theta 0: lambda_1 is along the axis of columns, x
    assert falling[13, 13] > falling[7, 13]  # theta rotates x towards y, which points down


def test_rgb_range_only_scales_values():
    hr = image(1, 3, 24, 24)
    for blur in (IsoGaussian(1.8), AnisoGaussian(2.0, 1.0, 0.5)):
        ones = classic(blur, 4, 10.0)(hr, generator('cpu', 1))
        levels = classic(blur, 4, 10.0)(hr * 255, generator('cpu', 1), rgb_range=255)
        assert all(same_levels(a * 255, b, rgb_range=255) for a, b in zip(ones, levels, strict=True))


def test_outputs_are_8_bit():
    for rgb_range in (1, 255):
        for result in classic(ISO, 2)(image(1, 3, 8, 8) * rgb_range, rgb_range=rgb_range):
            levels = result * (255 / rgb_range)
            assert torch.allclose(levels, levels.round(), atol=1e-4) and levels.min() >= 0 and levels.max() <= 255


def test_noise_has_its_level_and_up_is_computed_before_rounding():
    hr = torch.full((2, 3, 256, 256), 0.5)
    lq, up = classic(IsoGaussian(0.0), 4, torch.tensor([0.0, 10.0]))(hr, generator('cpu', 'noise'))
    assert (lq[0] == quantize(hr[0, :, ::4, ::4])).all()
    noise = (lq[1] - 0.5) * 255
    assert noise.std().item() == pytest.approx(math.hypot(10, 12 ** -0.5), rel=0.03)
    assert abs(noise.mean().item()) < 0.5
    assert abs(torch.corrcoef(noise.flatten(1))[0, 1].item()) < 0.05  # independent in each channel
    assert not same_levels(up, quantize(resize(lq, 4, downsample=False)))


def test_noise_depends_on_the_generator_alone():
    hr, degradation = image(1, 3, 16, 16), classic(IsoGaussian(1.0), 4, 20.0)
    torch.manual_seed(0)
    first = degradation(hr, generator('cpu', 7))
    torch.manual_seed(1)
    again, other = (degradation(hr, generator('cpu', seed)) for seed in (7, 8))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1]) and not torch.equal(first[0], other[0])
    with pytest.raises(ValueError, match='generator'):
        degradation(hr)


def test_without_noise_and_ranges_the_generator_is_not_used():
    draw = generator('cpu', 3)
    before = draw.get_state()
    classic(ISO, 4)(image(1, 3, 16, 16), draw)
    assert torch.equal(before, draw.get_state())
    with pytest.raises(ValueError, match='generator'):
        classic(IsoGaussian(SPREAD), 4)(image(1, 3, 16, 16))


def test_hr_is_not_changed():
    for steps in ([Round()], [Downsample(1), Round()], [Noise(5.0), Round()]):
        hr = image(1, 3, 16, 16)
        before = hr.clone()
        Pipeline('mine', 1, tuple(steps))(hr, generator('cpu', 0))
        assert torch.equal(hr, before)


def test_sides_must_be_multiples_of_the_scale():
    for shape in [(1, 3, 16, 18), (1, 3, 18, 16)]:
        with pytest.raises(ValueError, match='multiples of scale 4'):
            classic(ISO, 4)(image(*shape))


def test_autocast_and_inference_mode_change_nothing():
    hr = image(1, 3, 44, 52)  # sizes that no other test uses, so that the cached matrices are computed here
    with torch.inference_mode():
        inference = classic(ISO, 4)(hr)
    for blur in (ISO, ANISO):
        plain = classic(blur, 4)(hr)
        with torch.autocast('cpu', torch.bfloat16):
            cast = classic(blur, 4)(hr)
            small = resize(hr, 4, downsample=True)
        assert all(torch.equal(a, b) for a, b in zip(plain, cast, strict=True))
        assert torch.equal(small, resize(hr, 4, downsample=True))
    assert torch.equal(inference[0], classic(ISO, 4)(hr)[0])
    hr.requires_grad_()
    resize(hr, 4, downsample=True).sum().backward()
    assert hr.grad.sum().item() == pytest.approx(11 * 13 * 3, rel=1e-4)


def test_samples_cover_their_ranges():
    draw = generator('cpu', 0)
    sigma = IsoGaussian(SPREAD).draw(draw, 2000)[0].sigma
    drawn = classic(AnisoGaussian(SPREAD, SPREAD, (0.0, math.pi)), 4, (0.0, 25.0)).draw(draw, 2000)
    blur, noise = drawn.find(Blur), drawn.find(Noise)
    for values, low, high in [(sigma, 0.2, 4.0), (blur.lambda_1, 0.2, 4.0), (blur.lambda_2, 0.2, 4.0),
                              (blur.theta, 0, math.pi), (noise.level, 0, 25)]:
        margin = 0.01 * (high - low)
        assert low <= values.min() < low + margin and high - margin < values.max() <= high
        assert values.mean().item() == pytest.approx((low + high) / 2, rel=0.05)
    draws = torch.stack([blur.lambda_1, blur.lambda_2, blur.theta, noise.level])
    assert torch.corrcoef(draws).triu(1).abs().max() < 0.1  # independent of each other


def test_sampling_is_reproducible():
    random = classic(AnisoGaussian(SPREAD, SPREAD, (0.0, math.pi)), 4, (0.0, 25.0))
    a, b, c = (random.draw(generator('cpu', seed)) for seed in (5, 5, 6))
    assert str(a) == str(b) != str(c) and a.find(Blur).theta.shape == (1,)


@dataclass(frozen=True)
class Darker(Step, name='darker'):
    """A minimal step: its parameter is shared by all images of a call."""
    factor: Value = (0.2, 0.9)

    def __call__(self, image, context):
        return image * self.factor


def test_step_with_shared_parameters_is_sampled_per_image():
    hr, random = torch.ones(3, 3, 8, 8), bicubic(4).then(Darker(), name='mine')
    lq, _ = random(hr, generator('cpu', 1), per_sample=True)
    assert len({each.mean().item() for each in lq}) == 3
    lq, _ = random(hr, generator('cpu', 1))
    assert len({each.mean().item() for each in lq}) == 1


@pytest.mark.parametrize('degradation', [
    classic(IsoGaussian(2.6), 4), classic(AnisoGaussian(3.5, 1.5, math.radians(20), 15), 3, 10.0, 's-fold'),
    classic(IsoGaussian(SPREAD), 2, (0.0, 25.0)), classic(AnisoGaussian(SPREAD, SPREAD, (0.0, math.pi)), 4),
    bicubic(4).then(Darker(), name='mine')], ids=str)
def test_dicts_are_json_and_exact(degradation):
    written = json.dumps(degradation.to_dict())
    assert Pipeline.from_dict(json.loads(written)) == degradation
    drawn = degradation.draw(generator('cpu', 3))
    assert Pipeline.from_dict(json.loads(json.dumps(drawn.to_dict()))).to_dict() == drawn.to_dict()


def test_sampled_degradation_is_reproduced_from_its_dict():
    hr, random = image(1, 3, 48, 48), classic(AnisoGaussian(SPREAD, SPREAD, (0.0, math.pi)), 4, (0.0, 25.0))
    drawn = random.draw(generator('cpu', 3))
    again = Pipeline.from_dict(drawn.to_dict())
    assert all(torch.equal(a, b) for a, b in zip(drawn(hr, generator('cpu', 1)), again(hr, generator('cpu', 1)),
                                                 strict=True))


@pytest.mark.parametrize('change', [{'steps': [{'step': 'sharpen'}]}, {'steps': [{'step': 'noise', 'amount': 3}]},
                                    {'steps': []}, {'steps': 3}, {'steps': ['noise']}, {'scale': None, 'steps': None}])
def test_unknown_dicts_are_refused(change):
    with pytest.raises(UserError) as error:
        Pipeline.from_dict(bicubic(4).to_dict() | change)
    assert '\n' not in str(error.value)


def test_texts():
    assert str(classic(IsoGaussian(2.6), 4)) == 'sigma 2.6, noise 0'
    aniso = classic(AnisoGaussian(3.5, 1.5, math.radians(20)), 4, 10.0)
    assert str(aniso) == 'lambda 3.5/1.5, theta 20, noise 10' and aniso.setting == '21x21 kernel, bicubic x1/4'
    assert aniso.columns() == ('lambda 3.5/1.5, theta 20', 10.0)
    assert str(bicubic(4).then(Darker(0.5), name='mine')) == 'sigma 0, noise 0, darker 0.5'
    assert str(bicubic(4).then(Darker(), name='mine')) == 'sigma 0, noise 0, darker 0.2-0.9'


def test_last_step_must_round():
    with pytest.raises(ValueError, match='Round'):
        Pipeline('mine', 4, (Downsample(4),))
