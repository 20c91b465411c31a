"""The four stages by the command line, on real photos with small networks: training, files, resuming, errors."""
import csv
import math
import re
import shutil
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import SMALL
from survival import same

from model import mrda
from option import parse
from report.history import History
from report.testing import Tester
from stages import STAGES
from store.tensors import load_checkpoint, save_weights
from trainer_stage1 import Stage1
from utility import UserError


def weights(run, name):
    return torch.load(Path('experiment') / f'{run}_x2_bicubic_iso' / 'model' / f'{name}.pt', weights_only=True)


def log_of(run):
    return Path('experiment', f'{run}_x2_bicubic_iso', 'log.txt').read_text(encoding='utf-8')


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.curves
def test_all_stages_then_test_and_own_photos(cli, library, capsys):
    assert cli('--stage', 'all', '--epochs_encoder', 1, '--st_save_epoch', 1) == 0
    printed = capsys.readouterr().out
    for stage, name in ((1, 'model'), (2, 'model_meta'), (3, 'model_TA'), (4, 'model_ST')):
        folder = Path('experiment') / f'stage{stage}_x2_bicubic_iso'
        assert {path.name for path in (folder / 'model').iterdir()} == {
            f'{name}_last.pt', f'{name}_2.pt', f'{name}_best.pt', 'best.json', 'state_1.pt', 'state_2.pt'}
        assert {path.name for path in folder.iterdir()} == {
            'log.txt', 'log.jsonl', 'config.txt', 'model', 'results',
            *(f'{name}.{kind}' for name in ('loss', 'psnr', 'ssim', 'lr') for kind in ('png', 'pdf'))}
        assert len(re.findall(r'^Set2 PSNR: \d+\.\d{3} SSIM: \d\.\d{4}$', log_of(f'stage{stage}'), re.M)) == 2
    assert 'stage1_x2_bicubic_iso/model/model_last.pt' in printed          # logs which file was loaded
    assert "the teacher's SR network" in printed
    assert 'after 0 adaptation steps' in printed and 'after 2 adaptation steps' in printed
    trained = weights('stage4', 'model_ST_last')

    assert cli('--stage', 4, '--test_only', '--save_results', '--self_ensemble') == 0
    results = Path('experiment/stage4_x2_bicubic_iso/results')
    assert len(list(results.rglob('*_x2.png'))) == 2
    rows = list(csv.DictReader(next(results.glob('Set2*.csv')).open()))
    assert [row['image'] for row in rows] == ['d', 'e'] and all(float(row['psnr_y']) > 5 for row in rows)
    assert equal(weights('stage4', 'model_ST_last'), trained)

    assert cli('--stage', 4, '--test_only', '--dir_demo', library / 'Photos' / 'HR', '--dir_out', 'out') == 0
    assert sorted(path.name for path in Path('out').iterdir()) == ['a_x2.png', 'b_x2.png', 'c_x2.png']
    assert cli('--stage', 4, '--test_only', '--dir_demo', library / 'Photos' / 'HR', '--dir_out', 'out') == 0
    assert '3 already there' in capsys.readouterr().out


@pytest.mark.parametrize('stage, optimizer', [(1, 'ADAM'), (2, 'ADAM'), (3, 'ADAM'), (4, 'ADAM'), (4, 'Muon')])
def test_resume_is_bit_identical(cli, stage, optimizer):
    for earlier in range(1, stage):
        assert cli('--stage', earlier, '--epochs_sr', 1) == 0
    extra = ['--stage', stage, '--optimizer', optimizer, *['--epochs_encoder', 1] * (stage == 4)]
    name = ('model_last', 'model_meta_last', 'model_TA_last', 'model_ST_last')[stage - 1]
    assert cli(*extra, '--save', 'whole') == 0
    assert cli(*extra, '--save', 'parts', '--epochs_sr', 1) == 0
    assert not equal(weights('parts', name), weights('whole', name))
    assert cli(*extra, '--save', 'parts', '--n_threads', 1) == 0
    assert equal(weights('parts', name), weights('whole', name))


