"""Adaptation is a pure function, equals the public implementation, and has a first-order meta-gradient."""
import copy

import goldens
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from model.adapt import AdaptedFeatures, adapt, adaptable, first_order, step_sizes, weights_of
from model.mln import MLN


@pytest.fixture(scope='module')
def golden():
    return goldens.load('mrda')


@pytest.fixture
def pair():
    up, hr = (goldens.smooth(name, (2, 3, 48, 64)) for name in ('up', 'hr'))
    return goldens.smooth('lr', (2, 3, 12, 16)), up, hr


def test_step_sizes():
    assert step_sizes(7) == [1e-2, 5e-3, 5e-3, 5e-3, 5e-3, 1e-3, 1e-3]


@pytest.mark.parametrize('stage', [3, 4])
def test_losses_and_features_match_golden(golden, pair, stage):
    mln, losses = goldens.fill(MLN(128, 4)), []
    adapt(mln, *pair, step_sizes(7), freeze_tail=stage == 4, watch=lambda sr, loss: losses.append(loss))
    assert goldens.close(torch.stack(losses), golden[f'adapt{stage}_losses'])
    moved = AdaptedFeatures(mln, 7, freeze_tail=stage == 4)(*pair) - mln(pair[0])[1]
    assert goldens.close(moved[:, golden['channels']], golden[f'adapt{stage}_feat7_minus_feat0'])


@pytest.mark.parametrize('freeze_tail', [False, True])
def test_adaptation_does_not_change_the_network(pair, freeze_tail):
    mln = MLN(8, 4)
    before = copy.deepcopy(mln.state_dict())
    weights = adapt(mln, *pair, [1e-2] * 2, freeze_tail)
    assert all(torch.equal(before[name], weight) for name, weight in mln.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in mln.parameters())
    moved = {name for name, weight in weights.items() if not torch.equal(weight, before[name])}
    assert moved == {name for name in before if not (freeze_tail and name.startswith('tail'))}
    assert not any(weight.requires_grad for weight in weights.values())


def test_first_order_meta_gradient_matches_golden(golden):
    mln, losses = goldens.fill(MLN(16, 4)), []

    def images(*names):
        return [goldens.smooth(name, (2, 3, 6, 8) if i == 0 else (2, 3, 24, 32)) for i, name in enumerate(names)]

    for task in range(2):
        support = images(f'q{task}', f'qu{task}', 'qh')
        adapted = adapt(mln, *support, [1e-2] * 3, watch=lambda sr, loss: losses.append(loss))
        lq, up, hr = images(f's{task}', f'su{task}', 'sh')
        outer = first_order(weights_of(mln), adapted, lambda weights, lq=lq, up=up, hr=hr: F.l1_loss(
            torch.func.functional_call(mln, weights, (lq, up))[0], hr))
        (outer / 2).backward()
        losses.append(outer.detach())
    assert goldens.close(torch.stack(losses), golden['meta_losses'])
    for name, p in mln.named_parameters():
        assert goldens.close(p.grad[::goldens.THIN], golden[f'metagrad/{name}']), name


class AnotherMLN(nn.Module):
    """An MLN with forward and parameters only: one shared under two names, one fixed."""

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(3, 3, 3, padding=1)
        self.twin = self.body
        self.fixed = nn.Parameter(torch.ones(()), requires_grad=False)

    def forward(self, lq, up):
        features = self.twin(self.body(lq)) * self.fixed
        return F.interpolate(features, scale_factor=4) + up, features


@pytest.mark.parametrize('freeze_tail', [False, True])
def test_any_module_with_this_forward_can_be_adapted(pair, freeze_tail):
    mln, sgd = adaptable(AnotherMLN()), AnotherMLN()
    sgd.load_state_dict(mln.state_dict())
    for rate in step_sizes(3):
        sgd.zero_grad()
        F.l1_loss(sgd(*pair[:2])[0], pair[2]).backward()
        torch.optim.SGD(sgd.body.parameters(), rate).step()
    features = AdaptedFeatures(mln, 3, freeze_tail)(*pair)
    torch.testing.assert_close(features, sgd(*pair[:2])[1].detach())
    assert weights_of(mln).keys() == {'body.weight', 'body.bias'}
