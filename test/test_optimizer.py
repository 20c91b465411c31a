"""--optimizer: each optimiser has its own settings, and its step follows its equation."""
import pytest
import torch

from optim.muon import Muon, is_matrix, orthogonalized
from optim.update import make_optimizer
from option import parse

FLAGS = '--stage 1 --lr_sr 0.1 --beta1 0.8 --beta2 0.9 --momentum 0.7 --epsilon 0.001 --weight_decay 0.01 --optimizer '


@pytest.mark.parametrize('name, kind, settings', [
    ('ADAM', torch.optim.Adam, {'betas': (0.8, 0.9), 'eps': 0.001}), ('SGD', torch.optim.SGD, {'momentum': 0.7}),
    ('RMSprop', torch.optim.RMSprop, {'eps': 0.001}), ('Muon', Muon, {'betas': (0.8, 0.9), 'eps': 0.001})])
def test_settings_are_taken_from_the_options(name, kind, settings):
    optimizer = make_optimizer(parse((FLAGS + name).split()), [torch.nn.Parameter(torch.ones(2))])
    assert type(optimizer) is kind
    group = optimizer.param_groups[0]
    assert {key: group[key] for key in settings} == settings and group['lr'] == 0.1 and group['weight_decay'] == 0.01


def test_rmsprop_step_follows_its_equation():
    """v = 0.01 g², w - lr · g / (sqrt(v) + eps), with g the gradient plus the weight decay's."""
    weight = torch.nn.Parameter(torch.tensor([2.0, -1.0]))
    optimizer = make_optimizer(parse((FLAGS + 'RMSprop').split()), [weight])
    weight.grad = torch.tensor([0.5, -0.25])
    before, g = weight.detach().clone(), weight.grad + 0.01 * weight.detach()
    optimizer.step()
    torch.testing.assert_close(weight.detach(), before - 0.1 * g / ((0.01 * g ** 2).sqrt() + 0.001))


def test_muon_orthogonalizes_matrices_and_steps_like_adam_elsewhere():
    """Wide, tall and square ones, convolutions and small weights, over several steps."""
    generator = torch.Generator().manual_seed(0)
    shapes = (64, 32, 3, 3), (96, 64), (64, 64), (64, 64), (3, 64, 3, 3), (64,)
    weights = [torch.randn(shape, generator=generator) for shape in shapes]
    own = [torch.nn.Parameter(weight.clone()) for weight in weights]
    plain = [torch.nn.Parameter(weight.clone()) for weight in weights[4:]]
    optimizer, adam = Muon(own, lr=0.1), torch.optim.AdamW(plain, lr=0.1)
    momenta = [torch.zeros(shape) for shape in shapes[:4]]
    for _ in range(3):
        before = [weight.detach().clone() for weight in own]
        for weight in own:
            weight.grad = torch.randn(weight.shape, generator=generator)
        for weight, other in zip(plain, own[4:], strict=True):
            weight.grad = other.grad.clone()
        optimizer.step()
        adam.step()
        for weight, old, momentum in zip(own, before, momenta, strict=False):
            assert weight.grad is not None
            momentum.mul_(0.95).add_(weight.grad, alpha=0.05)
            direction = (0.05 * weight.grad + 0.95 * momentum).flatten(1)
            u, _, v = torch.linalg.svd(direction, full_matrices=False)
            step = (old * (1 - 0.1 * 0.01) - weight.detach()).flatten(1) / (0.1 * 0.2 * max(direction.shape) ** 0.5)
            singular = torch.linalg.svdvals(step)
            assert singular.max() < 1.3 and (singular.min() > 0.6 or weight.shape == (64, 64))
            assert torch.nn.functional.cosine_similarity(step.flatten(), (u @ v).flatten(), 0) > 0.97
    assert all(torch.equal(*pair) for pair in zip(own[4:], plain, strict=True))
    assert [is_matrix(weight) for weight in own] == [True] * 4 + [False] * 2


@pytest.mark.skipif(not hasattr(torch.optim, 'Muon'), reason='PyTorch 2.9 or newer has a Muon to compare with')
def test_muon_is_that_of_pytorch():
    """PyTorch's, which is for matrices only and iterates in bfloat16."""
    generator = torch.Generator().manual_seed(0)
    own = torch.nn.Parameter(torch.randn(96, 64, generator=generator))
    other = torch.nn.Parameter(own.detach().clone())
    start = own.detach().clone()
    pair = Muon([own], lr=0.01, weight_decay=0.1), torch.optim.Muon([other], lr=0.01, weight_decay=0.1,
                                                                     adjust_lr_fn='match_rms_adamw')
    for _ in range(5):
        own.grad = torch.randn(own.shape, generator=generator)
        other.grad = own.grad.clone()
        for optimizer in pair:
            optimizer.step()
    assert (own - other).norm() < 0.02 * (own - start).norm()


def test_orthogonalization_bears_zeros_and_any_scale():
    matrices = torch.randn(2, 20, 40, generator=torch.Generator().manual_seed(0))
    matrices[1] = 0
    assert not orthogonalized(matrices)[1].any()
    torch.testing.assert_close(orthogonalized(matrices[:1] * 1e-6), orthogonalized(matrices[:1] * 1e6))
