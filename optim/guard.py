"""Decides by its values whether a step is applied: on the device, where the host would have to wait for them."""
import math
from typing import NamedTuple

import torch
from torch import Tensor

from optim.update import Update
from process.group import ProcessGroup
from process.signals import Stopper


class NotFinite(Exception):
    """Values of a step are not finite: neither it nor a later one was applied. number: of the step; names: of them."""

    def __init__(self, number: int, names: list[str]) -> None:
        super().__init__(number, names)
        self.number, self.names = number, names


class Outcome(NamedTuple):
    """The outcome of a step. number: of the step, over all epochs; losses: {name: value}, None if it was skipped."""
    number: int
    losses: dict[str, float] | None


class Transfer:
    """An asynchronous copy of values (N,) to the host; only tolist() waits for it."""

    def __init__(self, values: Tensor) -> None:
        self._host, self._arrived = values, None
        if values.is_cuda:
            self._host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._host.copy_(values, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record(torch.cuda.current_stream(values.device))

    def tolist(self) -> list[float]:
        """The values; waits for the copy."""
        if self._arrived:
            self._arrived.synchronize()
        return self._host.tolist()


class _Part(NamedTuple):
    """One update of a step: its values on the way to the host, and the loss from which it is skipped."""
    update: str
    names: list[str]
    threshold: float
    values: Transfer


class Guard:
    """Vetoes updates whose loss or gradient is not finite, or whose loss, averaged over ranks, reaches a threshold.

    late: the device decides, and the host reads the values of a step after launching the next one, so that neither
    waits for the other. After values that are not finite the device applies no step, until the host raises NotFinite.
    If not late, the host decides before the weights are changed. Losses and weights are the same in both cases.
    """

    def __init__(self, group: ProcessGroup, stopper: Stopper, late: bool) -> None:
        self.group, self.stopper, self.late = group, stopper, late
        self.skipped: Tensor | None = None  # late, on the device: whether the present step is not applied
        self.veto: Tensor | None = None     # the same of the present update, also where its scaled gradient overflowed
        self._halted: Tensor | None = None  # whether values were not finite
        self._number, self._parts = 0, []   # of the present step
        self._pending: list[tuple[int, list[_Part]]] = []  # steps that the host has not read

    def begin(self, number: int) -> None:
        """To be called at the beginning of step `number`."""
        self._number, self._parts, self.skipped = number, [], None

    def allows(self, update: Update, losses: dict[str, Tensor], threshold: float) -> bool:
        """Whether the host allows the step of `update` after its backward pass; always if late, where `veto` decides.

        losses: {name: scalar}. Raises NotFinite.
        """
        norm = update.gradient_norm()
        stop = torch.full_like(norm, self.stopper.number is not None)
        values = self.group.average(torch.stack([*losses.values(), norm, update.scale_of(norm), stop]))   # (N + 3,)
        self._parts.append(_Part(update.name, list(losses), threshold, Transfer(values)))
        if self.late:
            self._decide(values, list(losses).index('loss'), threshold)
            return True
        return self._read(self._number, self._parts[-1]) is not None

    def _decide(self, values: Tensor, loss: int, threshold: float) -> None:
        """The decision of _read(), on the device."""
        overflow, unscaled = ~values[-3].isfinite(), values[-2] <= 1
        bad = ~values[:-3].isfinite().all() | overflow & unscaled
        self._halted = bad if self._halted is None else self._halted | bad
        skipped = self._halted | (values[loss].double() >= threshold)
        self.skipped = skipped if self.skipped is None else self.skipped | skipped
        self.veto = self.skipped | overflow

    def end(self) -> list[Outcome]:
        """To be called at the end of a step. Returns the outcomes available on the host: of this step or, if late, of
        the one before. Raises NotFinite."""
        self._pending.append((self._number, self._parts))
        return self.settle(int(self.late))

    def settle(self, left: int = 0) -> list[Outcome]:
        """Wait for and return the outcomes of all unread steps except the last `left`. Raises NotFinite."""
        outcomes = []
        while len(self._pending) > left:
            outcomes.append(self._outcome(*self._pending.pop(0)))
        return outcomes

    def _outcome(self, number: int, parts: list[_Part]) -> Outcome:
        logged = {}
        for part in parts:
            losses = self._read(number, part)
            if losses is None:
                return Outcome(number, None)
            logged |= losses if not logged else {f'{part.update} {name}': value for name, value in losses.items()}
        return Outcome(number, logged)

    def _read(self, number: int, part: _Part) -> dict[str, float] | None:
        """{loss: value}, None if the threshold forbids the step. Raises NotFinite. In half precision a gradient may
        overflow: the step is then skipped, and the loss scale reduced."""
        with self.group.waiting():
            *values, norm, scale, stop = part.values.tolist()
        self.group.agree(self.stopper, stop)
        losses = dict(zip(part.names, values, strict=True))
        bad = [name for name, value in losses.items() if not math.isfinite(value)]
        if not bad and losses['loss'] >= part.threshold:
            return None
        if not bad and not math.isfinite(norm) and scale <= 1:
            bad = ['gradient']
        if bad:
            raise NotFinite(number, bad)
        return losses
