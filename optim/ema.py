"""The exponential moving average of weights (EMA): steadier than any single step's weights."""
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class EMA:
    """The average e of those weights w of `network` that are among `learning`: e ← decay · e + (1 − decay) · w after
    each step.

    It begins as the weights are now, in their own dtype, which is float32 whatever --precision computes in.
    """

    def __init__(self, network: nn.Module, learning: Iterable[nn.Parameter], decay: float) -> None:
        moved = set(map(id, learning))
        self._learning = {name: p for name, p in network.named_parameters() if id(p) in moved}
        self._average = {name: p.detach().clone() for name, p in self._learning.items()}
        self._step = get_ema_multi_avg_fn(decay)

    @torch.no_grad()
    def update(self, skipped: Tensor | None = None) -> None:
        """To be called after each step of the optimiser. skipped: a bool tensor on the device, True and the average
        stays as it is, as if this had not been called."""
        average, weights = list(self._average.values()), list(self._learning.values())
        if skipped is not None:
            weights = [torch.where(skipped, e, w) for e, w in zip(average, weights, strict=True)]
        self._step(average, weights, None)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """A context in which the network has the averaged weights; afterwards its own again, bit for bit."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, weight in self._learning.items():
            own = weight.clone()
            weight.copy_(self._average[name])
            self._average[name].copy_(own)

    def state_dict(self) -> dict[str, Tensor]:
        """{name: averaged weight} under the names of the network's own state dict."""
        return dict(self._average)

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from what state_dict() gave for a network of the same shape."""
        for name, average in self._average.items():
            average.copy_(state[name])
