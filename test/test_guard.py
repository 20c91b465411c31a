"""Steps that the device judges and the host reads one step late, as on a GPU: here the CPU is made such a device."""
import copy
import os
import signal
from functools import partial
from pathlib import Path

import pytest
import torch
from ranks import finish, late, printed
from survival import same

import trainer
import trainer_stage5
from model import mrda
from model.discriminator import UNetDiscriminator
from optim import update
from optim.guard import Guard
from store.tensors import load_checkpoint, save_weights
from trainer_stage1 import Stage1
from trainer_stage5 import Stage5

FLAGS = ['--ema', '0.5', '--lr_sr', '1e-3', '--keep_states', '0', '--save_every_min', '0', '--stage', '1']
pytestmark = pytest.mark.skipif(torch.__version__.startswith('2.3.'), reason='PyTorch 2.3 has no fused Adam on CPUs')


@pytest.fixture
def both(cli, monkeypatch):
    """both(*flags) runs a training judged at once into the folder `now`, one judged late into `late`, and returns their
    exit statuses. plant: (stage, number, act); act(losses) changes the result of that call of losses(), from 0."""
    def run(*flags, plant=None):
        monkeypatch.setattr(update, 'DECIDING', {'cpu'})
        return [one(name, plant, flags) for name in ('now', 'late')]

    def one(name, plant, flags):
        def guard(group, stopper, able):
            assert able
            return Guard(group, stopper, name == 'late')

        with monkeypatch.context() as patch:
            patch.setattr(trainer, 'Guard', guard)
            if plant:
                patch.setattr(plant[0], 'losses', changed(*plant))
            return cli(*FLAGS, *flags, '--save', name)
    return run


def changed(stage, number, act):
    losses, calls = stage.losses, []

    def call(*args):
        calls.append(1)
        result = losses(*args)
        return act(result) if len(calls) - 1 == number else result
    return call


def times(factor):
    return lambda losses: {name: loss * factor for name, loss in losses.items()}


def states(name):
    """{file: checkpoint} of a run."""
    folder, = Path('experiment').glob(f'{name}_x2*')
    return {path.name: load_checkpoint(path) for path in (folder / 'model').glob('state_*.pt')}


def check_equal(count):
    """All checkpoints of both runs are the same, bit for bit."""
    now, late = states('now'), states('late')
    assert now.keys() == late.keys() and len(now) == count
    for name, state in now.items():
        for part in 'networks', 'updates', 'ema', 'tally', 'history', 'epoch', 'batch':
            assert same(state[part], late[name][part]), (name, part)


@pytest.mark.parametrize('optimizer', ['ADAM', 'Muon'])
def test_every_checkpoint_is_the_same(both, optimizer):
    assert both('--optimizer', optimizer) == [0, 0]
    check_equal(count=3)


def test_values_are_late_by_one_step_where_nothing_asks_for_them(both, monkeypatch):
    settled = []
    end = Guard.end

    def noted(self):
        outcomes = end(self)
        settled.append([outcome.number for outcome in outcomes])
        return outcomes
    monkeypatch.setattr(Guard, 'end', noted)
    assert both('--save_every_min', 5) == [0, 0]
    assert settled == [[0], [1], [2], [3], [4], [5], [], [0], [1], [], [3], [4]]   # the last ones at an epoch's end
    check_equal(count=2)


@pytest.mark.parametrize('flags', [[], ['--optimizer', 'Muon', '--weight_decay', '0.1']])
def test_a_loss_above_the_threshold_is_not_applied_and_does_not_move_the_average(both, capsys, flags):
    assert both(*flags, '--test_every', 1, plant=(Stage1, 1, times(1e9))) == [0, 0]
    assert capsys.readouterr().out.count('Skip this batch 1') == 2
    check_equal(count=3)
    before, after = (states('late')[name] for name in ('state_1.pt', 'state_2.pt'))
    assert all(same(before[part], after[part]) for part in ('networks', 'updates', 'ema'))


