"""The best weights of a run: those of the epoch with the best score of --best, also after interruptions."""
import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from report import testing
from report.metric import METRICS, Metric
from report.testing import criterion
from store.checkpoint import Run
from store.tensors import load_checkpoint
from utility import UserError

MODEL = Path('experiment/stage1_x2_bicubic_iso/model')


def weights(name):
    return torch.load(MODEL / name, weights_only=True)


@pytest.mark.parametrize('higher', [True, False])
@pytest.mark.parametrize('ema', [0, 0.5])
def test_best_weights_are_from_the_best_epoch(cli, monkeypatch, higher, ema):
    score = METRICS['psnr_y'].function
    monkeypatch.setitem(METRICS, 'mine', Metric(lambda *pair: score(*pair) * (1 if higher else -1), '', 3, higher))
    assert cli('--stage', 1, '--epochs_sr', 4, '--lr_sr', 0.02, '--save_models', '--metrics', 'ssim_y,mine',
               '--best', 'Set2:mine', '--ema', ema) == 0
    name = 'Set2 (EMA)' if ema else 'Set2'
    history = load_checkpoint(MODEL / 'state_4.pt')['history']['mine'][name]
    best = json.loads((MODEL / 'best.json').read_bytes())
    value = (max if higher else min)(history)
    assert best == {'epoch': history.index(value) + 1, 'set': name, 'metric': 'mine', 'value': value}
    kept = weights(f'model_{best["epoch"]}.pt')
    assert all(torch.equal(tensor, kept[key]) for key, tensor in weights('model_best.pt').items())
    log = (MODEL.parent / 'log.txt').read_text()
    assert log.rindex(f'Best so far: {name} MINE: {value:.3f} after epoch {best["epoch"]} (model_best.pt)') \
        == log.rindex('Best so far')


class Kept:
    """A Tester without test sets whose run saves small weights."""

    def __init__(self, folder, best=None):
        (folder / 'model').mkdir(exist_ok=True)
        self.run = Run(folder, 1)
        self.tester = testing.Tester([SimpleNamespace(name='A'), SimpleNamespace(name='B')],
                             SimpleNamespace(metrics=('psnr_y', 'ssim_y')), self.run, None,
                             SimpleNamespace(stopper=None, group=None), best)

    def offer(self, epoch, value):
        scores = {'A': {'psnr_y': value, 'ssim_y': -value}}
        self.tester.keep_best(epoch, scores, {'epoch': torch.tensor(epoch)}, False)
        return torch.load(self.run.folder / 'model' / 'model_best.pt', weights_only=True)['epoch'].item()


def test_equal_and_undefined_scores_are_not_better(tmp_path):
    kept = Kept(tmp_path)
    assert [kept.offer(epoch, value) for epoch, value in enumerate((1.0, 1.0, math.nan, 2.0, math.inf, 3.0), 1)] \
        == [1, 1, 1, 4, 5, 5]


def test_resumed_run_drops_the_best_of_later_epochs(tmp_path):
    kept = Kept(tmp_path)
    assert kept.offer(1, 5.0) == 1 and kept.offer(7, 9.0) == 7
    assert kept.offer(3, 2.0) == 3                      # resumed after epoch 2
    (tmp_path / 'model' / 'best.json').write_text('{')  # damaged
    assert kept.offer(4, 1.0) == 4


def test_changed_criterion_starts_over(tmp_path):
    assert Kept(tmp_path).offer(1, 5.0) == 1
    assert Kept(tmp_path, 'A:ssim_y').offer(2, 4.0) == 2  # its score is -4.0
    assert Kept(tmp_path, ':ssim_y').offer(3, 4.5) == 2


def test_default_criterion_is_the_first_set_and_metric():
    tested = ['A', 'B'], ('psnr_y', 'ssim_y')
    assert criterion(None, *tested) == criterion('A', *tested) == criterion(':psnr_y', *tested) == ('A', 'psnr_y')
    assert criterion('B', *tested) == ('B', 'psnr_y') and criterion('B:ssim_y', *tested) == ('B', 'ssim_y')
    for text in 'C', 'A:psnr_rgb', ':A':
        with pytest.raises(UserError, match=r'choose from test sets A, B and metrics psnr_y, ssim_y'):
            criterion(text, *tested)


def test_wrong_criterion_is_refused_before_training(cli, capsys):
    assert cli('--stage', 1, '--best', 'Set9') == 2
    assert capsys.readouterr().err == ('error: --best Set9: not tested; choose from test sets Set2 and metrics psnr_y, '
                                       'ssim_y\n')
    assert not MODEL.exists()
