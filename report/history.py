"""The history of a run: mean losses and scores of each epoch."""
import math


class History:
    """content: {'losses': {name: [one per epoch]}, metric: {test set: [one per epoch]}}, nan where there is none."""

    def __init__(self, content: dict | None = None) -> None:
        self.content = content or {'losses': {}}

    def note(self, kind: str, epoch: int, values: dict[str, float]) -> None:
        """Add the values of `epoch`. A loss or test set may begin in a later epoch, such as the student's SR loss; an
        epoch whose batches were all skipped has no losses."""
        series = self.content.setdefault(kind, {})
        for name in dict.fromkeys([*series, *values]):  # in the order of first appearance
            past = series.setdefault(name, [])
            past += [math.nan] * (epoch - 1 - len(past)) + [values.get(name, math.nan)]

    def last_loss(self) -> float:
        """The mean 'loss' of the last epoch that has one; inf if there is none."""
        past = [mean for mean in self.content['losses'].get('loss', []) if not math.isnan(mean)]
        return past[-1] if past else math.inf
