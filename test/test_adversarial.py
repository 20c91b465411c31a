"""Discriminator, GAN loss and perceptual loss: published keys and outputs, equations, missing weights."""
import sys

import goldens
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from loss import Loss
from loss.adversarial import gan_loss
from loss.perceptual import MEAN, STD
from model.discriminator import UNetDiscriminator
from utility import UserError

KEYS = goldens.keys()
LAYERS = {'2': 0.1, '7': 0.1, '16': 1.0, '25': 1.0, '34': 1.0}


def fill(discriminator):
    """Golden weights; u and v of spectral normalisation: the first singular vectors, u's largest entry positive."""
    goldens.fill(discriminator)
    for key, weight in discriminator.state_dict().items():
        if key.endswith('weight_orig'):
            left, _, right = np.linalg.svd(weight.flatten(1).double().numpy(), full_matrices=False)
            u, v = left[:, 0], right[0]
            sign = np.sign(u[np.abs(u).argmax()])
            module = discriminator.get_submodule(key.rpartition('.')[0])
            module.weight_u.copy_(torch.from_numpy(u * sign))
            module.weight_v.copy_(torch.from_numpy(v * sign))
    return discriminator.eval()


def test_discriminator_has_the_published_state_dict():
    discriminator = UNetDiscriminator()
    assert {key: list(tensor.shape) for key, tensor in discriminator.state_dict().items()} == KEYS['unet_discriminator']
    assert sum(p.numel() for p in discriminator.parameters()) == 4_376_897


def test_discriminator_and_gan_loss_match_goldens():
    golden, discriminator = goldens.load('kdsr_real'), fill(UNetDiscriminator())
    hr = goldens.smooth('hr', (2, 3, 48, 64)).requires_grad_()
    logits = discriminator(hr)
    assert goldens.close(goldens.thinned(logits.detach()), golden['discriminator'])
    loss = gan_loss(logits, real=True)
    assert goldens.close(loss.detach(), golden['gan_loss'])
    gradient, = torch.autograd.grad(loss, hr)
    assert goldens.close(goldens.thinned(gradient), golden['gan_grad'])


def test_gan_loss_is_binary_cross_entropy():
    logits = torch.randn(2, 1, 3, 4)
    assert gan_loss(logits, real=True).allclose(-logits.sigmoid().log().mean())
    assert gan_loss(logits, real=False).allclose(-(1 - logits.sigmoid()).log().mean())


@pytest.mark.parametrize('size', [(8, 8), (17, 30), (9, 21)])
def test_discriminator_takes_any_size_and_every_weight_has_a_gradient(size):
    discriminator = UNetDiscriminator(8)
    logits = discriminator(torch.rand(2, 3, *size))
    assert logits.shape == (2, 1, *size)
    logits.square().mean().backward()
    assert all(p.grad.abs().sum() > 0 for p in discriminator.parameters())


def test_spectral_norm_of_each_inner_convolution_is_one():
    discriminator = UNetDiscriminator(8)
    for _ in range(50):
        discriminator(torch.rand(1, 3, 8, 8))
    for i in range(1, 9):
        assert torch.linalg.matrix_norm(discriminator.get_submodule(f'conv{i}').weight.flatten(1), 2) < 1.02


@pytest.fixture
def random_weights(monkeypatch):
    """Random weights in place of what torchvision would download."""
    models = pytest.importorskip('torchvision.models')
    monkeypatch.setattr(models.VGG19_Weights, 'get_state_dict', lambda *_, **__: models.vgg19().state_dict())


def features(layers, image):
    """{layer: features before ReLU} of an image in [0, 1], computed directly."""
    x, found = (image - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1), {}
    for name, layer in layers.named_children():
        x = F.relu(x) if isinstance(layer, torch.nn.ReLU) else layer(x)
        found[name] = x
    return found


@pytest.mark.parametrize('rgb_range', [1, 255])
def test_perceptual_loss_is_the_weighted_distance_of_five_feature_maps(random_weights, rgb_range):
    loss, sr, hr = Loss('Perceptual', rgb_range), torch.rand(1, 3, 32, 32, requires_grad=True), torch.rand(1, 3, 32, 32)
    layers = loss.terms['Perceptual'].features
    assert [type(layers[int(name)]) for name in LAYERS] == [torch.nn.Conv2d] * 5 and len(layers) == 35
    found, wanted = features(layers, sr), features(layers, hr)
    expected = sum(weight * (found[name] - wanted[name]).abs().mean() for name, weight in LAYERS.items())
    value = loss(sr * rgb_range, hr * rgb_range)['loss']
    torch.testing.assert_close(value, expected)
    value.backward()
    assert sr.grad.abs().sum() > 0 and not loss.state_dict() and loss(hr, hr)['loss'] == 0


def test_missing_weights_or_package_are_reported_in_one_line(monkeypatch, tmp_path):
    models = pytest.importorskip('torchvision.models')

    def no_network(*_, **__):
        raise OSError('Name or service not known')

    monkeypatch.setattr(models.VGG19_Weights, 'get_state_dict', no_network)
    with pytest.raises(UserError, match=r'VGG-19 are missing \(Name.*https://.*vgg19-dcbb9e9d\.pth to ') as error:
        Loss('L1+0.1*Perceptual')
    assert '\n' not in str(error.value)
    monkeypatch.setitem(sys.modules, 'torchvision.models', None)
    with pytest.raises(UserError, match='torchvision is missing'):
        Loss('Perceptual')
