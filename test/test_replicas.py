"""Replicas of DataParallel, whose weights are plain tensors with a graph to the original's, work like the original."""
import goldens
import pytest
import torch

from model.adapt import adapt, adaptable, first_order, weights_of
from model.mln import MLN
from option import parse
from stages import STAGES


def replicate(net):
    """A replica of a module as of nn.DataParallel on a GPU, here on the CPU."""
    replica = net._replicate_for_data_parallel()
    for name, module in net._modules.items():
        setattr(replica, name, replicate(module))
    for name, p in net._parameters.items():
        setattr(replica, name, None if p is None else p.clone())
    return replica


def test_replica_adapts_and_trains_like_its_original():
    up, hr = (goldens.smooth(name, (2, 3, 48, 64)) for name in ('up', 'hr'))
    pair = goldens.smooth('lr', (2, 3, 12, 16)), up, hr
    mln = adaptable(MLN(8, 4))
    replica = replicate(mln)
    weights, expected = (adapt(net, *pair, [1e-2]) for net in (replica, mln))
    assert weights.keys() == expected.keys() and all(torch.equal(weights[n], expected[n]) for n in weights)
    first_order(weights_of(replica), weights,
                lambda weights: torch.func.functional_call(replica, weights, pair[:2])[0].mean()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in mln.parameters())


@pytest.mark.parametrize('stage', [1, 2, 3, 4])
def test_step_on_a_replica_equals_the_original(stage):
    args = parse(['--stage', str(stage), '--n_feats', '6', '--n_blocks', '2', '--task_iter', '2', '--test_iter', '2',
                  '--meta_batch_size', '2', '--device', 'cpu'])
    original = STAGES[stage](args).place(torch.device('cpu'))
    hr, seeds = torch.rand(4, 3, 32, 32), {torch.device('cpu'): 5}
    gradients = []
    for each in (original, replicate(original)):
        original.zero_grad()
        each(hr, seeds, 'sr')['loss'].sum().backward()
        gradients.append([p.grad for p in original.trained.parameters() if p.requires_grad])
    torch.testing.assert_close(*gradients)