@pytest.mark.parametrize('flags', [[], ['--save_every_min', 5], ['--optimizer', 'Muon', '--save_every_min', 5]])
def test_what_is_not_finite_is_never_applied_and_its_step_is_named(both, capsys, flags):
    assert both(*flags, plant=(Stage1, 4, times(torch.nan))) == [2, 2]
    now, late = (line for line in capsys.readouterr().err.splitlines() if line.startswith('error: '))
    assert now == late and now.startswith('error: step 4: loss not finite, with patches of a.png')
    check_equal(count=1 if flags else 2)


def test_after_values_that_are_not_finite_nothing_more_is_applied(both, monkeypatch):
    weights = []

    def refuse(self, error):
        weights.append([p.detach().clone() for p in self.parameters()])
        raise KeyError(error.number)
    monkeypatch.setattr(trainer.Trainer, 'refuse', refuse)
    assert both('--save_every_min', 5, plant=(Stage1, 1, times(torch.nan))) == [2, 2]
    now, late = weights
    assert same(now, late)


def test_a_signal_stops_after_its_step_and_the_run_resumes(both, monkeypatch):
    def stop(losses):
        os.kill(os.getpid(), signal.SIGTERM)
        return losses
    assert both('--save_every_min', 5, plant=(Stage1, 4, stop)) == [75, 75]
    assert 'state_1_2.pt' in states('late')
    check_equal(count=2)
    assert both('--save_every_min', 5) == [0, 0]
    check_equal(count=3)


def test_a_scaled_gradient_that_overflows_is_left_out(both, monkeypatch):
    monkeypatch.setattr(torch.amp, 'GradScaler', partial(torch.amp.GradScaler, init_scale=2.0**25))
    assert both('--precision', 'half') == [0, 0]
    state = states('late')['state_2.pt']['updates']['sr']
    assert state['scaler']['scale'] < 2.0**25 and 0 < state['optimizer']['state'][0]['step'] < 6
    check_equal(count=3)


def test_two_updates_of_a_step_are_skipped_as_at_once(both, monkeypatch):
    """The student's update of the last step is forbidden. Late, the discriminator's is computed anyway."""
    save_weights('student.pt', mrda.student(2, n_blocks=1))
    discriminator = UNetDiscriminator(4)
    monkeypatch.setattr(trainer_stage5, 'build_discriminator', lambda args: copy.deepcopy(discriminator))
    flags = ['--stage', 5, '--distill', 0, '--loss', 'L1', '--pre_train_ST', 'student.pt', '--save_every_min', 5]
    assert both(*flags, '--test_every', 2, plant=(Stage5, 6, times(1e9))) == [0, 0]
    now, late = (states(name)['state_2.pt'] for name in ('now', 'late'))
    assert same(now['history'], late['history'])
    assert same(now['updates'], late['updates']) and same(now['ema'], late['ema'])
    for name, weight in now['networks'].items():
        if not name.endswith(('_u', '_v')):  # of spectral normalisation, which each pass refines
            assert torch.equal(weight, late['networks'][name]), name


def test_optimisers_that_take_no_veto_are_judged_at_once(cli, monkeypatch):
    monkeypatch.setattr(update, 'DECIDING', {'cpu'})
    able = []
    monkeypatch.setattr(trainer, 'Guard', lambda *args: able.append(args[-1]) or Guard(*args))
    assert cli(*FLAGS, '--optimizer', 'SGD', '--epochs_sr', 1) == 0 and able == [False]


def test_ranks_stop_together_though_they_hear_of_it_late(library, tmp_path):
    flags = ['--dir_data', str(library), *FLAGS, '--save_every_min', '5']
    assert finish(tmp_path, 2, late, *flags) == [75, 75], printed(tmp_path)
    assert list(tmp_path.glob('experiment/*/model/state_*.pt'))
