"""The syntax of --loss, losses with networks inside, and the distillation terms."""
import goldens
import pytest
import torch
import torch.nn.functional as F
from conftest import SMALL
from torch import nn

from loss import LOSSES, Loss
from loss.distillation import kl_divergence
from option import parse
from stages import STAGES
from utility import UserError


class Features(nn.Module):
    """A loss with a network inside that has weights, a buffer and dropout."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))

    def forward(self, sr, hr):
        return F.l1_loss(self.net(sr / self.rgb_range), self.net(hr / self.rgb_range))


class Learned(nn.Module):
    """A loss with a trained weight."""
    keeps_state = True

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, sr, hr):
        return self.scale * F.l1_loss(sr, hr)


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    monkeypatch.setitem(LOSSES, 'Features', Features)
    monkeypatch.setitem(LOSSES, 'Learned', Learned)


def pair():
    return torch.rand(2, 3, 8, 8, requires_grad=True), torch.rand(2, 3, 8, 8)


def test_loss_is_the_weighted_sum_of_named_terms():
    sr, hr = pair()
    for text in '1*L1', 'L1', '0.5*L1+0.5*L1':
        assert Loss(text)(sr, hr) == {'loss': F.l1_loss(sr, hr)}
    losses = Loss('0.5*L1+2*MSE')(sr, hr)
    assert list(losses) == ['loss', 'L1', 'MSE']
    assert losses['loss'].allclose(0.5 * F.l1_loss(sr, hr) + 2 * F.mse_loss(sr, hr))
    assert losses['L1'] == F.l1_loss(sr, hr) and losses['MSE'] == F.mse_loss(sr, hr)


@pytest.mark.parametrize('text', ['1*L7', 'x*L1', '', '1*L1+', '1*', 'nan*L1', 'inf*MSE'])
def test_unknown_terms_are_refused_by_name(text):
    with pytest.raises(UserError, match='--loss'):
        Loss(text)


def test_network_in_a_loss_is_frozen_and_in_no_state_dict():
    random = torch.random.get_rng_state()
    loss = Loss('L1+0.1*Features', rgb_range=255)
    assert torch.equal(torch.random.get_rng_state(), random)
    net = loss.terms['Features']
    assert not loss.state_dict() and not any(p.requires_grad for p in net.parameters())
    assert not any(module.training for module in net.modules())
    before = {name: tensor.clone() for name, tensor in (*net.named_parameters(), *net.named_buffers())}
    assert len(before) == 7
    sr, hr = pair()
    losses = loss(sr, hr)
    losses['loss'].backward()
    assert sr.grad.abs().sum() > 0 and torch.equal(losses['Features'], loss(sr, hr)['Features'])
    loss.load_state_dict({})
    again = Loss('Features').terms['Features']
    for module in net, again:
        assert all(torch.equal(tensor, before[name]) for name, tensor in (*module.named_parameters(),
                                                                          *module.named_buffers()))
    assert all(tensor.is_meta for tensor in (*loss.to('meta').parameters(), *loss.buffers()))


def test_loss_with_keeps_state_is_saved():
    loss = Loss('L1+Learned')
    assert list(loss.state_dict()) == ['terms.Learned.scale'] and loss.terms['Learned'].scale.requires_grad


@pytest.mark.parametrize('number', STAGES)
def test_every_stage_logs_each_term_and_saves_none_of_its_networks(number):
    args = parse([*SMALL, '--stage', str(number), '--loss', 'L1+0.5*Features'])
    stage = STAGES[number](args)
    stage.begin_epoch(args.epochs_encoder + 1)
    stage.train()
    assert not any(module.training for module in stage.loss.modules())
    losses = stage(torch.rand(4, 3, 24, 24), {torch.device('cpu'): 1}, 'sr')
    whole = losses['SR' if number >= 4 else 'loss']
    assert whole.allclose(losses['L1'] + 0.5 * losses['Features']) and losses['Features'] > 0
    assert not any('loss' in key for key in stage.state_dict())
    losses['loss'].sum().backward()
    assert all(p.grad is not None for p in stage.trained.parameters() if p.requires_grad)


def test_distillation_matches_goldens():
    golden = goldens.load('mrda')
    assert goldens.close(kl_divergence(golden['st_fea'], golden['ta_fea'], 0.15), golden['kd_kl'])
    assert goldens.close(F.l1_loss(golden['st_fea'], golden['ta_fea']), golden['kd_l1'])


def test_divergence_of_equal_features_is_zero():
    feature = torch.randn(3, 8)
    assert kl_divergence(feature, feature, 0.15).abs() < 1e-6
