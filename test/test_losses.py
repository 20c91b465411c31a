"""The --loss syntax and the distillation terms."""
import goldens
import pytest
import torch
import torch.nn.functional as F

from loss import Loss
from loss.distillation import kl_divergence
from utility import UserError


def test_weighted_sum_of_terms():
    a, b = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    assert Loss('1*L1')(a, b) == F.l1_loss(a, b)
    assert Loss('0.5*L1+2*MSE')(a, b).allclose(0.5 * F.l1_loss(a, b) + 2 * F.mse_loss(a, b))
    assert Loss('MSE')(a, b) == F.mse_loss(a, b)


@pytest.mark.parametrize('text', ['1*L7', 'x*L1', '', '1*L1+', '1*', 'nan*L1', 'inf*MSE'])
def test_unknown_terms_are_refused_by_name(text):
    with pytest.raises(UserError, match='--loss'):
        Loss(text)


def test_distillation_goldens():
    golden = goldens.load('mrda')
    assert goldens.close(kl_divergence(golden['st_fea'], golden['ta_fea'], 0.15), golden['kd_kl'])
    assert goldens.close(F.l1_loss(golden['st_fea'], golden['ta_fea']), golden['kd_l1'])


def test_divergence_of_equals_is_zero():
    feature = torch.randn(3, 8)
    assert kl_divergence(feature, feature, 0.15).abs() < 1e-6