@pytest.mark.parametrize('precision', ['bf16', 'half'])
def test_16_bits_train_test_and_resume(cli, precision):
    assert cli('--stage', 'all', '--precision', precision, '--epochs_encoder', 1, '--save', 'whole') == 0
    for epochs in 1, 2:
        assert cli('--stage', 1, '--precision', precision, '--save', 'parts', '--epochs_sr', epochs) == 0
    assert equal(weights('parts', 'model_last'), weights('whole_stage1', 'model_last'))
    for stage, name in enumerate(('model', 'model_meta', 'model_TA', 'model_ST'), 1):
        whole = weights(f'whole_stage{stage}', f'{name}_last')
        assert all(tensor.dtype == torch.float32 and tensor.isfinite().all() for tensor in whole.values())
    scale = load_checkpoint('experiment/whole_stage4_x2_bicubic_iso/model/state_2.pt')['updates']['sr']['scaler']
    assert (scale['_growth_tracker'] == 6) if precision == 'half' else scale == {}


def test_step_with_overflow_in_half_precision_is_skipped(cli, monkeypatch):
    monkeypatch.setattr(torch.amp, 'GradScaler', partial(torch.amp.GradScaler, init_scale=2.0**40))
    assert cli('--stage', 1, '--epochs_sr', 1, '--precision', 'half') == 0
    state = load_checkpoint('experiment/stage1_x2_bicubic_iso/model/state_1.pt')
    update = state['updates']['sr']
    assert update['scaler']['scale'] == 2.0**37 and update['optimizer']['state'] == {}   # none of three steps taken


def test_saved_weights_are_contiguous_and_data_wait_is_logged(cli):
    assert cli('--stage', 1, '--epochs_sr', 1) == 0
    assert all(tensor.is_contiguous() for tensor in weights('stage1', 'model_last').values())
    assert len(re.findall(r'^\[./3\] .* \d+% of the time waiting for data ', log_of('stage1'), re.M)) == 3


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which('g++'), reason='torch.compile needs a C++ compiler')
def test_compiled_blocks_train_equally(cli, capsys):
    if torch.__version__.startswith('2.3.'):
        assert cli('--stage', 'all', '--compile') == 2 and 'PyTorch 2.3' in capsys.readouterr().err
        return
    for earlier in 1, 2:
        assert cli('--stage', earlier, '--epochs_sr', 1) == 0
    for stage, name in (3, 'model_TA_last'), (4, 'model_ST_last'):                    # stage 4 begins with a test
        torch._dynamo.reset()                                                         # as in a process of its own
        for save, flags in (('eager', []), ('compiled', ['--compile'])):
            assert cli('--stage', stage, '--epochs_encoder', 1, '--epochs_sr', stage - 2,
                       '--save', f'{save}_stage{stage}', *flags) == 0
        eager, compiled = (weights(f'{save}_stage{stage}', name) for save in ('eager', 'compiled'))
        assert eager.keys() == compiled.keys()
        assert all(torch.allclose(eager[key], compiled[key], atol=1e-5) for key in eager)


def test_training_lowers_the_loss(cli):
    assert cli('--stage', 1, '--epochs_sr', 6, '--test_every', 10, '--lr_sr', '1e-3') == 0
    losses = [float(value) for value in re.findall(r'\[10/10\] loss: ([\d.]+)', log_of('stage1'))]
    assert len(losses) == 6 and losses[-1] < 0.8 * losses[0]


def test_resume_0_n_and_reset(cli, capsys):
    assert cli('--stage', 1) == 0
    after_two = weights('stage1', 'model_last')
    assert cli('--stage', 1, '--resume', 0) == 2 and '--reset' in capsys.readouterr().err
    assert cli('--stage', 1, '--resume', 7) == 2 and '1, 2' in capsys.readouterr().err
    assert equal(weights('stage1', 'model_last'), after_two)
    assert cli('--stage', 1, '--resume', 1) == 0                                     # epoch 2 again, from epoch 1
    assert equal(weights('stage1', 'model_last'), after_two)
    assert cli('--stage', 1, '--resume', 0, '--reset', '--epochs_sr', 1) == 0
    assert not equal(weights('stage1', 'model_last'), after_two)


