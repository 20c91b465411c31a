"""Progress of an epoch: mean losses, speed, waiting time for data, memory."""
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator

from tqdm import tqdm

from store.journal import Journal, peak_text


def new_tally() -> dict:
    """Sums over the batches of an epoch: losses by name, numbers of counted and skipped batches."""
    return {'sums': {}, 'counted': 0, 'skipped': 0}


def means(tally: dict) -> dict[str, float]:
    """{name: mean loss} of the batches that were not skipped."""
    return {name: total / max(tally['counted'], 1) for name, total in tally['sums'].items()}


class Meter:
    """Mean losses of an epoch so far, shown as a bar on a terminal and as lines in the log and the journal.

    first: batches done before; tally: their sums, which are continued; bar: whether to show one.
    """

    def __init__(self, args: Namespace, epoch: int, first: int, tally: dict, log: Callable[[str], None],
                 journal: Journal, bar: bool = True) -> None:
        self.args, self.epoch, self.first, self.tally, self.log = args, epoch, first, tally, log
        self.journal = journal
        self.images, self.waited = 0, 0.0
        self.start = time.monotonic()
        self.bar = tqdm(total=args.test_every, initial=first, unit='batch', desc=f'Epoch {epoch}/{args.epochs_sr}',
                        leave=False, disable=None if bar else True, dynamic_ncols=True)  # None: only on a terminal

    def waiting(self, batches: Iterable) -> Iterator:
        """Yields the batches, and adds up the time spent waiting for them."""
        batches = iter(batches)
        while True:
            start = time.monotonic()
            batch = next(batches, None)
            self.waited += time.monotonic() - start
            if batch is None:
                return
            yield batch

    def add(self, losses: dict[str, float] | None, images: int, batch: int, rate: float) -> None:
        """Count batch number `batch` of the epoch. losses: None if it was skipped; rate: the learning rate."""
        self.images += images
        tally = self.tally
        if losses is None:
            tally['skipped'] += 1
            self.log(f'Skip this batch {batch}: its loss exceeds --skip_threshold x the last epoch\'s mean '
                     f'({tally["skipped"]} so far)')
        else:
            tally['counted'] += 1
            for name, value in losses.items():
                tally['sums'][name] = tally['sums'].get(name, 0) + value
        self.bar.update()
        self.bar.set_postfix_str(self._losses() + f', {self._speed():.1f} images/s')
        if batch % self.args.print_every == 0 or batch == self.args.test_every:
            spent = time.monotonic() - self.start
            left = spent / (batch - self.first) * (self.args.test_every - batch)
            self.log(f'[{batch}/{self.args.test_every}] {self._losses()}  {self._speed():.1f} images/s  '
                     f'{self.waited / spent:.0%} of the time waiting for data  {peak_text(self.journal.device)}  '
                     f'{left:.0f} s left in this epoch')
            self.journal.step(self.epoch, batch, losses=means(tally), lr=rate, images_per_s=self._speed(),
                              data_wait=self.waited / spent, skipped=tally['skipped'])

    def close(self) -> None:
        """End the bar."""
        self.bar.close()

    def _losses(self):
        return '  '.join(f'{name}: {value:.4f}' for name, value in means(self.tally).items())

    def _speed(self):
        return self.images / max(time.monotonic() - self.start, 1e-9)
