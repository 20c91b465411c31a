"""The exponential moving average (EMA) of weights."""
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class EMA:
    """The average e of the weights w of `network` that are among `trained`: e ← decay · e + (1 − decay) · w after each
    step.

    It starts with the current weights, in their dtype, which is float32 for any --precision.
    """

    def __init__(self, network: nn.Module, trained: Iterable[nn.Parameter], decay: float) -> None:
        ids = set(map(id, trained))
        self._trained = {name: p for name, p in network.named_parameters() if id(p) in ids}
        self._average = {name: p.detach().clone() for name, p in self._trained.items()}
        self._step = get_ema_multi_avg_fn(decay)

    @torch.no_grad()
    def update(self, skipped: Tensor | None = None) -> None:
        """To be called after each step of the optimiser. skipped: a bool tensor on the device; if True, the average is
        not changed."""
        average, weights = list(self._average.values()), list(self._trained.values())
        if skipped is not None:
            weights = [torch.where(skipped, e, w) for e, w in zip(average, weights, strict=True)]
        self._step(average, weights, None)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """A context in which the network has the averaged weights; its own are restored afterwards, bit for bit."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, weight in self._trained.items():
            own = weight.clone()
            weight.copy_(self._average[name])
            self._average[name].copy_(own)

    def state_dict(self) -> dict[str, Tensor]:
        """{name: averaged weight} under the names of the network's own state dict."""
        return dict(self._average)

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load what state_dict() returned for a network of the same shape."""
        for name, average in self._average.items():
            average.copy_(state[name])
