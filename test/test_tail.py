"""The fused tail equals the separate layers: values, gradients, borders, dtypes, ways of calling, and its cost."""
import copy

import pytest
import torch
import torch._dynamo  # PyTorch 2.3 needs it inside torch.func.grad, and cannot import it there
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from model.tail import Tail
from utility import UserError


def make(scale=4, n_feats=6, size=(5, 6), dtype=torch.float64):
    """A tail, features and a gradient for its output; biases are scaled up, so that an error is visible."""
    torch.manual_seed(scale)
    tail = Tail(n_feats, scale).to(dtype)
    for name, parameter in tail.named_parameters():
        if name.endswith('bias'):
            nn.init.normal_(parameter)
    x = torch.randn(2, n_feats, *size, dtype=dtype, requires_grad=True)
    return tail, x, torch.randn(2, 3, *(scale * n for n in size), dtype=dtype)


def outcome(f, x, grad, weights):
    """f(x), and the gradients of <f(x), grad> with respect to x and the weights."""
    y = f(x)
    return [y.detach(), *torch.autograd.grad(y, [x, *weights], grad.to(y.dtype))]


def relative_errors(ours, truth):
    return [((a - b).norm() / b.norm()).item() for a, b in zip(ours, truth, strict=True)]


@pytest.mark.parametrize('scale', [2, 3, 4])
@pytest.mark.parametrize('size', [(3, 3), (3, 7), (5, 4), (6, 3), (12, 16)])
def test_fused_tail_equals_the_layers(scale, size):
    tail, x, grad = make(scale, size=size)
    (ours, *our_grads) = outcome(tail, x, grad, tail.parameters())
    (plain, *plain_grads) = outcome(tail.plain, x, grad, tail.parameters())
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-12)
    torch.testing.assert_close(our_grads, plain_grads, rtol=0, atol=1e-10)


@pytest.mark.parametrize('scale', [2, 3, 4])
def test_float32_error_is_small(scale):
    tail, x, grad = make(scale, n_feats=32, size=(8, 9), dtype=torch.float32)
    ours, plain = (outcome(f, x, grad, tail.parameters()) for f in (tail, tail.plain))
    assert max(relative_errors(ours, plain)) < 1e-5


@pytest.mark.parametrize('scale', [2, 3, 4])
def test_middle_kernel_alone_is_wrong_exactly_at_the_border(scale):
    tail, x, _ = make(scale)
    fused = tail.fuse()
    middle = F.conv2d(x, fused.kernels[1][1], fused.biases[1][1], padding=2)
    wrong = (F.pixel_unshuffle(tail.plain(x), scale) - middle).abs().amax((0, 1)) > 1e-6
    assert not wrong[1:-1, 1:-1].any()
    assert wrong[[0, -1]].all() and wrong[:, [0, -1]].all()


@pytest.mark.parametrize('scale', [2, 3, 4])
def test_support_is_5x5(scale):
    tail, x, _ = make(scale, size=(9, 9))
    block = tail.plain(x)[..., 4 * scale:5 * scale, 4 * scale:5 * scale]
    seen = torch.autograd.grad(block.square().sum(), x)[0].abs().amax((0, 1)) > 0
    expected = torch.zeros(9, 9, dtype=torch.bool)
    expected[2:7, 2:7] = True
    assert torch.equal(seen, expected)


@pytest.mark.parametrize('size', [(1, 1), (2, 5), (5, 2)])
def test_tiny_images(size):
    tail, x, _ = make(size=size)
    assert torch.equal(tail(x), tail.plain(x))
    assert torch.equal(tail(x, tail.fuse()), tail.plain(x))


def test_frozen_tail_is_fused_once(monkeypatch):
    tail, x, grad = make()
    with torch.no_grad():
        fused = tail.fuse()
    expected = outcome(tail.plain, x, grad, [])
    monkeypatch.delattr(Tail, 'fuse')
    torch.testing.assert_close(outcome(lambda x: tail(x, fused), x, grad, []), expected)
    assert not tail(x.detach(), fused).requires_grad


def test_fused_tail_is_cached_until_a_weight_changes(monkeypatch):
    tail, x, _ = make()
    tail.requires_grad_(False)
    fused = []
    fuse = Tail.fuse
    monkeypatch.setattr(Tail, 'fuse', lambda self: fused.append(self) or fuse(self))

    def times():
        torch.testing.assert_close(tail(x), tail.plain(x))
        return len(fused)

    with torch.inference_mode():
        first = tail(x.detach())
    assert first.isfinite().all() and times() == times() == 1
    tail[1].weight.mul_(2)
    assert times() == times() == 2
    tail.load_state_dict(make(4)[0].state_dict())
    assert times() == times() == 3
    other = {name: torch.randn_like(weight) for name, weight in tail.named_parameters()}
    torch.testing.assert_close(functional_call(tail, other, (x,)), functional_call(copy.deepcopy(tail), other, (x,)))
    assert copy.deepcopy(tail)(x).equal(tail(x))
    tail.float()
    torch.testing.assert_close(tail(x.float()), tail.plain(x.float()))
    tail.requires_grad_()
    count = len(fused)
    assert tail(x.float()).requires_grad and tail(x.float()).requires_grad and len(fused) == count + 2


