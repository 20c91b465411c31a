"""Testing a stage on all test sets: scores, logs, files."""
import math
import time
from collections.abc import Sequence

from torch import Tensor

from process.group import Process
from report import evaluation
from report.evaluation import Evaluator, SetScores
from report.metric import METRICS, logged, title
from stage import Stage
from store.checkpoint import Run
from store.journal import Journal
from utility import UserError, shown


def criterion(text: str | None, sets: list[str], metrics: Sequence[str]) -> tuple[str, str]:
    """(test set, metric) of --best, given as SET:METRIC, SET or :METRIC; the default of each is the first one tested.

    Raises UserError if it is not tested.
    """
    name, _, metric = (text or '').partition(':')
    name, metric = name or sets[0], metric or metrics[0]
    if name not in sets or metric not in metrics:
        raise UserError(f'--best {shown(text)}: not tested; choose from test sets {shown(", ".join(sets))} and metrics '
                        + ', '.join(metrics))
    return name, metric


class Tester:
    """Tests a stage after an epoch, or for --test_only. tests: list of TestSet, [] on ranks other than 0; best: the
    value of --best.

    Raises UserError if --best names a test set or metric that is not tested.
    """
    __test__ = False  # not a test case of pytest

    def __init__(self, tests: list, evaluator: Evaluator, run: Run, journal: Journal, process: Process,
                 best: str | None = None) -> None:
        self.tests, self.evaluator, self.run, self.journal = tests, evaluator, run, journal
        self._stopper, self._group = process.stopper, process.group
        self._best = criterion(best, [testset.name for testset in tests], evaluator.metrics) if tests else None

    def score(self, stage: Stage, epoch: int | None = None, suffix: str = '') -> dict[str, list[SetScores]]:
        """{test set + suffix: a SetScores for each degradation}. Logs the means, writes scores of images to CSV files.

        epoch: the epoch just finished, None for --test_only; suffix: marks which weights were tested.
        Raises Stopped if a signal was received.
        """
        start, scored = time.monotonic(), {}
        stage.eval()
        for testset in self.tests:
            several = self.evaluator.score(stage, testset, self._check, self.journal.watch)
            for line in evaluation.lines(several):
                self.run.log(line + suffix)
            for scores in several:
                evaluation.write_csv(self.run.results, scores)
            scored[testset.name + suffix] = several
        images = sum(len(scores.by_step[-1]) for several in scored.values() for scores in several)
        spent = time.monotonic() - start
        self.run.log(f'{images} image{"s" * (images != 1)} in {spent:.1f} s')
        means = {name: evaluation.overall(each) for name, each in scored.items()}
        self.journal.test(epoch, means, images=images, seconds=spent)
        return scored

    def keep_best(self, epoch: int, means: dict[str, dict[str, float]], weights: dict[str, Tensor],
                  averaged: bool) -> None:
        """Save the weights of an epoch as the best ones if the score of --best is the best so far.

        means: {test set: {metric: mean}}; averaged: whether `weights` are those of the moving average.
        """
        name, metric = self._best
        name += ' (EMA)' * averaged
        value, sign, old = means[name][metric], 1 if METRICS[metric].higher_is_better else -1, self.run.best()
        # The best of a later epoch is from before the run was resumed at an earlier one.
        rival = old and (old['set'], old['metric']) == (name, metric) and old['epoch'] < epoch
        if math.isnan(value) or (rival and sign * value <= sign * old['value']):
            return
        path = self.run.save_best(weights, {'epoch': epoch, 'set': name, 'metric': metric, 'value': value})
        self.run.log(f'Best so far: {name} {title(metric)}: {logged(metric, value)} after epoch {epoch} ({path.name})')

    def _check(self) -> None:
        """Called before each test image. Raises Stopped if a signal was received."""
        self._group.tick(self._stopper)
        self._stopper.check()
