"""The examples of docs/extending.md: each trains, resumes bit for bit and tests; two ranks equal one process."""
import re
from pathlib import Path

import pytest
import torch
from ranks import extension, finish, printed
from survival import same

from store.tensors import load_checkpoint

PAGE = Path(__file__).parent.parent / 'docs' / 'extending.md'
EXAMPLES = dict(re.findall(r'^```python\n# (\w+\.py)\n(.*?)^```$', PAGE.read_text(), re.M | re.S))
FLAGS = {  # of a training that uses the example
    'gradient_error.py': ['--stage', '1', '--metrics', 'psnr_y,gradient'],
    'adversarial.py': ['--stage', '4', '--epochs_encoder', '0', '--ema', '0.5'],
    'features.py': ['--stage', '1', '--loss', 'L1+0.1*Features'],
    'attentive.py': ['--model', 'attentive', '--stage', '4', '--epochs_encoder', '0'],
    'other_mln.py': ['--model', 'other', '--stage', '3'],
}
BEFORE = {'attentive.py': '3', 'other_mln.py': '12'}  # the stages that must have run
STATE = 'experiment/{}_x2_bicubic_iso/model/state_{}.pt'


@pytest.fixture
def run(library, tmp_path):
    """run(example, *flags, size=1) in a folder of its own: the exit statuses of its ranks."""
    for name, text in EXAMPLES.items():
        (tmp_path / name).write_text(text)

    def start(name, *flags, size=1):
        return finish(tmp_path, size, extension, str(tmp_path / name), *FLAGS[name], '--dir_data', str(library),
                      '--n_resblocks', '1', *flags)
    return start


@pytest.mark.parametrize('name', FLAGS)
def test_resume_is_bit_identical(run, tmp_path, name):
    for stage in BEFORE.get(name, ''):
        assert run(name, '--stage', stage, '--epochs_sr', '1') == [0], printed(tmp_path)
    assert run(name, '--save', 'whole') == [0], printed(tmp_path)
    for epochs in '1', '2':
        assert run(name, '--save', 'parts', '--epochs_sr', epochs) == [0], printed(tmp_path)
    whole, parts = (load_checkpoint(tmp_path / STATE.format(save, 2)) for save in ('whole', 'parts'))
    assert all(same(whole[key], parts[key]) for key in ('networks', 'updates', 'ema', 'history'))
    assert run(name, '--save', 'parts', '--test_only') == [0], printed(tmp_path)


@pytest.mark.parametrize('name', ['adversarial.py', 'features.py'])
def test_two_ranks_equal_one_process(run, tmp_path, name):
    alike = ['--sig_min', '1', '--sig_max', '1', '--optimizer', 'SGD']  # ranks have different random numbers
    for size in 1, 2:
        assert run(name, *alike, '--save', f'size{size}', size=size) == [0] * size, printed(tmp_path)
    one, two = (load_checkpoint(tmp_path / STATE.format(f'size{size}', 2)) for size in (1, 2))
    for key, tensor in one['networks'].items():
        torch.testing.assert_close(two['networks'][key], tensor, atol=1e-6, rtol=1e-3)
    for name, losses in one['history']['losses'].items():
        assert losses == pytest.approx(two['history']['losses'][name], rel=1e-3), name


def test_each_update_trains_its_own_part_at_its_own_rate(run, tmp_path):
    assert run('adversarial.py', '--save', 'gan', '--epochs_sr', '1', '--test_every', '1') == [0], printed(tmp_path)
    state = load_checkpoint(tmp_path / STATE.format('gan', 1))
    assert state['updates'].keys() == {'sr', 'discriminator'}
    rates = [update['optimizer']['param_groups'][0]['lr'] for update in state['updates'].values()]
    assert rates == [1e-4, 5e-5]
    for update in state['updates'].values():
        moments = update['optimizer']['state'].values()
        assert moments and all(each['step'] == 1 for each in moments)
    assert {'loss', 'adversarial', 'discriminator loss'} == state['history']['losses'].keys()
