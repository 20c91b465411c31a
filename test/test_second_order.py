"""The degradation of real-world training: kernels equal the published ones, noise and JPEG are correct, sampling
follows the published probabilities, every stage trains on it."""
import json
import math
from collections import Counter

import goldens
import pytest
import torch

from data.degradation import (
    JPEG,
    AnisoGaussian,
    Blur,
    Clamp,
    Context,
    Downsample,
    GeneralisedGaussian,
    IsoGaussian,
    Noise,
    Pipeline,
    Plateau,
    PoissonNoise,
    Resize,
    Sinc,
    mixed_order,
    second_order,
)
from data.degradation.mixed_order import first_order
from data.degradation.second_order import RandomBlur
from reference import method as plain
from store.tensors import load_weights
from utility import generator

GOLDEN = goldens.load('kernels')
KINDS = {'iso': lambda a, b, t, _, n: IsoGaussian(a, n), 'aniso': lambda a, b, t, _, n: AnisoGaussian(a, b, t, n),
         'generalized': GeneralisedGaussian, 'plateau': Plateau}


def named(key):
    """The blur in the name of a golden."""
    if key.startswith('sinc'):
        _, cutoff, size = key.split('_')
        return Sinc(float(cutoff), int(size))
    _, kind, *_, size, sigma_1, sigma_2, theta, beta = key.split('_')
    return KINDS[kind](float(sigma_1), float(sigma_2), float(theta), float(beta), int(size))


def context(image, seed=0, rgb_range=1):
    return Context(generator('cpu', seed), rgb_range, *image.shape[-2:])


