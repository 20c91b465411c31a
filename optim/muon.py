"""Muon: steps along the orthogonalised momentum of each weight matrix."""
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
SMALLEST = 16  # rows or columns from which weights are a matrix: not the last convolution, biases or slopes
RMS = 0.2  # of a step of a matrix, relative to the learning rate: about that of Adam
ITERATIONS = 5
A, B, C = 3.4445, -4.7750, 2.0315  # of the polynomial A x + B x^3 + C x^5, which moves singular values to 0.7-1.2


class Muon(torch.optim.AdamW):
    """Muon for weight matrices, convolutions as (out, in * kh * kw), and Adam for all other parameters.

    Settings and weight decay are those of AdamW. A matrix of r x c steps by lr * RMS * sqrt(max(r, c)) along the
    semi-orthogonal matrix nearest to its Nesterov momentum, so that it trains with the learning rates of Adam.
    Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024); the size of the step: Liu et al.,
    arXiv 2502.16982, section 2.2.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], **settings: object) -> None:
        groups = {True: [], False: []}
        for parameter in parameters:
            groups[is_matrix(parameter)].append(parameter)
        super().__init__([{'params': groups[True]}, {'params': groups[False]}], **settings)

    @torch.no_grad()
    def step(self) -> None:
        """Change the parameters that have a gradient."""
        alike = defaultdict(list)  # those of one shape are orthogonalised together
        for parameter in self.param_groups[0]['params']:
            if parameter.grad is not None:
                alike[parameter.shape].append((parameter, parameter.grad))
                parameter.grad = None  # so that Adam leaves it alone
        super().step()
        for pairs in alike.values():
            for parameter, gradient in pairs:
                parameter.grad = gradient
            self.step_matrices(*map(list, zip(*pairs, strict=True)))

    def step_matrices(self, parameters: list[nn.Parameter], gradients: list[Tensor]) -> None:
        """Change weight matrices of one shape. As PyTorch's fused Adam does, it changes nothing if `found_inf`, a
        float tensor that can be set as an attribute, is 1."""
        group, states = self.param_groups[0], [self.state[parameter] for parameter in parameters]
        for state, parameter in zip(states, parameters, strict=True):
            if not state:
                state.update(step=parameter.new_zeros(()), momentum=torch.zeros_like(parameter))  # AdamW loads `step`
        momenta = [state['momentum'] for state in states]
        gradient, momentum = torch.stack(gradients), torch.stack(momenta)                       # (n, r, ...)
        applied = 1.0
        if getattr(self, 'found_inf', None) is not None:
            gradient = torch.where(self.found_inf.bool(), momentum, gradient)  # towards itself: no change
            applied = 1 - self.found_inf
        momentum.lerp_(gradient, 1 - MOMENTUM)
        torch._foreach_copy_(momenta, list(momentum.unbind()))
        steps = orthogonalized(gradient.lerp(momentum, MOMENTUM).flatten(2))                    # (n, r, c)
        size = group['lr'] * RMS * max(steps.shape[1:]) ** 0.5
        if group['weight_decay']:
            torch._foreach_mul_(parameters, 1 - group['lr'] * group['weight_decay'] * applied)
        torch._foreach_sub_(parameters, list((steps * (size * applied)).view_as(momentum).unbind()))
        torch._foreach_add_([state['step'] for state in states], applied)


def is_matrix(parameter: Tensor) -> bool:
    """Whether Muon steps along the orthogonalised momentum of the parameter."""
    return parameter.ndim >= 2 and min(len(parameter), parameter[0].numel()) >= SMALLEST


def orthogonalized(matrices: Tensor) -> Tensor:
    """(n, r, c) → the same with all singular values between about 0.7 and 1.2, by Newton-Schulz iteration.

    Each step of it multiplies x by a polynomial of x x^T, so the steps are taken on that square matrix alone, and x,
    mostly several times as long, is multiplied once, by the product of their polynomials.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices                                                       # (n, s, l), s <= l
    x = x / x.flatten(1).norm(dim=1).clamp(min=1e-7).view(-1, 1, 1)
    square = x @ x.mT                                                                           # (n, s, s)
    product = factor = polynomial(square)
    for _ in range(ITERATIONS - 1):
        square = factor @ square @ factor
        factor = polynomial(square)
        product = factor @ product
    x = product @ x                                                                             # (n, s, l)
    return x.mT if tall else x


def polynomial(square: Tensor) -> Tensor:
    """A + B square + C square^2 of (n, s, s)."""
    result = torch.baddbmm(square, square, square, beta=B, alpha=C)
    result.diagonal(dim1=1, dim2=2).add_(A)
    return result