@pytest.mark.parametrize('flags, said', [
    (['--stage', 2], 'stage1'),
    (['--stage', 2, '--pre_train', 'nowhere.pt'], 'nowhere.pt'),
    (['--stage', 1, '--dir_data', 'nowhere'], 'nowhere'),
    (['--stage', 1, '--data_train', 'Holidays'], 'Holidays'),
    (['--stage', 1, '--data_test', 'Set99'], 'Set99'),
    (['--stage', 1, '--patch_size', 64], 'a.png'),
    (['--stage', 1, '--scale', 5], '--scale'),
    (['--stage', 2, '--noise', '0.5'], '--noise'),
    (['--stage', 1, '--loss', '1*L7'], 'L7'),
    (['--stage', 1, '--start_epoch', 2], '--start_epoch 2'),
    (['--stage', 1, '--reset', '--resume', 1], 'contradict'),
    (['--stage', 1, '--device', 'cuda'], '--device cuda'),
    (['--stage', 4, '--test_only'], 'stage4'),
    (['--stage', 4, '--test_only', '--dir_demo', 'nowhere'], 'nowhere'),
])
def test_wrong_input_is_one_line_and_writes_nothing(cli, capsys, flags, said):
    if '--device' in flags and torch.cuda.is_available():
        pytest.skip('needs a machine without CUDA')
    assert cli(*flags) == 2
    captured = capsys.readouterr().err
    assert said in captured and captured.count('\n') == 1 and captured.startswith('error: ')
    assert not Path('experiment').exists()


def test_weights_of_another_stage_width_or_scale_are_refused(cli, capsys):
    assert cli('--stage', 1, '--epochs_sr', 1) == 0
    file = 'experiment/stage1_x2_bicubic_iso/model/model_last.pt'
    for flags, said in ((['--stage', 2, '--n_feats', 4], '--n_feats'), (['--stage', 2, '--scale', 4], '--scale'),
                        (['--stage', 4, '--test_only', '--pre_train_ST', file], 'another stage')):
        assert cli('--pre_train', file, *flags) == 2
        assert said in capsys.readouterr().err
    assert [path.name for path in Path('experiment').iterdir()] == ['stage1_x2_bicubic_iso']


def test_non_finite_loss_stops_training_and_keeps_the_last_epoch(cli, capsys):
    assert cli('--stage', 1, '--epochs_sr', 1) == 0
    good = weights('stage1', 'model_last')
    assert cli('--stage', 1, '--lr_sr', '1e30', '--accept_changes') == 2
    said = capsys.readouterr().err
    assert 'not finite' in said and '.png' in said
    assert equal(weights('stage1', 'model_last'), good)


def test_non_finite_weights_do_not_replace_good_ones(cli, capsys):
    flags = ['--test_every', 1, '--optimizer', 'SGD', '--weight_decay', '1e30']
    assert cli('--stage', 1, '--epochs_sr', 1, '--lr_sr', '1e-30', *flags) == 0
    good = weights('stage1', 'model_last')
    assert cli('--stage', 1, '--lr_sr', '1e30', '--accept_changes', *flags) == 2
    assert 'weights are not finite after step 1' in capsys.readouterr().err
    assert equal(weights('stage1', 'model_last'), good)


def test_a_training_that_diverges_stops_before_its_epoch_is_saved(cli, capsys, monkeypatch):
    assert cli('--stage', 1, '--epochs_sr', 1) == 0
    good = weights('stage1', 'model_last')
    monkeypatch.setattr('trainer.means', lambda tally: {'loss': 1e3})
    assert cli('--stage', 1) == 2
    said = capsys.readouterr().err
    assert said.count('error: ') == 1 and 'training diverged' in said and '--resume 1' in said
    assert equal(weights('stage1', 'model_last'), good)
    monkeypatch.undo()
    assert cli('--stage', 1) == 0


@pytest.mark.parametrize(('losses', 'encoder_epochs', 'since', 'stops'), [
    ([0.03, 0.02, 2.1], 0, 0, True), ([0.03, 0.02, 1.9], 0, 0, False), ([0.02, 5, 0.03], 0, 0, False),
    ([0.001, 0.05, 0.04], 1, 0, False), ([0.001, 0.04, 5], 1, 0, True), ([0.001, 5], 0, 1, False),
    ([math.nan, 0.02, 3], 0, 0, True), ([0.02, math.nan], 0, 0, False), ([], 0, 0, False)])
def test_divergence_is_told_from_losses_of_one_kind(losses, encoder_epochs, since, stops):
    history = History({'losses': {'loss': losses}}, since)
    with pytest.raises(UserError, match='diverged') if stops else nullcontext():
        history.check(encoder_epochs)


def test_accepted_changes_of_the_optimiser_take_effect(cli):
    assert cli('--stage', 1, '--epochs_sr', 1) == 0
    assert cli('--stage', 1, '--weight_decay', '0.5', '--beta1', '0.5', '--accept_changes') == 0
    state = load_checkpoint('experiment/stage1_x2_bicubic_iso/model/state_2.pt')
    optimizer = state['updates']['sr']['optimizer']
    group = optimizer['param_groups'][0]
    assert group['weight_decay'] == 0.5 and group['betas'] == (0.5, 0.999)
    assert optimizer['state'][0]['step'] == 6                            # the moments were kept


