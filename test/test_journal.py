"""log.jsonl: valid JSON, one row per step, none twice after an interruption; TensorBoard with --tensorboard."""
import importlib.util
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from store.checkpoint import Run
from store.journal import SIDE, Journal
from trainer import Trainer

RUN = Path('experiment/stage1_x2_bicubic_iso')
needs_tensorboard = pytest.mark.skipif(not importlib.util.find_spec('tensorboard'),
                                       reason='tensorboard of requirements-extra.txt missing')


def no_constant(name):
    raise AssertionError(f'{name} is no JSON')


def rows(folder=RUN):
    return [json.loads(line, parse_constant=no_constant) for line in (folder / 'log.jsonl').read_text().splitlines()]


def places(found):
    return [(row['kind'], row['epoch'], row['step']) for row in found]


WHOLE = [('step', 1, 1), ('step', 1, 2), ('step', 1, 3), ('epoch', 1, 3), ('test', 1, 3),
         ('step', 2, 4), ('step', 2, 5), ('step', 2, 6), ('epoch', 2, 6), ('test', 2, 6)]


def make(folder, is_rank0=True, **more):
    """A Journal of a run with 3 batches per epoch."""
    args = SimpleNamespace(stage=1, test_every=3, rgb_range=1, test_only=False, tensorboard=False, **more)
    folder.mkdir(exist_ok=True)
    return Journal(args, Run(folder, 1, is_rank0), torch.device('cpu'))


def write_all(journal):
    for epoch in 1, 2:
        for batch in 1, 2, 3:
            journal.step(epoch, batch, losses={'loss': 0.5}, lr=1e-4, images_per_s=2.0, data_wait=0.1, skipped=0)
        journal.epoch(epoch, losses={'loss': 0.5}, lr=1e-4, skipped=0)
        journal.test(epoch, {'Set5': {'psnr_y': 30.0, 'ssim_y': 0.9}})


@pytest.mark.parametrize('position, kept', [((0, 0), 0), ((0, 2), 2), ((0, 3), 3), ((1, 0), 5), ((1, 1), 6),
                                            ((1, 3), 8), ((2, 0), 10),
                                            ((1, 0, False), 4), ((1, 2, False), 7), ((2, 0, False), 9)])
def test_rows_after_the_position_are_dropped_and_written_once(tmp_path, position, kept):
    journal = make(tmp_path)
    write_all(journal)
    assert places(rows(tmp_path)) == WHOLE
    journal.test(None, {'Set5': {'psnr_y': 30.0, 'ssim_y': 0.9}})
    with open(journal.path, 'a') as file:
        file.write('{"kind": "step", "epo')            # incomplete because of a full disk
    journal.begin(*position)
    assert places(rows(tmp_path)) == [*WHOLE[:kept], ('test', None, None)]


def test_inf_and_nan_are_text_and_other_ranks_write_nothing(tmp_path):
    journal = make(tmp_path)
    journal.test(1, {'Set5': {'psnr_y': math.inf, 'ssim_y': math.nan}})
    row, = rows(tmp_path)
    assert row['scores'] == {'Set5': {'psnr_y': 'inf', 'ssim_y': 'nan'}} and row['peak_memory_bytes'] > 2**20
    other = make(tmp_path / 'other', is_rank0=False)
    other.begin(0, 0)
    write_all(other)
    assert not list((tmp_path / 'other').iterdir())


def test_failed_and_resumed_run_has_each_row_once(cli, monkeypatch):
    step = Trainer.step

    def failing(self, hr, threshold):
        if (self.epoch, self.batch) == (1, 2):
            raise OSError(5, 'as a crash would')
        return step(self, hr, threshold)
    monkeypatch.setattr(Trainer, 'step', failing)
    assert cli('--stage', 1) == 2
    assert places(rows()) == WHOLE[:7]
    monkeypatch.setattr(Trainer, 'step', step)
    assert cli('--stage', 1) == 0
    found = rows()
    assert places(found) == WHOLE
    assert all(row['stage'] == 1 and row['losses']['loss'] > 0 and row['lr'] == 1e-4 for row in found
               if row['kind'] != 'test')
    assert all(row['images_per_s'] > 0 and 0 <= row['data_wait'] <= 1 for row in found if row['kind'] == 'step')
    assert all(set(row['scores']['Set2']) == {'psnr_y', 'ssim_y'} for row in found if row['kind'] == 'test')
    assert 'peak ' in (RUN / 'log.txt').read_text()
    assert cli('--stage', 1, '--test_only', '--tensorboard') == 0
    assert places(rows()) == [*WHOLE, ('test', None, None)]
    assert '--tensorboard has no effect' in (RUN / 'log.txt').read_text()
    assert cli('--stage', 1, '--resume', 1) == 0
    assert places(rows()) == [*WHOLE[:5], ('test', None, None), *WHOLE[5:]]


def test_missing_tensorboard_is_reported_before_anything_starts(cli, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'torch.utils.tensorboard', None)
    assert cli('--stage', 1, '--tensorboard') == 2
    said = capsys.readouterr().err
    assert '--tensorboard' in said and 'requirements-extra.txt' in said and said.count('\n') == 1
    assert not (RUN / 'model').exists()


@needs_tensorboard
def test_tensorboard_has_curves_and_an_image_per_test(cli):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    assert cli('--stage', 1, '--epochs_sr', 1, '--tensorboard') == 0
    assert cli('--stage', 1, '--epochs_sr', 2, '--tensorboard') == 0      # resumes
    events = EventAccumulator(str(RUN / 'tensorboard')).Reload()
    assert [event.step for event in events.Scalars('step/losses/loss')] == [1, 2, 3, 4, 5, 6]
    assert [event.step for event in events.Scalars('test/scores/Set2/psnr_y')] == [3, 6]
    drawn = {'step/lr', 'step/images_per_s', 'test/scores/Set2/ssim_y', 'epoch/losses/loss'}
    assert drawn <= set(events.Tags()['scalars'])
    tag, = events.Tags()['images']
    assert [event.step for event in events.Images(tag)] == [3, 6] and 'Set2/d' in tag
    assert events.Images(tag)[0].height <= SIDE and events.Images(tag)[0].width <= 3 * SIDE


def test_run_of_the_other_family_is_refused(cli, capsys):
    same = '--stage', 3, '--save', 'mine'
    assert cli(*same, '--model', 'kdsr', '--n_resblocks', 1, '--epochs_sr', 1) == 0
    assert cli(*same, '--pre_train_meta', 'none.pt', '--accept_changes') == 2
    said = capsys.readouterr().err
    assert 'run of --model kdsr, not mrda' in said and '--save' in said and said.count('\n') == 1
