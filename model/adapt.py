"""Adapting MLN to one degradation: a few steps of gradient descent, as a pure function of its weights."""
from operator import attrgetter

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

SCALE = 2.0**15  # of the loss while gradients are computed: in half precision they would vanish. Otherwise exact


def step_sizes(n_steps):
    """Step sizes for stages 3 and 4 and for every test: 1e-2, then 5e-3 up to the 5th step, then 1e-3."""
    return [1e-2 if step == 0 else 5e-3 if step < 5 else 1e-3 for step in range(n_steps)]


def weights_of(net):
    """{name: tensor} of an MLN; on a DataParallel replica too, whose weights are no parameters any more."""
    return {name: attrgetter(name)(net) for name in net.weight_names}


def value_and_gradients(loss_of, weights):
    """loss_of(weights) and its gradients, {name: tensor}, for weights {name: tensor}; neither has a graph."""
    with torch.enable_grad():
        leaves = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
        loss = loss_of(leaves)
        gradients = torch.autograd.grad(loss * SCALE, list(leaves.values()))
    return loss.detach(), {name: gradient / SCALE for name, gradient in zip(leaves, gradients, strict=True)}


def adapt(net, lq, up, hr, rates, freeze_tail=False, watch=None):
    """Gradient descent on L1(net(lq, up), hr), one step for each of `rates`, from the weights of `net`.

    net: an MLN, which is never changed; lq (B, 3, h, w), up and hr (B, 3, sh, sw).
    freeze_tail: only head and body move, as in stage 4.
    watch(sr, loss): called before each step with what the weights give so far.
    Returns new weights {name: tensor}, all of them, without a graph.
    """
    weights = {name: weight.detach() for name, weight in weights_of(net).items()}
    fused = net.tail.rested() if freeze_tail else None

    def loss_of(moving):
        sr, _ = functional_call(net, weights | moving, (lq, up, fused))           # (B, 3, sh, sw)
        loss = F.l1_loss(sr, hr)
        if watch:
            watch(sr.detach(), loss.detach())
        return loss

    for rate in rates:
        moving = {name: weight for name, weight in weights.items() if not (freeze_tail and name.startswith('tail.'))}
        _, gradients = value_and_gradients(loss_of, moving)
        weights |= {name: torch.sub(moving[name], gradient, alpha=rate) for name, gradient in gradients.items()}
    return weights


class _Known(torch.autograd.Function):
    """A loss whose gradients towards some weights are known already."""

    @staticmethod
    def forward(ctx, loss, gradients, *weights):
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx, grad):
        return None, None, *(grad * gradient for gradient in ctx.gradients)


def first_order(weights, adapted, loss_of):
    """loss_of(adapted) as a scalar that hands its gradient at `adapted` on to `weights`: first-order MAML.

    Both are {name: tensor}. The gradient is computed at once, so that of several tasks no graph waits for the others.
    """
    loss, gradients = value_and_gradients(loss_of, adapted)
    return _Known.apply(loss, [gradients[name] for name in weights], *weights.values())


class AdaptedFeatures(nn.Module):
    """What MRDA's teacher looks at: the features D'_T of an MLN adapted to the batch, which stays as it was."""

    def __init__(self, mln, n_steps, freeze_tail):
        super().__init__()
        self.mln = mln.requires_grad_(False)
        self.rates = step_sizes(n_steps)
        self.freeze_tail = freeze_tail

    @torch.no_grad()
    def forward(self, lq, up, hr):
        """lq (B, 3, h, w), up and hr (B, 3, sh, sw) → (B, C, h, w), no graph."""
        weights = adapt(self.mln, lq, up, hr, self.rates, self.freeze_tail)
        return functional_call(self.mln, weights, (lq,))[1]   # (B, C, h, w)
