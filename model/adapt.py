"""Adapting an MLN to one degradation: a few steps of gradient descent, as a pure function of its weights.

An MLN is a module forward(lq, up) → (sr, features): lq (B, 3, h, w), up, the bicubic upsampling of lq, and sr
(B, 3, sh, sw), features (B, C, h, w). Optional attributes:

frozen           prefixes of the names of weights that stage 4 does not adapt
cached()         arguments of forward, {name: value}, that depend on the frozen weights alone: computed once
features_alone   True if forward(lq) computes the features only
"""
from collections.abc import Callable, Sequence
from operator import attrgetter

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.func import functional_call

Weights = dict[str, Tensor]
SCALE = 2.0**15  # loss scaling, against underflow of gradients in half precision; exact in single precision


def step_sizes(n_steps: int) -> list[float]:
    """Step sizes for stages 3 and 4 and for every test: 1e-2, then 5e-3 up to the 5th step, then 1e-3."""
    return [1e-2 if step == 0 else 5e-3 if step < 5 else 1e-3 for step in range(n_steps)]


def adaptable(mln: nn.Module) -> nn.Module:
    """`mln`, whose attribute `adapted` now names the weights to adapt: those that require a gradient. To be called
    before they are frozen and before DataParallel, in whose replicas weights are not parameters."""
    mln.adapted = [name for name, weight in mln.named_parameters() if weight.requires_grad]
    return mln


def weights_of(mln: nn.Module) -> Weights:
    """{name: tensor} of the weights that adaptation changes: all, unless adaptable() has named them."""
    names = getattr(mln, 'adapted', None) or [name for name, _ in mln.named_parameters()]
    return {name: attrgetter(name)(mln) for name in names}


def value_and_gradients(loss_of: Callable[[Weights], Tensor], weights: Weights) -> tuple[Tensor, Weights]:
    """loss_of(weights) and its gradients, {name: tensor}, for weights {name: tensor}; both without a graph."""
    with torch.enable_grad():
        leaves = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
        loss = loss_of(leaves)
        gradients = torch.autograd.grad(loss * SCALE, list(leaves.values()))
    return loss.detach(), {name: gradient / SCALE for name, gradient in zip(leaves, gradients, strict=True)}


def adapt(mln: nn.Module, lq: Tensor, up: Tensor, hr: Tensor, rates: Sequence[float], freeze_tail: bool = False,
          watch: Callable[[Tensor, Tensor], None] | None = None) -> Weights:
    """Gradient descent on L1(mln(lq, up), hr), one step for each of `rates`, from the weights of `mln`.

    mln: not changed; lq (B, 3, h, w), up and hr (B, 3, sh, sw).
    freeze_tail: do not adapt the weights of mln.frozen, as in stage 4.
    watch(sr, loss): called before each step with the current output and loss.
    Returns all weights after the last step, {name: tensor}, without a graph.
    """
    weights = {name: weight.detach() for name, weight in weights_of(mln).items()}
    frozen = getattr(mln, 'frozen', ()) if freeze_tail else ()
    cached = mln.cached() if frozen and hasattr(mln, 'cached') else {}

    def loss_of(moving):
        sr, _ = functional_call(mln, weights | moving, (lq, up), cached)          # (B, 3, sh, sw)
        loss = F.l1_loss(sr, hr)
        if watch:
            watch(sr.detach(), loss.detach())
        return loss

    for rate in rates:
        moving = {name: weight for name, weight in weights.items() if not name.startswith(tuple(frozen))}
        _, gradients = value_and_gradients(loss_of, moving)
        weights |= {name: torch.sub(moving[name], gradient, alpha=rate) for name, gradient in gradients.items()}
    return weights


class _Known(torch.autograd.Function):
    """A loss whose gradients with respect to some weights are already computed."""

    @staticmethod
    def forward(ctx: FunctionCtx, loss: Tensor, gradients: list[Tensor], *weights: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(grad * gradient for gradient in ctx.gradients)


def first_order(weights: Weights, adapted: Weights, loss_of: Callable[[Weights], Tensor]) -> Tensor:
    """loss_of(adapted) as a scalar whose gradient with respect to `weights` is that at `adapted`: first-order MAML.

    Both are {name: tensor}. The gradient is computed immediately, so that no graph is kept over several tasks.
    """
    loss, gradients = value_and_gradients(loss_of, adapted)
    return _Known.apply(loss, [gradients[name] for name in weights], *weights.values())


class AdaptedFeatures(nn.Module):
    """The input of the encoder of MRDA's teacher: the features D'_T of the MLN adapted to the batch."""

    def __init__(self, mln: nn.Module, n_steps: int, freeze_tail: bool) -> None:
        super().__init__()
        self.mln = mln.requires_grad_(False)
        self.rates = step_sizes(n_steps)
        self.freeze_tail = freeze_tail

    @torch.no_grad()
    def forward(self, lq: Tensor, up: Tensor, hr: Tensor) -> Tensor:
        """lq (B, 3, h, w), up and hr (B, 3, sh, sw) → (B, C, h, w), no graph."""
        weights = adapt(self.mln, lq, up, hr, self.rates, self.freeze_tail)
        inputs = (lq,) if getattr(self.mln, 'features_alone', False) else (lq, up)
        return functional_call(self.mln, weights, inputs)[1]   # (B, C, h, w)