def test_refused_command_changes_no_files(cli, capsys):
    assert cli('--stage', 1) == 0
    model = Path('experiment/stage1_x2_bicubic_iso/model')
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    assert cli('--stage', 1, '--reset', '--pre_train', 'nowhere.pt') == 2
    assert cli('--stage', 1, '--resume', 1, '--n_feats', 4) == 2
    assert cli('--stage', 1, '--optimizer', 'SGD') == 2 and 'ADAM' in capsys.readouterr().err
    (model / 'state_1.pt').write_bytes(before['state_1.pt'][:-1])
    assert cli('--stage', 1, '--resume', 1) == 2 and 'damaged' in capsys.readouterr().err
    (model / 'state_1.pt').write_bytes(before['state_1.pt'])
    assert {path.name: path.read_bytes() for path in model.iterdir()} == before


def test_load_resumes_existing_runs_only(cli, capsys):
    assert cli('--stage', 1, '--epochs_sr', 1) == 0
    for name in ('typo', '../elsewhere', ''):
        assert cli('--stage', 1, '--load', name) == 2
    assert cli('--stage', 1, '--load', 'stage1_x2_bicubic_iso', '--reset') == 2
    capsys.readouterr()
    assert cli('--stage', 1, '--load', 'stage1_x2_bicubic_iso', '--save', 'other') == 0
    assert '--save has no effect here' in capsys.readouterr().out
    assert [path.name for path in Path('experiment').iterdir()] == ['stage1_x2_bicubic_iso']
    assert 'Resuming after epoch 1' in log_of('stage1')


def test_stage_all_starts_each_stage_from_the_one_before(cli):
    assert cli('--stage', 1, '--save', 'first', '--epochs_sr', 1) == 0
    file = 'experiment/first_x2_bicubic_iso/model/model_last.pt'
    assert cli('--stage', 'all', '--epochs_sr', 1, '--epochs_encoder', 0, '--pre_train', file) == 0
    assert file in log_of('stage1') and file not in log_of('stage2')
    assert 'stage1_x2_bicubic_iso/model/model_last.pt' in log_of('stage2')


def test_missing_file_of_a_later_stage_is_reported_first(cli, capsys):
    assert cli('--stage', 'all', '--pre_train_TA', 'nowhere.pt', '--reset') == 2
    assert 'nowhere.pt' in capsys.readouterr().err and not Path('experiment').exists()


def test_unsafe_pytorch_gives_a_warning_for_files_of_others(cli, monkeypatch, capsys):
    save_weights('student.pt', mrda.student(2, n_blocks=1))
    for version, warned in (('2.9.1+cpu', True), ('2.10.0', False)):
        monkeypatch.setattr(torch, '__version__', version)
        assert cli('--stage', 4, '--test_only', '--pre_train_ST', 'student.pt') == 0
        assert ('CVE-2025-32434' in capsys.readouterr().out) == warned


def test_losses_and_scores_are_at_their_epochs(cli):
    for stage in (1, 2, 3):
        assert cli('--stage', stage, '--epochs_sr', 1) == 0
    assert cli('--stage', 4, '--epochs_sr', 3, '--epochs_encoder', 1, '--start_epoch', 1) == 0
    history = load_checkpoint('experiment/stage4_x2_bicubic_iso/model/state_3.pt')['history']
    series = [values for kind in history.values() for values in kind.values()]
    assert len(series) == 6 and all(len(values) == 3 and math.isnan(values[0]) for values in series)


def test_photos_with_equal_names_and_with_16_bits(cli):
    save_weights('student.pt', mrda.student(2, n_blocks=1))
    deep = np.arange(24 * 20 * 3, dtype=np.uint16).reshape(24, 20, 3) * 40
    for name in ('in/a.png', 'in/a.tif', 'in/deeper/a.png'):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(name, deep)
    for _ in range(2):                     # results of the first call are not photos of the second
        assert cli('--stage', 4, '--pre_train_ST', 'student.pt', '--dir_demo', 'in', '--dir_out', 'in/out',
                   '--overwrite', '--chop') == 0
        results = sorted(path.relative_to('in/out').as_posix() for path in Path('in/out').rglob('*.png'))
        assert results == ['a.png_x2.png', 'a.tif_x2.png', 'deeper/a_x2.png']
    large = cv2.imread('in/out/deeper/a_x2.png', cv2.IMREAD_UNCHANGED)
    assert large.dtype == np.uint16 and large.shape == (48, 40, 3)


