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
        group = self.param_groups[0]
        matrices = [parameter for parameter in group['params'] if parameter.grad is not None]
        gradients = [parameter.grad for parameter in matrices]
        for parameter in matrices:
            parameter.grad = None  # so that Adam leaves it alone
        super().step()
        alike = defaultdict(list)  # those of one shape are orthogonalised together
        for parameter, gradient in zip(matrices, gradients, strict=True):
            parameter.grad = gradient
            state = self.state[parameter]
            if not state:
                state.update(step=torch.zeros(()), momentum=torch.zeros_like(parameter))  # AdamW loads any `step`
            state['step'] += 1
            state['momentum'].lerp_(gradient, 1 - MOMENTUM)
            alike[parameter.shape].append((parameter, gradient.lerp(state['momentum'], MOMENTUM).flatten(1)))
        for pairs in alike.values():
            steps = orthogonalized(torch.stack([matrix for _, matrix in pairs]))                # (n, r, c)
            size = group['lr'] * RMS * max(steps.shape[1:]) ** 0.5
            for (parameter, _), step in zip(pairs, steps, strict=True):
                parameter.mul_(1 - group['lr'] * group['weight_decay'])
                parameter.sub_(step.view(parameter.shape), alpha=size)


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
