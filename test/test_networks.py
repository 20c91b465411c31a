"""Networks: published keys, shapes, numbers of parameters and outputs, at every scale."""
import goldens
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from model import build, common, kdsr, mrda
from model.common import Blocks, DynamicConv
from model.mln import MLN
from model.rdan import RDABlock
from option import parse

LQ, UP = ((2, 3, 12, 16), (2, 3, 48, 64))
KEYS = goldens.keys()
NETWORKS = {'mln': (lambda: MLN(128, 4), 2_073_219),
            'mrda_teacher': (lambda: mrda.teacher(4), 5_910_737),
            'mrda_student': (lambda: mrda.student(4), 5_838_737)}


@pytest.mark.parametrize('name', NETWORKS)
def test_published_state_dict(name):
    make, count = NETWORKS[name]
    net = make()
    assert {key: list(tensor.shape) for key, tensor in net.state_dict().items()} == KEYS[name]
    assert sum(p.numel() for p in net.parameters()) == count


@pytest.fixture(scope='module')
def golden():
    return goldens.load('mrda')


@torch.no_grad()
def test_mln_matches_golden(golden):
    sr, features = goldens.fill(MLN(128, 4))(goldens.smooth('lr', LQ), goldens.smooth('up', UP))
    assert goldens.close(goldens.thinned(sr), golden['mln_sr'])
    assert goldens.close(features[:, golden['channels']], golden['mln_feat'])


@torch.no_grad()
def test_teacher_and_student_match_goldens(golden):
    lq = goldens.smooth('lr', LQ)
    _, features = goldens.fill(MLN(128, 4))(lq)
    for name, net, cue in (('ta', mrda.teacher(4), features), ('st', mrda.student(4), None)):
        sr, feature = goldens.fill(net)(lq, cue)
        assert goldens.close(goldens.thinned(sr), golden[f'{name}_sr'])
        assert goldens.close(feature, golden[f'{name}_fea'])


@pytest.mark.parametrize('scale', [2, 3, 4])
@torch.no_grad()
def test_shapes(scale):
    lq, up = torch.rand(2, 3, 9, 7), torch.rand(2, 3, 9 * scale, 7 * scale)
    sr, features = MLN(8, scale)(lq, up)
    assert sr.shape == up.shape and features.shape == (2, 8, 9, 7)
    for net, cue in ((mrda.teacher(scale, n_feats=8, n_blocks=1), features), (mrda.student(scale, n_blocks=1), None)):
        sr, feature = net(lq, cue)
        assert sr.shape == up.shape and feature.shape == (2, 256)


@torch.no_grad()
def test_rgb_range_only_scales_the_colours():
    lq = torch.rand(1, 3, 8, 8)
    nets = [goldens.fill(mrda.student(2, n_blocks=1, rgb_range=rgb_range)) for rgb_range in (1, 255)]
    assert nets[1].G.sub_mean(lq * 255).allclose(nets[0].G.sub_mean(lq) * 255, atol=1e-4)


def test_every_trained_weight_has_a_gradient():
    net = mrda.student(2, n_blocks=2)
    sr, _ = net(torch.rand(2, 3, 8, 8))
    sr.square().mean().backward()
    still = [name for name, p in net.named_parameters() if p.requires_grad and not p.grad.abs().sum() > 0]
    assert still == []


class Block(nn.Module):
    """A block with a given number of dynamic convolutions, and dropout."""

    def __init__(self, n_convs):
        super().__init__()
        self.convs = nn.ModuleList(DynamicConv(4) for _ in range(n_convs))
        self.drop, self.conv = nn.Dropout(0.5), nn.Conv2d(4, 4, 1)

    def forward(self, x, kernels):
        for conv, kernel in zip(self.convs, kernels, strict=True):
            x = conv(x, kernel)
        return self.conv(self.drop(x)) + x


def test_blocks_may_have_any_number_of_dynamic_convolutions():
    x, z = torch.rand(2, 4, 5, 6), torch.rand(2, 4)
    for counts in (0, 2, 1), (0, 0):
        assert Blocks(Block(n) for n in counts).eval()(x, z).shape == x.shape


def test_recomputed_dropout_gives_the_gradient_of_the_loss():
    """The recomputed block has the same dropout mask, so its gradient is that of the first pass."""
    chain, z = Blocks([Block(1), Block(0)]), torch.rand(1, 4)
    x = torch.rand(1, 4, 5, 5, requires_grad=True)

    def gradient(compute):
        torch.manual_seed(3)
        return torch.autograd.grad(compute().square().sum(), [x, *chain.parameters()])

    def as_written():
        first, second = chain.body
        kernel = first.convs[0].kernel(z).view(1, 4, 1, 3, 3)
        return second(first(x, kernel), [])

    torch.testing.assert_close(gradient(lambda: chain(x, z)), gradient(as_written))


@pytest.mark.parametrize('make', [lambda: mrda.student(2, n_blocks=3), lambda: kdsr.student(2, 8, 3, 1)])
def test_gradients_are_the_same_whether_activations_are_kept_or_recomputed(make):
    network, lq, gradients = make(), torch.rand(2, 3, 12, 10), []
    chain = network.G.body[0]
    for chain.recompute in (True, False):
        network.zero_grad()
        network(lq)[0].square().mean().backward()
        gradients.append([p.grad.clone() for p in network.parameters() if p.grad is not None])
    assert gradients[0] and all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_gradients_are_the_same_by_a_depthwise_convolution(monkeypatch):
    """The form for GPUs without Triton."""
    block, inputs = RDABlock(8), [torch.rand(2, 8, 6, 7, requires_grad=True), torch.randn(2, 16, 1, 3, 3)]
    inputs[1].requires_grad_()

    def gradients():
        block.zero_grad()
        y = block(*inputs)
        return y.detach(), *torch.autograd.grad(y.square().sum(), [*inputs, *block.parameters()], allow_unused=True)

    expected = gradients()
    monkeypatch.setattr(common.DynamicConv, 'forward', lambda self, x, kernel: F.leaky_relu(
        common.depthwise(x, kernel), common.SLOPE))
    torch.testing.assert_close(gradients(), expected)


def test_recompute_option_reaches_the_blocks():
    for text, expected in ('True', True), ('False', False):
        args = parse(['--stage', '4', '--n_blocks', '1', '--n_feats', '8', '--recompute', text])
        assert build(args, 'student').G.body[0].recompute is expected
