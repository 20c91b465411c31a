"""Quantization-aware training: forward and backward passes with weights rounded as shipped files round them."""
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from model import zoo
from store import safe


class Quantized:
    """The large weights among `trained` of `network`, rounded as store.safe.quantized rounds them.

    The gradient of rounded weights changes the weights themselves, which stay as fine as they are (the straight-through
    estimator; Bengio et al., arXiv 1308.3432). steps: those of model.zoo.compact; 0: nothing is rounded.
    """

    def __init__(self, network: nn.Module, trained: Iterable[nn.Parameter], steps: float) -> None:
        ids, alike = set(map(id, trained)), defaultdict(list)  # those of one shape are rounded together
        for name, parameter in network.named_parameters() if steps else ():
            if id(parameter) in ids and parameter.numel() >= safe.LARGE:
                alike[parameter.shape, zoo.steps_of(name, steps)].append(parameter)
        self._groups = [(each, parameters) for (_, each), parameters in alike.items()]

    @contextmanager
    def applied(self) -> Iterator[None]:
        """A context in which the weights are rounded; their own values are restored afterwards, bit for bit."""
        own = [torch.stack([parameter.detach() for parameter in parameters]) for _, parameters in self._groups]
        rounded = [dequantized(weights, steps) for weights, (steps, _) in zip(own, self._groups, strict=True)]
        self._set(rounded)
        try:
            yield
        finally:
            self._set(own)

    @torch.no_grad()
    def _set(self, values: list[Tensor]) -> None:
        for each, (_, parameters) in zip(values, self._groups, strict=True):
            torch._foreach_copy_(parameters, list(each.unbind()))


def is_quantized(network: nn.Module) -> bool:
    """Whether weights of `network` are rounded already, as those of shipped files: large tensors of few values."""
    return any(3 <= parameter.unique().numel() <= 2 * safe.LEVELS + 1
               for parameter in network.parameters() if parameter.numel() >= safe.LARGE)


def dequantized(weights: Tensor, steps: float) -> Tensor:
    """n tensors (n, ...) → the values that remain of each after store.safe.quantized."""
    scale = safe.scale(weights.flatten(1), steps).view(-1, *[1] * (weights.ndim - 1))
    return safe.rounded(weights / scale) * scale