def test_weights_lost_in_a_kill_are_restored_from_the_checkpoint(cli):
    assert cli('--stage', 1) == 0
    file = Path('experiment/stage1_x2_bicubic_iso/model/model_last.pt')
    before = weights('stage1', 'model_last')
    file.unlink()
    assert cli('--stage', 1) == 0
    assert equal(weights('stage1', 'model_last'), before)


def test_photos_upscaled_into_their_own_folder(cli):
    save_weights('student.pt', mrda.student(2, n_blocks=1))
    clear = np.zeros((12, 10, 4), np.uint8)
    clear[..., 3] = 255
    Path('in').mkdir()
    assert cv2.imwrite('in/a.png', clear)
    for _ in range(2):
        assert cli('--stage', 4, '--pre_train_ST', 'student.pt', '--dir_demo', 'in', '--dir_out', 'in',
                   '--overwrite') == 0
        assert sorted(path.name for path in Path('in').iterdir()) == ['a.png', 'a_x2.png']
    assert (cv2.imread('in/a_x2.png', cv2.IMREAD_UNCHANGED)[..., 3] == 255).all()     # opaque stays opaque


def test_test_set_given_twice_is_refused(cli, capsys):
    assert cli('--stage', 1, '--data_test', 'Set2+Set2') == 2 and 'Set2' in capsys.readouterr().err


def test_batches_above_the_skip_threshold_are_skipped(cli):
    assert cli('--stage', 1, '--skip_threshold', '1e-9') == 0
    assert log_of('stage1').count('Skip this batch') == 3
    assert cli('--stage', 1, '--skip_threshold', '1e-9', '--epochs_sr', 4) == 0       # by the last epoch with a mean
    assert log_of('stage1').count('Skip this batch') == 9


@pytest.mark.parametrize('error, said', [
    (MemoryError(), 'out of memory'), (RuntimeError("can't allocate memory: 9 bytes"), 'after epoch 1, which is saved'),
    (OSError(2, 'No such file', 'gone.png'), 'gone.png'), (ValueError('a fault'), 'error: ValueError: a fault')])
def test_epoch_is_saved_before_its_test(cli, monkeypatch, capsys, error, said):
    assert cli('--stage', 1, '--save', 'whole') == 0
    with monkeypatch.context() as patch:
        def failing(*_):
            raise error
        patch.setattr(Tester, 'score', failing)
        assert cli('--stage', 1, '--save', 'parts') == 2
    assert said in capsys.readouterr().err.splitlines()[-1]
    assert not load_checkpoint('experiment/parts_x2_bicubic_iso/model/state_1.pt')['tested']
    assert cli('--stage', 1, '--save', 'parts') == 0
    whole, parts = (load_checkpoint(f'experiment/{save}_x2_bicubic_iso/model/state_2.pt')
                    for save in ('whole', 'parts'))
    assert same(whole['history'], parts['history']) and same(whole['networks'], parts['networks'])


def test_error_within_an_epoch_leaves_a_checkpoint(cli, monkeypatch, capsys):
    losses, calls = Stage1.losses, []

    def failing(*args):
        calls.append(1)
        if len(calls) == 3:
            raise ValueError('a fault of a loss')
        return losses(*args)
    monkeypatch.setattr(Stage1, 'losses', failing)
    assert cli('--stage', 1, '--save', 'parts') == 2
    assert 'a fault of a loss' in capsys.readouterr().err.splitlines()[-1]
    assert Path('experiment/parts_x2_bicubic_iso/model/state_0_2.pt').is_file()
    assert cli('--stage', 1, '--save', 'parts') == cli('--stage', 1, '--save', 'whole') == 0
    assert equal(weights('parts', 'model_last'), weights('whole', 'model_last'))


def test_frozen_networks_stay_in_eval_mode():
    stage = STAGES[4](parse([*SMALL, '--stage', '4']))
    stage.train()
    assert all(module.training for module in stage.student.modules()) and stage.training
    assert not any(module.training for frozen in (stage.teacher, stage.mln, stage.loss) for module in frozen.modules())
    stage.eval()
    assert not any(module.training for module in stage.modules())
