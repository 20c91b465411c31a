"""--optimizer: each optimiser has its own settings, and its step follows its equation."""
import pytest
import torch

from optim.update import make_optimizer
from option import parse

FLAGS = '--stage 1 --lr_sr 0.1 --beta1 0.8 --beta2 0.9 --momentum 0.7 --epsilon 0.001 --weight_decay 0.01 --optimizer '


@pytest.mark.parametrize('name, kind, settings', [
    ('ADAM', torch.optim.Adam, {'betas': (0.8, 0.9), 'eps': 0.001}), ('SGD', torch.optim.SGD, {'momentum': 0.7}),
    ('RMSprop', torch.optim.RMSprop, {'eps': 0.001})])
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