def test_functional_call():
    tail, x, grad = make()
    other = {name: torch.randn_like(weight, requires_grad=True) / 9 for name, weight in tail.named_parameters()}
    ours = outcome(lambda x: functional_call(tail, other, (x,)), x, grad, other.values())
    substituted = copy.deepcopy(tail)
    substituted.load_state_dict(other)
    torch.testing.assert_close(ours, outcome(substituted.plain, x, grad, substituted.parameters()))

    def loss(weights, x):
        return (functional_call(tail, weights, (x,)) * grad).sum()

    weights_grad, x_grad = torch.func.grad(loss, (0, 1))({k: v.detach() for k, v in other.items()}, x.detach())
    torch.testing.assert_close([x_grad, *weights_grad.values()], ours[1:])


def test_weights_can_be_plain_attributes():
    """As in the replicas of DataParallel."""
    tail, x, grad = make()
    expected = outcome(tail.plain, x, grad, tail.parameters())
    weights = []
    for conv in (tail[0][0], tail[0][2], tail[1]):
        for name in ('weight', 'bias'):
            weights.append(getattr(conv, name).detach().clone().requires_grad_())
            delattr(conv, name)
            setattr(conv, name, weights[-1] * 1)
    assert not list(tail.parameters())
    torch.testing.assert_close(outcome(tail, x, grad, weights), expected)


@pytest.mark.parametrize('scale', [2, 3, 4])
def test_bfloat16(scale):
    """Under autocast at least as accurate as the separate layers; with weights in bf16 about as accurate."""
    tail, x, grad = make(scale, n_feats=32, size=(8, 9), dtype=torch.float32)
    exact = copy.deepcopy(tail).double()
    truth = outcome(exact.plain, x.double(), grad.double(), exact.parameters())

    def errors(f, x, weights):
        return sum(relative_errors([t.double() for t in outcome(f, x, grad, weights)], truth))

    with torch.autocast('cpu', torch.bfloat16):
        assert tail(x).dtype == torch.bfloat16
        assert tail.fuse().kernels[1][1].dtype == torch.float32
        assert errors(tail, x, tail.parameters()) < 1.05 * errors(tail.plain, x, tail.parameters())
    half, half_x = copy.deepcopy(tail).bfloat16(), x.detach().bfloat16().requires_grad_()
    assert half(half_x).dtype == torch.bfloat16
    half_errors = [errors(f, half_x, half.parameters()) for f in (half, half.plain)]
    assert half_errors[0] < 1.5 * half_errors[1]


def test_channels_last():
    tail, x, grad = make()
    expected = outcome(tail.plain, x, grad, tail.parameters())
    x = x.detach().to(memory_format=torch.channels_last).requires_grad_()
    torch.testing.assert_close(outcome(tail, x, grad, tail.parameters()), expected)


@pytest.mark.parametrize('scale, shapes', [
    (2, {'0.0': (24, 6), '1': (3, 6)}), (3, {'0.0': (54, 6), '1': (3, 6)}),
    (4, {'0.0': (24, 6), '0.2': (24, 6), '1': (3, 6)})])
def test_published_names(scale, shapes):
    expected = {}
    for name, (out, into) in shapes.items():
        expected |= {f'{name}.weight': (out, into, 3, 3), f'{name}.bias': (out,)}
    assert {name: tuple(weight.shape) for name, weight in Tail(6, scale).state_dict().items()} == expected


@pytest.mark.parametrize('scale', [1, 5, 8, '4'])
def test_other_scales_are_refused(scale):
    with pytest.raises(UserError, match=f'--scale {scale}'):
        Tail(6, scale)


@pytest.mark.parametrize('scale, gain', [(2, 15), (3, 15), (4, 19)])
def test_number_of_multiply_adds(scale, gain):
    """FLOPs for an image of 64x64 at C = 128."""
    tail = Tail(128, scale).to('meta')
    x = torch.empty(1, 128, 64, 64, device='meta')

    def flops(f, *inputs):
        with FlopCounterMode(display=False) as counter:
            f(*inputs)
        return counter.get_total_flops()

    apply = flops(tail, x, tail.fuse())
    assert flops(tail.plain, x) > gain * apply
    assert flops(tail.fuse) < 0.6 * apply
