"""The history of a run: mean losses and scores of each epoch."""
import math

from utility import UserError

DIVERGED = 100  # times the lowest mean loss: no training recovers what it had learned before that


class History:
    """content: {'losses': {name: [one per epoch]}, metric: {test set: [one per epoch]}}, nan where there is none.

    since: number of first epochs whose 'loss' may be of another kind, to which check() compares nothing.
    """

    def __init__(self, content: dict | None = None, since: int = 0) -> None:
        self.content = content or {'losses': {}}
        self.since = since

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

    def check(self, encoder_epochs: int) -> None:
        """Raises UserError if the last epoch's mean 'loss' is above DIVERGED times the lowest one.

        encoder_epochs: number of first epochs that train the encoder only, by another loss.
        """
        first = max(encoder_epochs, self.since)
        past = self.content['losses'].get('loss', [])[first:]
        lowest = min((mean for mean in past if not math.isnan(mean)), default=0)
        if past and past[-1] > DIVERGED * lowest > 0:
            best, last = first + 1 + past.index(lowest), first + len(past)
            raise UserError(f'training diverged: the mean loss was {lowest:.4g} in epoch {best} and {past[-1]:.4g} in '
                            f'epoch {last}, which is not saved; earlier checkpoints are intact. Resume from one of '
                            f'epoch {best} or soon after it, at a lower rate: --resume {best} --lr_sr RATE '
                            '--accept_changes')
