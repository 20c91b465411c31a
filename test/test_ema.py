"""The moving average of the weights: its equation, its use, and bit-identical resuming."""
import re
from pathlib import Path

import pytest
import torch
from ranks import finish
from ranks import train as train_ranks
from survival import same
from torch import nn

from optim.ema import EMA
from store.tensors import load_checkpoint, load_weights

MODEL = Path('experiment/stage1_x2_bicubic_iso/model')
FLAGS = ['--stage', 1, '--ema', 0.5, '--lr_sr', '1e-3']


def test_average_follows_its_equation():
    network = nn.Linear(3, 2)
    ema, expected = EMA(network, [network.weight], 0.9), network.weight.detach().clone()
    for _ in range(5):
        with torch.no_grad():
            network.weight.add_(torch.randn(2, 3))
        ema.update()
        expected = 0.9 * expected + 0.1 * network.weight.detach()
    assert ema.state_dict().keys() == {'weight'}
    torch.testing.assert_close(ema.state_dict()['weight'], expected)


def test_weights_are_restored_bit_for_bit_after_applying_the_average():
    network = nn.Linear(3, 2)
    ema, own = EMA(network, network.parameters(), 0.9), [p.clone() for p in network.parameters()]
    with torch.no_grad():
        network.weight.mul_(2)
    moved, average = network.weight.clone(), ema.state_dict()['weight'].clone()
    with pytest.raises(KeyError), ema.applied():
        assert torch.equal(network.weight, own[0])
        raise KeyError
    assert torch.equal(network.weight, moved) and torch.equal(ema.state_dict()['weight'], average)


def test_tests_and_weights_files_use_the_average_and_checkpoints_hold_both(cli):
    assert cli(*FLAGS, '--save_models') == 0
    state, kept = load_checkpoint(MODEL / 'state_2.pt'), load_weights(MODEL / 'model_last.pt')
    assert kept.keys() == {key.removeprefix('mln.') for key in state['networks'] if key.startswith('mln.')}
    for key, average in state['ema'].items():
        assert torch.equal(kept[key], average) and average.dtype == torch.float32
        assert not torch.equal(average, state['networks'][f'mln.{key}'])
    log = Path('experiment/stage1_x2_bicubic_iso/log.txt').read_text()
    lines = re.findall(r'^Set2 PSNR: (\d+\.\d{3}) SSIM: \d\.\d{4}( \(EMA\))?$', log, re.M)
    assert [suffix for _, suffix in lines] == ['', ' (EMA)'] * 2 and lines[2][0] != lines[3][0]
    assert state['history']['psnr_y'].keys() == {'Set2', 'Set2 (EMA)'}
    assert cli('--stage', 1, '--test_only') == 0
    scores = re.findall(r'^Set2 PSNR: (\S+)', Path('experiment/stage1_x2_bicubic_iso/log.txt').read_text(), re.M)
    assert scores[-1] == lines[3][0]                                    # the file holds the tested weights
    assert cli('--stage', 2, '--epochs_sr', 1) == 0
    started = load_checkpoint('experiment/stage2_x2_bicubic_iso/model/state_1.pt')
    assert 'model_last.pt' in Path('experiment/stage2_x2_bicubic_iso/log.txt').read_text() and not started['ema']


@pytest.mark.parametrize('precision', ['single', 'bf16', 'half'])
def test_resume_is_bit_identical(cli, precision):
    flags = [*FLAGS, '--precision', precision]
    assert cli(*flags, '--save', 'whole') == 0
    for epochs in 1, 2:
        assert cli(*flags, '--save', 'parts', '--epochs_sr', epochs) == 0
    whole, parts = (load_checkpoint(f'experiment/{name}_x2_bicubic_iso/model/state_2.pt')
                    for name in ('whole', 'parts'))
    assert all(same(whole[name], parts[name]) for name in ('ema', 'networks', 'updates'))
    assert all(average.dtype == torch.float32 for average in whole['ema'].values())


def test_changed_decay_needs_accept_changes_and_an_average_can_be_added(cli, capsys):
    assert cli('--stage', 1, '--epochs_sr', 1) == 0
    assert cli(*FLAGS) == 2 and '--ema was 0.0, is now 0.5' in capsys.readouterr().err
    assert cli(*FLAGS, '--accept_changes') == 0
    assert load_checkpoint(MODEL / 'state_2.pt')['ema']


def test_average_does_not_depend_on_the_number_of_ranks(tmp_path, library):
    flags = [*map(str, FLAGS), '--dir_data', str(library)]
    for size, folder in (1, tmp_path / 'one'), (2, tmp_path / 'two'):
        folder.mkdir()
        assert finish(folder, size, train_ranks, *flags) == [0] * size
    one, two = (load_checkpoint(tmp_path / name / MODEL / 'state_2.pt')['ema'] for name in ('one', 'two'))
    assert all(torch.allclose(one[key], two[key], atol=1e-5) for key in one)


@pytest.mark.curves
def test_curve_of_the_learning_rate_is_drawn(cli):
    assert cli(*FLAGS, '--decay_type', 'cosine', '--warmup', 2) == 0
    assert {'lr.png', 'lr.pdf'} <= {path.name for path in MODEL.parent.iterdir()}


def test_decay_can_be_appended_to_a_constant_rate(cli, capsys):
    assert cli('--stage', 1, '--epochs_sr', 1) == 0
    assert cli('--stage', 1, '--epochs_sr', 3, '--decay_type', 'linear_1') == 0
    assert '--decay_type was step, is now linear_1' in capsys.readouterr().out
    assert cli('--stage', 1, '--epochs_sr', 4, '--decay_type', 'linear_1') == 2       # epochs 2 and 3 would differ
    assert '--epochs_sr was 3, is now 4' in capsys.readouterr().err
