"""A test of a stage on all its test sets: scored, logged, written to files."""
import time

from process.group import Process
from report import evaluation
from report.evaluation import Evaluator, SetScores
from stage import Stage
from store.checkpoint import Run
from store.journal import Journal


class Tester:
    """Tests a stage after an epoch, or for --test_only. tests: list of TestSet."""

    def __init__(self, tests: list, evaluator: Evaluator, run: Run, journal: Journal, process: Process) -> None:
        self.tests, self.evaluator, self.run, self.journal = tests, evaluator, run, journal
        self._stopper, self._group = process.stopper, process.group

    def score(self, stage: Stage, epoch: int | None = None, suffix: str = '') -> dict[str, list[SetScores]]:
        """{test set + suffix: its SetScores, one for each degradation}; the means are logged, the images' written.

        epoch: after which the test comes, None where nothing is trained; suffix: says which weights were tested.
        Raises Stopped if a signal asks for it.
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
        self.run.log(f'{images} images in {spent:.1f} s')
        means = {name: evaluation.overall(each) for name, each in scored.items()}
        self.journal.test(epoch, means, images=images, seconds=spent)
        return scored

    def _check(self) -> None:
        """Before each image of a test. Raises Stopped if a signal asks for it."""
        self._group.tick(self._stopper)
        self._stopper.check()