def smooth(side=64, n=1):
    coarse = torch.rand(n, 3, side // 8, side // 8, generator=generator('cpu', 'smooth'))
    return torch.nn.functional.interpolate(coarse, (side, side), mode='bilinear')


@pytest.mark.parametrize('key', GOLDEN)
def test_kernels_match_golden(key):
    kernels = named(key).kernels()
    assert kernels.dtype == torch.float64 and kernels.sum().item() == pytest.approx(1)
    assert goldens.close(kernels[0], GOLDEN[key])


def test_every_kernel_is_applied_as_a_correlation_with_reflected_borders():
    image = torch.rand(2, 3, 40, 52)
    for key in GOLDEN:
        made = named(key)
        assert torch.allclose(made(image, context(image)), plain.blur(image, made.kernels()), atol=1e-5)


def test_an_image_smaller_than_the_kernel_is_reflected_repeatedly():
    image = torch.rand(1, 3, 5, 3)
    assert Sinc(2.0)(torch.ones(1, 3, 5, 3), context(image)).allclose(torch.ones(1, 3, 5, 3), atol=1e-5)
    assert IsoGaussian(2.0)(image, context(image)).shape == image.shape


@pytest.mark.parametrize('gray', [False, True])
def test_gaussian_noise(gray):
    flat = torch.full((1, 3, 200, 200), 0.5)
    noise = (Noise(20.0, gray)(flat, context(flat)) - flat) * 255
    assert noise.std().item() == pytest.approx(20, rel=0.03) and abs(noise.mean().item()) < 0.5
    assert torch.corrcoef(noise[0].flatten(1))[0, 1].item() == pytest.approx(float(gray), abs=0.02)


@pytest.mark.parametrize('gray', [False, True])
@pytest.mark.parametrize('rgb_range', [1, 255])
def test_poisson_noise_has_poisson_variance(gray, rgb_range):
    levels = torch.tensor([32.0, 160.0]).repeat(100, 100)                           # two levels: v = 2
    image = (levels / 255)[None, None].repeat(1, 3, 1, 1) * rgb_range
    noise = (PoissonNoise(0.5, gray)(image, context(image, 1, rgb_range)) - image) / rgb_range
    for level in 32, 160:
        part = noise[0][:, levels == level]
        x = level / 255  # luma weights sum to 0.9999, so a gray image keeps its level
        assert part.var().item() == pytest.approx(0.5 ** 2 * x / 2, rel=0.06) and abs(part.mean().item()) < 0.01
        assert torch.corrcoef(part)[0, 1].item() == pytest.approx(float(gray), abs=0.04)


def test_poisson_noise_depends_on_the_levels_of_each_image():
    image = torch.stack([torch.full((3, 64, 64), 0.5), torch.linspace(0, 1, 64).expand(3, 64, 64)])
    noise = PoissonNoise(1.0)(image, context(image)) - image
    assert noise[0].var().item() == pytest.approx(0.5, rel=0.05)                    # one level: v = 1
    assert noise[1].var().item() == pytest.approx(0.5 / 64, rel=0.05)               # 64 levels


def test_jpeg_error_grows_at_lower_quality_and_the_data_range_is_kept():
    image = smooth()
    losses = [(JPEG(quality)(image, context(image)) - image).abs().mean().item() for quality in (30.0, 60.0, 95.0)]
    assert losses == sorted(losses, reverse=True) and 0 < losses[2] < losses[0] < 0.05
    high = JPEG(60.0)(image * 255, context(image, rgb_range=255))
    assert torch.allclose(high / 255, JPEG(60.0)(image, context(image)), atol=1e-6)
    assert torch.equal(high, high.round())
    batch = torch.cat([image, image.flip(3)])
    assert torch.equal(JPEG(50.0)(batch, context(batch))[1:], JPEG(50.0)(batch[1:], context(batch)))


def test_resize_is_relative_to_the_hr_size():
    image = torch.rand(1, 3, 20, 30)
    given = Context(None, 1, 64, 96)
    for mode in 'area', 'bilinear', 'bicubic':
        assert Resize(0.25, mode)(image, given).shape == (1, 3, 16, 24)
    assert Resize(0.001, 'area')(image, given).shape == (1, 3, 1, 1)


def test_sampling_follows_the_published_probabilities():
    random, draw, count = second_order(4), generator('cpu', 'table'), 4000
    found, firsts, seconds = Counter(), [], []
    for _ in range(count):
        steps = random.draw(draw).steps
        first, *_ = steps
        found[type(first).__name__] += 1
        found['rounds blurred'] += 1 + isinstance(steps[5], Blur)
        found['jpeg last'] += isinstance(steps[-2], JPEG)
        found['last sinc'] += any(isinstance(step, Sinc) for step in steps[-3:-1])
        sizes = [step for step in steps if isinstance(step, Resize)]
        firsts.append(sizes[0].factor)
        seconds.append(sizes[1].factor * 4)
        assert sizes[2].factor == 0.25 and len(sizes) == 3
        noises = [step for step in steps if isinstance(step, Noise | PoissonNoise)]
        found['gaussian'] += sum(isinstance(step, Noise) for step in noises)
        found['gray'] += sum(step.gray for step in noises)
        assert len(noises) == sum(isinstance(step, Clamp) for step in steps) == 2
        assert sum(isinstance(step, JPEG) for step in steps) == 2 and all(
            30 <= step.quality <= 95 for step in steps if isinstance(step, JPEG))
    shares = {'IsoGaussian': 0.9 * 0.45, 'AnisoGaussian': 0.9 * 0.25, 'GeneralisedGaussian': 0.9 * 0.15,
              'Plateau': 0.9 * 0.15, 'Sinc': 0.1, 'rounds blurred': 1.8, 'jpeg last': 0.5, 'last sinc': 0.8,
              'gaussian': 1.0, 'gray': 0.8}
    for name, share in shares.items():
        assert found[name] / count == pytest.approx(share, abs=0.035), name
    for factors, up, keep, lowest, highest in (firsts, 0.2, 0.1, 0.15, 1.5), (seconds, 0.3, 0.3, 0.3, 1.2):
        factors = torch.tensor(factors)
        assert (factors > 1).float().mean().item() == pytest.approx(up, abs=0.03)
        assert (factors == 1).float().mean().item() == pytest.approx(keep, abs=0.03)
        assert lowest <= factors.min() < lowest + 0.02 and highest - 0.02 < factors.max() <= highest


def test_blur_parameters_are_in_their_ranges():
    random, draw = RandomBlur((0.2, 3.0)), generator('cpu', 'ranges')
    blurs = [random.draw(draw)[0] for _ in range(4000)]
    assert {each.size for each in blurs} == set(range(7, 22, 2))
    exponents = torch.tensor([each.beta for each in blurs if isinstance(each, GeneralisedGaussian)])
    assert 0.5 <= exponents.min() < 0.6 and 3.8 < exponents.max() <= 4
    assert (exponents < 1).float().mean().item() == pytest.approx(0.5, abs=0.07)
    for each in blurs:
        if isinstance(each, Sinc):
            assert math.pi / (3 if each.size < 13 else 5) <= each.cutoff <= math.pi
        elif isinstance(each, AnisoGaussian):
            assert -math.pi <= each.theta <= math.pi and min(each.lambda_1, each.lambda_2) >= 0.2


def test_images_of_a_batch_share_a_degradation_or_have_their_own():
    flat, random = torch.full((4, 3, 64, 64), 0.4), second_order(4)
    hr = flat + 0.2 * smooth()
    lq, up = random(hr, generator('cpu', 3), per_sample=True)
    assert lq.shape == (4, 3, 16, 16) and up.shape == hr.shape
    alone = [random(each[None], draw) for draw in [generator('cpu', 3)] for each in hr]
    assert all(torch.equal(lq[i:i + 1], alone[i][0]) for i in range(4))  # one after the other, each sampled anew
    shared, _ = random(hr, generator('cpu', 3))
    drawn = random.draw(generator('cpu', 3))
    assert shared.shape == lq.shape and str(random) == 'second_order' and 'jpeg' in str(drawn)


@pytest.mark.parametrize('scale', [2, 3, 4])
@pytest.mark.parametrize('order', [second_order, mixed_order])
def test_same_seed_gives_the_same_images_at_every_size(order, scale):
    random = order(scale)
    for side in scale, 4 * scale, 9 * scale:
        hr = torch.rand(2, 3, side, 2 * side, generator=generator('cpu', side))
        first, again = (random(hr, generator('cpu', 5), per_sample=True) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
        lq, up = first
        assert lq.shape[-1] * scale == up.shape[-1] == 2 * side
        for each in first:
            assert torch.allclose(each * 255, (each * 255).round(), atol=1e-4) and 0 <= each.min() <= each.max() <= 1


def test_mixed_order_draws_both_orders_equally_often():
    draw, found = generator('cpu', 'orders'), Counter()
    for _ in range(1000):
        steps = mixed_order(4).draw(draw).steps
        once = any(isinstance(step, Downsample) for step in steps)
        found['once'] += once
        if once:
            noise = next(step for step in steps if isinstance(step, Noise))
            blur = steps[0]
            assert isinstance(blur, IsoGaussian | AnisoGaussian) and isinstance(steps[1], Downsample)
            assert 0 <= noise.level <= 15 and sum(isinstance(step, JPEG) for step in steps) <= 1
            found['jpeg'] += isinstance(steps[-2], JPEG)
            found['round'] += isinstance(blur, IsoGaussian)
        else:
            assert sum(isinstance(step, JPEG) for step in steps) == 2
    assert found['once'] == pytest.approx(500, abs=50)
    assert found['jpeg'] / found['once'] == pytest.approx(0.75, abs=0.06)
    assert found['round'] / found['once'] == pytest.approx(0.6, abs=0.07)


def test_autocast_changes_nothing():
    hr = smooth(n=2)
    for seed in range(10):
        plain = second_order(4)(hr, generator('cpu', seed), per_sample=True)
        with torch.autocast('cpu', torch.bfloat16):
            cast = second_order(4)(hr, generator('cpu', seed), per_sample=True)
        assert all(torch.equal(a, b) for a, b in zip(plain, cast, strict=True))


@pytest.mark.parametrize('order', [first_order, second_order, mixed_order])
def test_dicts_of_random_and_sampled_pipelines_are_exact(order):
    random = order(4)
    assert Pipeline.from_dict(json.loads(json.dumps(random.to_dict()))) == random
    hr = smooth()
    for seed in range(20):
        drawn = random.draw(generator('cpu', seed))
        again = Pipeline.from_dict(json.loads(json.dumps(drawn.to_dict())))
        assert torch.equal(drawn(hr, generator('cpu', 1))[0], again(hr, generator('cpu', 1))[0])


@pytest.mark.parametrize(('family', 'stage', 'per'), [
    ('mrda', 1, 'sample'), ('mrda', 2, 'batch'), ('kdsr', 3, 'sample')])
def test_stages_train_resume_and_test_on_it(cli, capsys, family, stage, per):
    if stage == 2:
        assert cli('--stage', 1, '--epochs_sr', 1, '--degradation', 'second_order') == 0
    flags = ['--model', family, '--stage', stage, '--degradation', 'second_order', '--degradation_per', per,
             '--n_resblocks', 1]
    assert cli(*flags, '--save', 'whole') == 0
    assert 'second_order; sampled for each image, x1/2' in capsys.readouterr().out
    assert cli(*flags, '--save', 'parts', '--epochs_sr', 1) == 0 and cli(*flags, '--save', 'parts') == 0
    name = ('model_last', 'model_meta_last', 'model_TA_last')[stage - 1]
    whole, parts = (load_weights(f'experiment/{run}_x2_second_order/model/{name}.pt') for run in ('whole', 'parts'))
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
