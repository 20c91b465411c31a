"""What every epoch of a run came to: mean losses, scores of each test set."""
import math


class History:
    """content: {'losses': {name: [one an epoch]}, metric: {test set: [one an epoch]}}, nan where there was none."""

    def __init__(self, content: dict | None = None) -> None:
        self.content = content or {'losses': {}}

    def note(self, kind: str, epoch: int, values: dict[str, float]) -> None:
        """Add the values of `epoch`. A loss or test set may begin late, such as the student's SR loss; a loss has no
        mean where every batch was skipped."""
        series = self.content.setdefault(kind, {})
        for name in dict.fromkeys([*series, *values]):  # in the order in which they came
            past = series.setdefault(name, [])
            past += [math.nan] * (epoch - 1 - len(past)) + [values.get(name, math.nan)]

    def last_loss(self) -> float:
        """The mean 'loss' of the last epoch that has one; inf before the first."""
        past = [mean for mean in self.content['losses'].get('loss', []) if not math.isnan(mean)]
        return past[-1] if past else math.inf
