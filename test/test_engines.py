"""Every inference engine computes what PyTorch does, and one that is not installed is left out of the table."""
import engines
import numpy as np
import pytest
import torch

from model import mrda
from store.tensors import save_weights
from utility import UserError


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('weights') / 'student.pt'
    save_weights(path, mrda.student(2, 1))
    return str(path)


@pytest.mark.parametrize('name', engines.ENGINES)
def test_engines_agree(name, weights):
    if absent := engines.missing(name):
        pytest.skip(f'{", ".join(absent)} not installed')
    lq = np.random.RandomState(0).rand(1, 3, 18, 22).astype(np.float32)
    _, make, more = engines.ENGINES[name]
    run = make(weights, 1, **more)
    sr = run(lq)
    assert sr.shape == (1, 3, 36, 44) and sr.dtype == np.float32
    exact = engines.torch_engine(weights, 1)(lq)
    assert np.abs(sr - exact).max() < (0.05 if 'bf16' in name else 1e-4)
    if name == engines.SINGLE:
        assert (sr == exact).all()
    assert run(lq[..., :-3]).shape == (1, 3, 36, 38)


def test_table_of_engines(weights, monkeypatch, capsys):
    monkeypatch.setattr(engines, 'ENGINES', {engines.SINGLE: engines.ENGINES[engines.SINGLE],
                                             'another': (('absent_here',), None, {})})
    assert engines.main(['--weights', weights, '--lq', '8x9', '--rounds', '1', '--threads', '1']) == 0
    said = capsys.readouterr().out
    assert 'left out: another (not installed: absent_here)' in said
    assert '1 blocks, LR image of 8x9' in said and f'| {engines.SINGLE} |' in said and '| another |' not in said
    assert engines.main(['--rounds', '0']) == 2 and 'rounds' in capsys.readouterr().err


def test_an_engine_that_dies_is_told(weights, monkeypatch):
    monkeypatch.setattr(engines, 'serve', exit)
    with pytest.raises(UserError, match='ended early'):
        engines.Engine(engines.SINGLE, weights, 1, np.zeros((1, 3, 8, 8), np.float32))
