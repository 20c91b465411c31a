"""Every number on the command line has a range; training works at its ends; beyond them is an error of one line."""
import shlex

import pytest

import option
from utility import UserError


def parse(text):
    return option.parse(shlex.split(text))


NUMBERS = [row[0] for row in option.OPTIONS
           if isinstance(row, tuple) and getattr(row[2], '__name__', '') in ('int', 'float')]
EDGES = {  # least, just below, most, just above
    'seed': (0, -1, 2 ** 63 - 1, 2 ** 63), 'n_GPUs': (1, 0, 1024, 1025), 'n_threads': (0, -1, 256, 257),
    'dist_timeout': (1, 0.9, 604800, 604801), 'patch_size': (1, 0, 4096, 4097), 'blur_kernel': (1, -1, 999, 1001),
    'noise': (0, -0.1, 255, 256), 'sig': (0, 0.009, 100, 101), 'lambda_1': (0.01, 0.009, 100, 101),
    'theta': (-360, -361, 360, 361), 'n_feats': (1, 0, 4096, 4097), 'n_blocks': (1, 0, 1000, 1001),
    'n_resblocks': (1, 0, 1000, 1001), 'epochs_sr': (1, 0, 10 ** 6, 10 ** 7), 'test_every': (1, 0, 10 ** 7, 10 ** 8),
    'epochs_encoder': (0, -1, 10 ** 6, 10 ** 7), 'batch_size': (2, 0, 65536, 65538), 'task_iter': (1, 0, 1000, 1001),
    'meta_batch_size': (1, 0, 1024, 1025), 'test_iter': (1, 0, 1000, 1001), 'lr_sr': (1e-30, 1e-31, 1e30, 1e31),
    'lr_encoder': (1e-30, 0, 1e30, 1e31), 'lr_task': (1e-30, 0, 1e30, 1e31), 'lr_decay_sr': (1, 0, 10 ** 6, 10 ** 7),
    'gamma_sr': (1e-6, 0, 1, 1.1), 'momentum': (0, -0.1, 0.999999, 1), 'beta1': (0, -0.1, 0.999999, 1),
    'beta2': (0, -0.1, 0.999999, 1), 'epsilon': (1e-30, 0, 1, 1.1), 'weight_decay': (0, -1, 1e30, 1e31),
    'skip_threshold': (1e-30, 0, 1e30, 1e31), 'temperature': (0.001, 0.0009, 1000, 1001),
    'save_every_min': (0, -1, 10 ** 6, 10 ** 7), 'print_every': (1, 0, 10 ** 9, 10 ** 10),
}


@pytest.mark.parametrize('name', NUMBERS)
def test_every_number_has_bounds(name):
    for text in ('nan', 'inf', '-inf', '1e300', '-1e300', '9' * 5000, '', 'x', '0x10', '1;2'):
        with pytest.raises(UserError) as caught:
            parse(f"--stage 4 '--{name}={text}'")
        assert f'--{name}' in str(caught.value) and len(str(caught.value)) < 200


@pytest.mark.parametrize('name', EDGES)
def test_ranges_include_their_ends_and_nothing_beyond(name):
    low, below, high, above = EDGES[name]
    for value in (low, high):
        assert getattr(parse(f'--stage 2 --model mrda --{name}={value}'), name) in (value, 0)  # 0: encoder epochs
    for value in (below, above):
        with pytest.raises(UserError, match=f'--{name}: .* is not '):
            parse(f'--stage 2 --{name}={value}')


@pytest.mark.parametrize('flag', ['--blur_kernel=999', '--blur_kernel=1', '--sig_max=100', '--sig=0', '--lr_task=1e-30',
                                  '--patch_size=1', '--print_every=1000000000', '--epsilon=1e-30', '--seed=0'])
def test_training_at_the_ends_of_ranges(cli, flag):
    assert cli('--stage', 1, '--epochs_sr', 1) == 0
    assert cli('--stage', 2, '--epochs_sr', 1, '--test_every', 1, flag) == 0


@pytest.mark.parametrize('flag', ['--lr_sr=1e30', '--lr_task=1e30'])
def test_too_high_learning_rate_is_one_line(cli, flag, capsys):
    assert cli('--stage', 1, '--epochs_sr', 1) == 0
    assert cli('--stage', 2, '--epochs_sr', 1, flag) == 2
    error, = capsys.readouterr().err.splitlines()
    assert 'not finite' in error
